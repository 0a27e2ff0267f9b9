"""``tally measure nvidia``: what a GPU or a switch must report, out of NVIDIA's signed RIM files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tallystick.cli.output import JsonFlag, emit


def register(app: typer.Typer) -> None:
    """Add the command to ``tally measure``."""
    app.command()(nvidia)


def nvidia(
    files: Annotated[
        list[Path], typer.Argument(help="RIM files: of a GPU's driver and VBIOS, or a switch's.")
    ],
    at: Annotated[
        str | None, typer.Option(help="The instant to judge the signatures at (RFC 3339); now by default.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """NVIDIA GPU or NVSwitch: the reference values that NVIDIA signed, and the claims a policy asks for."""
    from tallystick.cli import clock
    from tallystick.core.files import read_file
    from tallystick.evidence import nvidia as verifier
    from tallystick.formats import safexml
    from tallystick.measure import nvidia as calculator

    moment = clock.at(at)
    verified = [
        verifier.manifest(read_file(path, "RIM", max_bytes=2 * safexml.MAX_BYTES), moment) for path in files
    ]
    found = calculator.reference_values([(one.rim, one.digest) for one in verified])
    measurements = {str(m.index): [value.hex() for value in m.values] for m in found.measurements}
    document: dict[str, Any] = {
        "kind": found.kind,
        "complete": found.complete,
        "rims": [
            {
                "product": one.rim.product,
                "source": one.rim.source,
                "version": one.rim.version,
                "digest": str(one.digest),
                "valid_until": one.chain.not_after.isoformat(),
            }
            for one in verified
        ],
        "measurements": measurements,
        "claims": dict(found.claims),
    }
    lines = [f"{one.rim.product} {one.rim.source} {one.rim.version}  {one.digest}" for one in verified]
    lines += [f"{index:>3}  {' or '.join(values)}" for index, values in measurements.items()]
    lines += ["a policy asks for:", *(f"  {name}: {value}" for name, value in found.claims)]
    if not found.complete:
        lines.append(
            "note: a GPU has two RIMs, its driver's and its VBIOS's; one is missing for measres: success"
        )
    emit(document, "\n".join(lines), as_json=as_json)
