"""Text ⇄ tokens: the byte-pair tokenizer and the chat template."""
