"""``tally audit``: what is permissive about a policy that nobody compiled here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.output import JsonFlag, command_app, emit

if TYPE_CHECKING:
    from tallystick.compile.audit.records import Audited

app = command_app()
_MOST_BYTES = 16 << 20


@app.command()
def audit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy, in its broker's own language.")],
    reference_values: Annotated[
        Path | None,
        typer.Option(
            "--reference-values",
            help="What was released: a JSON file, see docs/audit.md. Default: not compared.",
        ),
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", help="The policy's language. Default: recognised.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say how somebody else's policy gives keys to who was not meant: with evidence that shows it, and the fix.

    Exit 6 when a permissive path is found, 4 when no known language is recognised.
    """
    from tallystick.compile.audit import audit as audited
    from tallystick.compile.audit.errors import Permissive
    from tallystick.compile.audit.reference import read
    from tallystick.core.files import read_file

    data = read_file(file, "policy", max_bytes=_MOST_BYTES)
    reference = None
    if reference_values is not None:
        reference = read(read_file(reference_values, "reference values", max_bytes=_MOST_BYTES))
    found = audited(data, file.name, reference, language)
    if found.paths:
        raise Permissive(str(file), found)
    emit(_document(file, found), _words(found), as_json=as_json)


def _document(file: Path, found: Audited) -> dict[str, Any]:
    return {
        "file": str(file),
        "language": found.language,
        "released": found.released,
        "accepted": found.accepted,
        "paths": [],
        "limits": list(found.limits),
    }


def _words(found: Audited) -> str:
    return "\n".join([found.words, *(f"  not seen here: {limit}" for limit in found.limits)])
