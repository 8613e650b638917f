"""Rows from files, nouns from rows, curation, packing and batch streams."""
