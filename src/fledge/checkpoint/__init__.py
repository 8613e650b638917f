"""Hugging Face directories in and out, and the state that an interrupted job goes on from. No pickles anywhere."""
