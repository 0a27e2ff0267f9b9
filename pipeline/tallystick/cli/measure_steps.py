"""How the steps of a measurement are printed by ``tally measure … --explain``: one line each, the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tallystick.measure.steps import Step


def document(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """Return the steps as JSON: what was measured, where, how much of it, and the value after it."""
    return [
        {"what": one.what, "where": one.where, "pages": one.count, "input": one.digest, "value": one.value}
        for one in steps
    ]


def lines(steps: Sequence[Step]) -> list[str]:
    """Return the steps for people: place, amount, digest of what was measured, value after it, name."""
    widest = max((len(one.where) for one in steps), default=0)
    made = []
    for one in steps:
        amount = f"{one.count:7d}" if one.count is not None else " " * 7
        made.append(f"{one.where:{widest}}  {amount}  {_short(one.digest)}  {_short(one.value)}  {one.what}")
    return made


def _short(value: str) -> str:
    return f"{value[:16]}…" if value else " " * 17
