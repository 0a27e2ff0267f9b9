"""What a command prints: one JSON document on stdout with ``--json``, words otherwise; progress on stderr."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from tallystick.core.errors import TallystickError


def command_app(words: str = "") -> typer.Typer:
    """Return the Typer that every command file makes its ``app`` with.

    A file with one command decorates one function with ``@app.command()``; a file with a group of commands
    passes the group's help here, which also keeps a group of one a group.
    """
    app = typer.Typer(
        help=words or None,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        no_args_is_help=bool(words),
    )
    if words:
        app.callback(help=words)(lambda: None)
    return app


JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def emit(document: Any, words: str, *, as_json: bool) -> None:
    """Print a command's result: ``document`` with ``--json``, else ``words``."""
    if as_json:
        import json

        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(words.rstrip("\n") + "\n")
    sys.stdout.flush()


def progress(words: str) -> None:
    """Say on stderr what is being done."""
    sys.stderr.write(words + "\n")
    sys.stderr.flush()


def emit_error(error: TallystickError, *, as_json: bool) -> None:
    """Print ``error`` with all its findings: on stdout as JSON with ``--json``, else on stderr."""
    if as_json:
        emit(error.document(), "", as_json=True)
        return
    sys.stderr.write(f"error: {error.message}  [{error.code}]\n")
    for finding in error.findings:
        sys.stderr.write(f"  - {finding.message}  [{finding.code}]\n")
    sys.stderr.flush()
