"""What a proof makes of the emitted Reference Values and texts: tuples to try, a few at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tallystick.compile.domain import Case
from tallystick.compile.targets.trustee.engines import Engine
from tallystick.compile.targets.trustee.simulate import Denied, appraisal, tcb_claims
from tallystick.core.expect import Exactly
from tallystick.policy.normal import Tuple


def answer(engine: Engine, case: Case) -> dict[str, Any] | None:
    """Return the appraisal of ``case``; None when the attestation service would fail."""
    try:
        return appraisal(engine, tcb_claims(case))
    except Denied:
        return None


def named(submod: Mapping[str, Any]) -> set[str]:
    """Return the releases that an appraisal says matched."""
    found = submod.get("ear.tallystick.releases", [])
    return set(map(str, found)) if isinstance(found, list) else {str(found)}


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


def row_of(entry: Tuple) -> str:
    """Return what makes a tuple itself: its pinned claims, as one text."""
    return json.dumps(pinned(entry), sort_keys=True)


def pinned(entry: Tuple) -> dict[str, bool | int | str]:
    """Return the claims that a tuple pins to one value."""
    return {path: expect.value for path, expect in entry.expect if isinstance(expect, Exactly)}


def listed(rows: Any) -> list[Any]:
    """Return ``rows`` when they are a list, else as the only one."""
    return rows if isinstance(rows, list) else [rows]


def suspects(values: Mapping[str, Any]) -> Iterator[Case]:
    """Yield everything in the RVPS that could be taken for a tuple, as evidence."""
    for name, rows in values.items():
        for row in rows if isinstance(rows, list) else [rows]:
            if isinstance(row, dict):
                yield Case("tpm-quote", f"a tuple of the Reference Value {name}", claims_of(row))
