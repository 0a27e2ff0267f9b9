"""Appraisal policies of Intel Trust Authority: Rego v1 without comments, and of ten built-in functions one.

Source: Intel Trust Authority, "Attestation policies V2": ``match`` decides, other rules do not; a policy is below
10 KB; the built-in functions are ``time.now_ns``, ``time.parse_rfc3339_ns``, ``time.add_date``,
``object.subset`` and ``count``; the operators ``== = > >= < <= :=``. ``in``, ``!=`` and ``is_number`` are none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from tallystick.compile.targets.common.view import Row
from tallystick.compile.targets.intel_ita.claims import BYTES, NAMES, Where
from tallystick.core.expect import AtLeast, Exactly, Expect, NoneOf, OneOf
from tallystick.policy.constraints import Constraint, constraints
from tallystick.policy.normal import PlatformRule

_WINDOW = 256  # how many whole numbers from a minimum on are listed
_ON_A_LINE = 32
_SECOND = 1_000_000_000
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def says(kind: str, path: str, expect: Expect) -> bool:
    """Say whether the language has words for ``expect`` of a claim."""
    if isinstance(expect, NoneOf):
        return all(isinstance(value, str) for value in expect.values)
    if isinstance(expect, AtLeast):
        return expect.minimum >= 0 and not (path in BYTES and expect.minimum > 255)
    return isinstance(expect, Exactly | OneOf)


def policy(
    rows: Sequence[Row], rules: Sequence[PlatformRule], ends: datetime, summary: dict[str, object]
) -> str:
    """Return one policy that matches the rows' tuples on machines that meet their platform's rule."""
    used = [rule for rule in rules if any(row.platform == rule.platform for row in rows)]
    return "\n".join(_lines(rows, used, ends, summary))


def _lines(
    rows: Sequence[Row], rules: Sequence[PlatformRule], ends: datetime, summary: dict[str, object]
) -> Iterator[str]:
    yield from ("import rego.v1", "", "default match := false", "", "now_ns := time.now_ns()", "")
    yield from (f"in_time if now_ns <= {int(ends.timestamp()) * _SECOND}", "")
    for window in _windows(rules):
        parts = [",".join(map(str, window[at : at + _ON_A_LINE])) for at in range(0, len(window), _ON_A_LINE)]
        listed = ",\n".join(parts)
        yield from (f"{_listed(window)} := {{{listed}}}", "")
    for number, rule in enumerate(rules):
        yield from _machine(number, rule)
    numbers = {rule.platform: number for number, rule in enumerate(rules)}
    for row in rows:
        yield "match if {"
        yield f"machine_{numbers[row.platform]}"
        yield from (
            f"{reference(NAMES[row.kind][path])} == {json.dumps(value)}" for path, value in row.pinned
        )
        yield from ("}", "")
    yield f"export := {json.dumps({'tallystick': summary}, sort_keys=True, indent=0)}"
    yield ""


def _windows(rules: Sequence[PlatformRule]) -> list[range]:
    """Return the lists of whole numbers that the rules ask for, each once."""
    found = {
        window(one.path, one.expect.minimum)
        for rule in rules
        for one in constraints(rule)
        if isinstance(one.expect, AtLeast)
    }
    return sorted(found, key=lambda window: (window.start, window.stop))


def _machine(number: int, rule: PlatformRule) -> Iterator[str]:
    """What is asked of every machine of a platform; each alternative is a rule of its own."""
    conditions: list[str] = ["in_time", "not input.nvgpu"]
    helpers: list[str] = []
    for index, one in enumerate(constraints(rule)):
        name = f"asked_{number}_{index}"
        condition, lines = _condition(name, reference(NAMES[rule.evidence_kind][one.path]), one)
        conditions += condition
        helpers += lines
    yield from helpers
    yield from (f"machine_{number} if {{", *conditions, "}", "")


def _condition(name: str, claim: str, one: Constraint) -> tuple[list[str], list[str]]:
    """Return the conditions in the rule, and the rules that they name."""
    expect = one.expect
    if isinstance(expect, Exactly):
        return [f"{claim} == {json.dumps(expect.value)}"], []
    if isinstance(expect, OneOf):
        return [name], [*(f"{name} if {claim} == {json.dumps(value)}" for value in expect.values), ""]
    if isinstance(expect, AtLeast):
        # A text is greater than every number and 8.5 is no version: only listed whole numbers are found.
        listed = window(one.path, expect.minimum)
        return [f"{_listed(listed)}[{claim}]"], []
    if isinstance(expect, NoneOf):
        # Texts lie between "" and every list; what is denied is a rule, so that `not` is asked of something known.
        denied = [f"{name} if {claim} == {json.dumps(value)}" for value in expect.values]
        return [f'{claim} >= ""', f"{claim} < []", f"not {name}"], [*denied, ""]
    raise ValueError(f"{type(expect).__name__} has no words here")


def beyond(path: str, expect: Expect, value: object) -> bool:
    """Say whether ``value`` is more than the numbers that are listed for a minimum: refused until compiled again."""
    if not isinstance(expect, AtLeast) or not isinstance(value, int):
        return False
    return value >= window(path, expect.minimum).stop


def _listed(window: range) -> str:
    return f"from_{window.start}_to_{window.stop - 1}"


def window(path: str, minimum: int) -> range:
    return range(minimum, 256) if path in BYTES else range(minimum, minimum + _WINDOW)


def reference(where: Where) -> str:
    """Return how a policy names a claim."""
    return "input" + "".join(
        f".{name}" if _PLAIN.fullmatch(name) else f"[{json.dumps(name)}]" for name in where
    )
