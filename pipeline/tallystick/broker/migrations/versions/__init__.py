"""One file for each step, named ``NNNN_what.py``; ``revision`` is its number."""
