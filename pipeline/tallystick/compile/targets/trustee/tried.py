"""What a proof makes of the emitted Reference Values and texts: tuples to try, a few at a time."""

from __future__ import annotations

import base64
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from tallystick.compile.domain import Case
from tallystick.compile.targets.trustee import codec, rego
from tallystick.compile.targets.trustee.engines import Engine
from tallystick.compile.targets.trustee.simulate import Denied, appraisal, tcb_claims


def answer(engine: Engine, case: Case, version: str) -> dict[str, Any] | None:
    """Return the appraisal of ``case``; None when the attestation service would fail."""
    try:
        return appraisal(engine, tcb_claims(case, version))
    except Denied:
        return None


def named(submod: Mapping[str, Any], without: Container[str] = ()) -> set[str]:
    """Return the digests of the releases that an appraisal says matched, but for those of the policies ``without``."""
    found = submod.get(rego.EXTENSION_NAME, [])
    permits = [str(permit) for permit in (found if isinstance(found, list) else [found])]
    return {permit.rpartition(" ")[2] for permit in permits if permit.partition(" ")[0] not in without}


def strings(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value; names of members are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def claimlike(literals: list[str]) -> list[str]:
    """Return the texts that a register could hold, among everything that stands in the files."""
    return sorted({text for text in literals if 0 < len(text) <= 128 and " " not in text and "/" not in text})


def windows(values: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """Yield the Reference Values, ``size`` tuples at a time."""
    for name, rows in values.items():
        if isinstance(rows, list):
            for start in range(0, len(rows), size):
                yield {name: [row for row in rows[start : start + size] if isinstance(row, dict)]}


def claims_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Reference Value's tuple without its release."""
    return {path: value for path, value in row.items() if path != "release"}


def listed(rows: Any) -> list[Any]:
    """Return ``rows`` when they are a list, else as the only one."""
    return rows if isinstance(rows, list) else [rows]


def suspects(values: Mapping[str, Any], tees: Iterable[codec.Tee]) -> Iterator[Case]:
    """Yield everything in the RVPS that could be taken for a tuple, as evidence of each kind."""
    for name, rows in values.items():
        for row in rows if isinstance(rows, list) else [rows]:
            if isinstance(row, dict):
                for tee in tees:
                    claims = {path: _decoded(v, tee, path) for path, v in claims_of(row).items()}
                    yield Case(tee.kind, f"a tuple of the Reference Value {name}", claims)


def _decoded(value: Any, tee: codec.Tee, path: str) -> Any:
    """Return what stands in the RVPS as our claim."""
    if path in tee.places and tee.places[path].form is codec.Form.BASE64 and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True).hex()
        except ValueError:
            return value
    return value
