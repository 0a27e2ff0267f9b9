"""Write the pages that come from the program itself: docs/reference.md and docs/exit-codes.md.

``make docs`` runs it; tests/test_docs.py fails when a page differs from what this writes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent


def exit_codes() -> str:
    """Return the page of exit codes."""
    from tallystick.core.errors import Exit

    rows = "".join(f"| {int(code)} | {code.name} | {code.meaning} |\n" for code in Exit)
    return (
        "# Exit codes\n\nMade from `pipeline/tallystick/core/errors.py` by `make docs`.\n\n"
        "| code | name | what it tells the caller |\n|---|---|---|\n" + rows + "\n"
        "With `--json`, an error is also one JSON document on stdout:\n\n"
        '```json\n{"error": {"code": "<stable-code>", "exit": 6, "message": "…",\n'
        '           "findings": [{"code": "…", "where": "…", "want": "…", "got": "…", "message": "…"}]}}\n'
        "```\n\n"
        "Ctrl-C ends a command with 130 (128 + SIGINT), and nothing half-written stays behind.\n"
    )


def reference() -> str:
    """Return the page of commands: each one's own ``--help``, in the order of ``tally --help``."""
    os.environ["COLUMNS"] = "100"
    os.environ["TERMINAL_WIDTH"] = "100"
    import typer.main

    from tallystick.cli.app import app

    root: Any = typer.main.get_command(app)
    parts = ["# Command reference\n\nMade from the program's own help by `make docs`.\n"]

    def describe(command: Any, words: list[str], parent: Any) -> None:
        context = command.make_context(words[-1], [], parent=parent, resilient_parsing=True)
        context.info_name = words[-1]
        help_text = command.get_help(context).strip()
        parts.append(f"\n## {' '.join(words)}\n\n```text\n{help_text}\n```\n")
        if hasattr(command, "list_commands"):
            for name in command.list_commands(context):
                describe(command.get_command(context, name), [*words, name], context)

    describe(root, ["tally"], None)
    return "".join(parts)


PAGES = {"reference.md": reference, "exit-codes.md": exit_codes}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")
