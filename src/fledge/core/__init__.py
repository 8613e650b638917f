"""What every other package stands on: errors, nouns, typed config, files, device, log."""
