"""``tally measure nitro-tpm``: PCR 4, 7 and 12 of a unified kernel image that a machine boots from its disk."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from tallystick.cli.output import JsonFlag, emit

_MAX_IMAGE_BYTES = 1 << 30


class Bank(Enum):
    """The bank of the TPM; NitroTPM attests the one of SHA-384."""

    SHA256 = "sha256"
    SHA384 = "sha384"


def register(app: typer.Typer) -> None:
    """Add the command to ``tally measure``."""
    app.command("nitro-tpm")(nitro_tpm)


def nitro_tpm(
    file: Annotated[Path, typer.Argument(help="The unified kernel image on the disk's EFI partition.")],
    pk: Annotated[
        Path | None, typer.Option("--pk", "--PK", help="Variable PK (EFI signature list): Secure Boot is on.")
    ] = None,
    kek: Annotated[Path | None, typer.Option("--kek", "--KEK", help="Variable KEK.")] = None,
    db: Annotated[Path | None, typer.Option("--db", help="Variable db.")] = None,
    dbx: Annotated[Path | None, typer.Option("--dbx", help="Variable dbx.")] = None,
    bank: Annotated[Bank, typer.Option(help="Bank of the TPM.")] = Bank.SHA384,
    explain: Annotated[bool, typer.Option("--explain", help="Print every event.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """NitroTPM: PCR 4, 7 and 12 of a UKI booted from a disk, with the machine's Secure Boot variables."""
    from tallystick.cli import measure_steps
    from tallystick.core.digests import Algorithm
    from tallystick.core.files import read_file
    from tallystick.formats import esl
    from tallystick.formats import uki as uki_format
    from tallystick.measure import nitro_tpm as calculator
    from tallystick.measure.registers import replay
    from tallystick.measure.steps import of_events

    given = {"pk": pk, "kek": kek, "db": db, "dbx": dbx}
    variables = calculator.SecureBoot(
        **{
            name: read_file(path, f"variable {name}", max_bytes=esl.MAX_BYTES) if path is not None else b""
            for name, path in given.items()
        }
    )
    algorithm = Algorithm[bank.name]
    image = uki_format.parse(read_file(file, "UKI", max_bytes=_MAX_IMAGE_BYTES))
    events = calculator.events(image, variables, algorithm)
    registers = replay(events, algorithm=algorithm)
    document: dict[str, Any] = {f"pcr{number}": registers[number].hex for number in calculator.REGISTERS}
    lines = [f"PCR {number:>2}  {registers[number].hex}" for number in calculator.REGISTERS]
    if explain:
        steps = of_events(events, algorithm, "PCR ")
        document["steps"] = measure_steps.document(steps)
        lines = [*measure_steps.lines(steps), "", *lines]
    emit(document, "\n".join(lines), as_json=as_json)
