"""``tally init``: a work directory with everything that the embedded defaults need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.output import JsonFlag, command_app, emit, progress

if TYPE_CHECKING:
    from tallystick.signing.records import Trust

app = command_app()


@app.command()
def init(
    workdir: Annotated[
        Path | None,
        typer.Option(
            "--workdir", help="Where to make it. Default: $TALLY_HOME, else ~/.local/share/tallystick."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a trust file, an embedded Sigstore, signing identities, an in-toto layout and empty channels.

    What is there already stays as it is: a second run says what there is.
    """
    from tallystick.cli import clock
    from tallystick.cli import workdir as workdirs
    from tallystick.signing import trust as trust_file

    folder = workdirs.place(workdir)
    notes: tuple[str, ...] = ()
    there = (folder / "trust.json").is_file()
    if there:
        trust = trust_file.load(folder / "trust.json")
    else:
        progress(f"making {', '.join(workdirs.PARTS)} in {folder}")
        made = workdirs.make(folder, clock.now())
        trust, notes = made.trust, made.notes
    document = _document(folder, trust, notes, made=not there)
    emit(document, _words(document, made=not there), as_json=as_json)


def _document(folder: Path, trust: Trust, notes: tuple[str, ...], *, made: bool) -> dict[str, Any]:
    from tallystick.signing import people

    names = sorted(path.parent.name for path in folder.glob("people/*/person.json"))
    described = [(name, *people.describe(folder, name)) for name in names]
    return {
        "workdir": str(folder),
        "made": made,
        "label": trust.label,
        "trust": str(folder / "trust.json"),
        "people": [
            {"name": name, "san": identity.san, "issuer": identity.issuer, "builder_id": builder_id}
            for name, identity, builder_id in described
        ],
        "channels": [name for name, _ in trust.channels],
        "endorsers": [endorser.label for endorser in trust.endorsers],
        "notes": list(notes),
    }


def _words(document: dict[str, Any], *, made: bool) -> str:
    lines = [
        f"{'made' if made else 'there is already'} a work directory in {document['workdir']}",
        f"  trust file   {document['trust']} ({document['label']}: for development)",
        f"  channels     {', '.join(document['channels'])}",
        f"  endorsers    {', '.join(document['endorsers']) or 'none'}",
        "  people",
    ]
    for person in document["people"]:
        claims = f", may claim {person['builder_id']}" if person["builder_id"] else ""
        lines.append(f"    {person['name']:<12} {person['san']}{claims}")
    lines += [f"  note: {note}" for note in document["notes"]]
    return "\n".join(lines)
