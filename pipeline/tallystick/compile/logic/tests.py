"""Questions that several languages ask: typed equality, membership, order, and lists of texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tallystick.compile.logic.formula import ABSENT, Value
from tallystick.core.expect import version_of

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def identity(value: Value) -> tuple[str, Any]:
    """Return ``value`` so that True, 1, "1" and 1.0 are four things, and lists and objects can be compared."""
    if isinstance(value, list | dict):
        return (type(value).__name__, json.dumps(value, sort_keys=True))
    return (type(value).__name__, value)


def is_number(value: Value) -> bool:
    """Say whether ``value`` is a JSON number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Present:
    """The claim is there, whatever it is."""

    def holds(self, value: Value) -> bool:
        return value is not ABSENT

    def landmarks(self) -> Iterable[Value]:
        return ()


@dataclass(frozen=True, slots=True)
class OfType:
    """The claim is there and of one of these JSON types."""

    types: tuple[str, ...]  # "str", "int", "bool", "float", "list", "dict", "NoneType"

    def holds(self, value: Value) -> bool:
        return value is not ABSENT and type(value).__name__ in self.types

    def landmarks(self) -> Iterable[Value]:
        return ()


class Among:
    """The claim is one of these values, each with its type. A point test: it holds of its landmarks alone."""

    __slots__ = ("_held", "values")
    points = True

    def __init__(self, *values: Value) -> None:
        self.values = values
        self._held = frozenset(map(identity, values))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Among) and self._held == other._held

    def __hash__(self) -> int:
        return hash(self._held)

    def __repr__(self) -> str:
        return f"Among{self.values!r}"

    def holds(self, value: Value) -> bool:
        return identity(value) in self._held

    def landmarks(self) -> Iterable[Value]:
        return self.values


@dataclass(frozen=True, slots=True)
class AtLeastNumber:
    """The claim is a number of at least ``minimum``; with ``whole``, a whole one (not even 8.0)."""

    minimum: int
    whole: bool = True

    def holds(self, value: Value) -> bool:
        if self.whole and not isinstance(value, int):
            return False
        return is_number(value) and value >= self.minimum

    def landmarks(self) -> Iterable[Value]:
        edge = self.minimum
        return (edge - 1, edge, edge + 1, edge - 0.5, float(edge), edge + 0.5)


@dataclass(frozen=True, slots=True)
class Prefixed:
    """The claim is a text that begins so."""

    prefix: str

    def holds(self, value: Value) -> bool:
        return isinstance(value, str) and value.startswith(self.prefix)

    def landmarks(self) -> Iterable[Value]:
        return (self.prefix, f"{self.prefix}\x1fother", self.prefix[:-1])


@dataclass(frozen=True, slots=True)
class AtLeastVersion:
    """The claim is a text of numbers and dots that is this version or a later one."""

    minimum: str

    def holds(self, value: Value) -> bool:
        got, least = version_of(value), version_of(self.minimum)
        return got is not None and least is not None and got >= least

    def landmarks(self) -> Iterable[Value]:
        return ("0", self.minimum, f"{self.minimum}.1", "999999999")


@dataclass(frozen=True, slots=True)
class Contains:
    """A member stands in a list, or is a key of an object: what CEL's ``in`` asks."""

    member: str

    def holds(self, value: Value) -> bool:
        return isinstance(value, list | dict) and any(
            isinstance(one, str) and one == self.member for one in value
        )

    def landmarks(self) -> Iterable[Value]:
        return ([self.member],)  # space.py makes the subsets


@dataclass(frozen=True, slots=True)
class Texts:
    """A list, each of whose members is a text."""

    def holds(self, value: Value) -> bool:
        """Say whether ``value`` is one."""
        return isinstance(value, list) and all(isinstance(one, str) for one in value)

    def landmarks(self) -> Iterable[Value]:
        """Return lists with something else at either end."""
        return ([None, "x"], ["x", None])


@dataclass(frozen=True, slots=True)
class NotAfter:
    """An instant, RFC 3339 in UTC and whole seconds, that is not after another."""

    end: str

    def holds(self, value: Value) -> bool:
        """Say whether ``value`` is one."""
        return isinstance(value, str) and _INSTANT.fullmatch(value) is not None and value <= self.end

    def landmarks(self) -> Iterable[Value]:
        """Return the instants around it."""
        at = datetime.strptime(self.end, _TIME).replace(tzinfo=UTC)
        yield self.end
        if at.year < 9999:
            yield from ((at + timedelta(seconds=step)).strftime(_TIME) for step in (-1, 1))


@dataclass(frozen=True, slots=True)
class OnlyOf:
    """A list, each of whose members is one of these texts."""

    members: tuple[str, ...]

    def holds(self, value: Value) -> bool:
        return isinstance(value, list) and all(isinstance(one, str) and one in self.members for one in value)

    def landmarks(self) -> Iterable[Value]:
        return tuple([member] for member in self.members)
