"""The command line: `fledge raise`, one command per stage, `chat` and `generate`."""
