"""Why two measurements differ: the causes that were found, and what stays unexplained. Nothing here guesses.

A cause is named only when it was seen to account for values: by putting one side's input in the place of the other's
and predicting again, or by an event log that replays to the registers, or by a search that hit the very digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from tallystick.core.digests import Digest


class Where(Enum):
    """Whose input a cause is."""

    IMAGE = "image"  # built, signed and released
    HOST = "host"  # chosen by who starts the guest


class How(Enum):
    """How a cause is known."""

    INPUTS = "inputs"  # one input replaced, and the prediction moved
    LOG = "event log"  # events of a log that replays to the registers
    REGISTERS = "registers"  # which of them differ, where each covers a part of its own
    SEARCH = "search"  # a launch shape whose prediction is the value that was seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One input that differs, and the values that it moves."""

    where: Where
    kind: str  # "component", "file", "vcpus", "firmware", …
    name: str
    before: str
    after: str
    moves: tuple[str, ...]  # names of values: ("pcr04", "pcr09"); sorted
    how: How
    files: tuple[str, ...] = ()  # of a component: "initramfs: usr/lib/python3/…"
    inputs: tuple[str, ...] = ()  # derivations and sources of the build that differ with it

    @property
    def words(self) -> str:
        """The cause as one line for people."""
        change = f"{self.before or 'none'} -> {self.after or 'none'}" if self.before or self.after else ""
        files = f" ({len(self.files)} file{'s' if len(self.files) != 1 else ''})" if self.files else ""
        said = f"{self.kind} {self.name}" if self.name != self.kind else self.kind
        return f"{self.where.value}: {said}{': ' if change else ''}{change}{files}"

    def document(self) -> dict[str, Any]:
        """The cause as ``--json`` prints it."""
        return {
            "where": self.where.value,
            "kind": self.kind,
            "name": self.name,
            "before": self.before or None,
            "after": self.after or None,
            "moves": list(self.moves),
            "how": self.how.value,
            "files": list(self.files),
            "inputs": list(self.inputs),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Unexplained:
    """Values that differ, and why no cause is named for them."""

    values: tuple[str, ...]
    reason: str

    def document(self) -> dict[str, Any]:
        """The values as ``--json`` prints them."""
        return {"values": list(self.values), "reason": self.reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One launch whose values differ, with everything that was found."""

    platform: str
    before: tuple[tuple[str, int | str], ...]  # launch shape
    after: tuple[tuple[str, int | str], ...]  # equal to ``before`` where the host's shape is not known
    values: tuple[tuple[str, str, str], ...]  # (name, before, after); "" where one side has none
    causes: tuple[Cause, ...]
    unexplained: tuple[Unexplained, ...]
    besides: tuple[str, ...] = ()  # what differs too, and may follow from the causes or stand beside them

    def document(self) -> dict[str, Any]:
        """The change as ``--json`` prints it."""
        return {
            "platform": self.platform,
            "shape": {"before": dict(self.before), "after": dict(self.after)},
            "values": {name: {"before": a or None, "after": b or None} for name, a, b in self.values},
            "causes": [cause.document() for cause in self.causes],
            "unexplained": [one.document() for one in self.unexplained],
            "besides": list(self.besides),
        }


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[tuple[str, str, str], ...]:
    """Return (name, before, after) of every value that differs, sorted by name."""
    return tuple(
        (name, before.get(name, ""), after.get(name, ""))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def left_over(values: Iterable[str], causes: Sequence[Cause], reason: str) -> tuple[Unexplained, ...]:
    """Return the ``values`` that no cause moves, as unexplained for ``reason``; nothing when there are none."""
    moved = {name for cause in causes for name in cause.moves}
    rest = tuple(sorted(set(values) - moved))
    return (Unexplained(values=rest, reason=reason),) if rest else ()


def merged(causes: Iterable[Cause]) -> tuple[Cause, ...]:
    """Return ``causes`` with each named once, with all that it moves; the order of the first naming stays."""
    found: dict[tuple[Any, ...], Cause] = {}
    for cause in causes:
        key = (cause.where, cause.kind, cause.name, cause.before, cause.after)
        known = found.get(key)
        moves = cause.moves if known is None else tuple(sorted({*known.moves, *cause.moves}))
        found[key] = replace(known or cause, moves=moves)
    return tuple(found.values())


def short(digest: Digest | None) -> str:
    """Return a digest as a cause carries it; "" for none."""
    return "" if digest is None else str(digest)
