"""Bytes to values: parsers and writers of published formats. No trust decisions, no I/O."""
