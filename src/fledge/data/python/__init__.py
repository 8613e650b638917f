"""The embedded source: the Python installation itself, as text to learn from and as facts to ask about."""
