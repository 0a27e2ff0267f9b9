"""Tallystick: keys leave only when the signed build and the attested machine tally."""

__version__ = "0.1.0.dev0"
