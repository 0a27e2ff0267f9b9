"""Digests, errors with exit codes, findings, expectations, and files written whole. Standard library only."""
