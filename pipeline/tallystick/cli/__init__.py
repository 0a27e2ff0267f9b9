"""The command line: one file per command; the only package that composes the others."""

from __future__ import annotations


def main() -> None:
    """Run ``tally``. The entry point of the installed command."""
    from tallystick.cli.quick import main as run

    run()
