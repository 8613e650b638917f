"""One Transformer by axes; no family names here."""
