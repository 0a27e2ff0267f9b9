"""One module per target language."""
