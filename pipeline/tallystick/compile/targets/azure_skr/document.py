"""A key release policy's JSON text, to a formula over the token's claims.

Source: Microsoft, "Azure Key Vault secure key release policy grammar". The grammar lists more operators than
``equals``, and says that ``equals`` alone works; anything else is unsupported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tallystick.compile.logic.formula import Atom, Formula, Value, every, some
from tallystick.compile.logic.tests import identity
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported

VERSION = "1.0.0"
AUTHORITY = "authority"  # the claim that stands for who issued the token
_WHAT = "key release policy"
_UNUSED = ("notEquals", "less", "lessOrEquals", "greater", "greaterOrEquals", "exists")
_MOST_DEPTH = 16
Literal = bool | int | float | str


class Reading(Enum):
    """How ``equals`` compares: Microsoft documents neither, and writes samples for both."""

    STRICT = "strict"  # true is not "true", 8 is not "8"
    LOOSE = "loose"  # a number or boolean and its text are equal, whatever the case of the text


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One claim that must be there and equal to a value."""

    claim: str  # dotted: "x-ms-isolation-tee.x-ms-attestation-type"
    equals: Literal
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Conditions of which all, or any, must hold. Never empty."""

    every: bool
    parts: tuple[Condition | Group, ...]
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Whose tokens are taken, and under which conditions."""

    url: str
    group: Group


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasePolicy:
    """One release policy: any of its authorities."""

    authorities: tuple[Authority, ...]


class Equals:
    """A claim that equals a value, in one reading or the other."""

    __slots__ = ("reading", "value")

    def __init__(self, value: Literal, reading: Reading) -> None:
        self.value, self.reading = value, reading

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equals) and self._mark == other._mark

    def __hash__(self) -> int:
        return hash(self._mark)

    @property
    def _mark(self) -> tuple[Any, Reading]:
        return identity(self.value), self.reading

    @property
    def points(self) -> bool:
        """Read strictly, it holds of its value alone."""
        return self.reading is Reading.STRICT

    @property
    def folded(self) -> tuple[str, ...]:
        """Every value that it holds of has this text, in some case."""
        return (_text(self.value),)

    def holds(self, value: Value) -> bool:
        """Say whether the claim's ``value`` is equal."""
        if self.reading is Reading.STRICT:
            return identity(value) == identity(self.value)
        if isinstance(value, str) == isinstance(self.value, str):
            return identity(value) == identity(self.value)
        return isinstance(value, bool | int | float | str) and _text(value) == _text(self.value)

    def landmarks(self) -> Iterable[Value]:
        """Return the value, and its text."""
        return (self.value, _text(self.value))


def _text(value: Literal) -> str:
    return str(value).lower()


def read(data: bytes) -> ReleasePolicy:
    """Return the release policy that ``data`` is.

    Raises:
        Malformed: not JSON, an unknown field, an empty list, or both anyOf and allOf.
        Unsupported: another version, or an operator beside ``equals``.
    """
    value = jsondoc.loads(data, _WHAT, max_bytes=16 << 20)
    fields = _object(value, "policy", ("version", "anyOf"))
    if fields["version"] != VERSION:
        raise Unsupported(_WHAT, at="version", want=VERSION, got=str(fields["version"]))
    rows = _list(fields["anyOf"], "anyOf")
    return ReleasePolicy(authorities=tuple(_authority(row, f"anyOf[{n}]") for n, row in enumerate(rows)))


def formula(policy: ReleasePolicy, reading: Reading) -> Formula:
    """Return of which tokens the policy lets the key go."""
    return some(
        every([Atom(AUTHORITY, Equals(one.url, Reading.STRICT)), _group(one.group, reading)])
        for one in policy.authorities
    )


def conditions(policy: ReleasePolicy) -> Iterable[Condition]:
    """Yield every condition, in order."""
    left: list[Condition | Group] = [one.group for one in reversed(policy.authorities)]
    while left:
        found = left.pop()
        if isinstance(found, Condition):
            yield found
        else:
            left.extend(reversed(found.parts))


def claim_of(token: Mapping[str, Any], path: str) -> Any:
    """Return the claim at a dotted path of a token; KeyError when it is not there."""
    if path in token:
        return token[path]
    outer, dot, rest = path.partition(".")
    if not dot or not isinstance(token.get(outer), dict):
        raise KeyError(path)
    return claim_of(token[outer], rest)


def _group(group: Group, reading: Reading) -> Formula:
    parts = (
        Atom(part.claim, Equals(part.equals, reading))
        if isinstance(part, Condition)
        else _group(part, reading)
        for part in group.parts
    )
    return every(parts) if group.every else some(parts)


def _authority(row: Any, at: str) -> Authority:
    fields = _object(row, at, ("authority", "anyOf", "allOf"), most=2)
    url = fields.pop("authority", None)
    if not isinstance(url, str) or not url.startswith("https://"):
        raise Malformed(_WHAT, at=f"{at}.authority", want="an https address", got=repr(url))
    return Authority(url=url, group=_conditions(fields, at, 1))


def _conditions(fields: dict[str, Any], at: str, depth: int) -> Group:
    if len(fields) != 1 or depth > _MOST_DEPTH:
        raise Malformed(_WHAT, at=at, want="anyOf or allOf", got=", ".join(fields) or "neither")
    ((kind, rows),) = fields.items()
    parts = tuple(
        _condition(row, f"{at}.{kind}[{n}]", depth) for n, row in enumerate(_list(rows, f"{at}.{kind}"))
    )
    return Group(every=kind == "allOf", parts=parts, where=f"{at}.{kind}")


def _condition(row: Any, at: str, depth: int) -> Condition | Group:
    if isinstance(row, dict) and "claim" in row:
        for name in _UNUSED:
            if name in row:
                raise Unsupported(_WHAT, at=at, want="equals, which alone works", got=name)
        fields = _object(row, at, ("claim", "equals"), least=2)
        if not isinstance(fields["claim"], str) or not fields["claim"]:
            raise Malformed(_WHAT, at=f"{at}.claim", want="a claim's name", got=repr(fields["claim"]))
        if not isinstance(fields["equals"], bool | int | float | str):
            raise Malformed(
                _WHAT, at=f"{at}.equals", want="a text, number or boolean", got=repr(fields["equals"])
            )
        return Condition(claim=fields["claim"], equals=fields["equals"], where=at)
    return _conditions(_object(row, at, ("anyOf", "allOf"), most=1), at, depth + 1)


def _object(value: Any, at: str, names: tuple[str, ...], *, most: int = 0, least: int = 0) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(_WHAT, at=at, want="an object", got=type(value).__name__)
    for name in value:
        if name not in names:
            raise Malformed(_WHAT, at=at, want="one of " + ", ".join(names), got=name)
    if len(value) > (most or len(names)) or len(value) < (least or most or len(names)):
        raise Malformed(_WHAT, at=at, want="exactly the fields of its kind", got=", ".join(value))
    return dict(value)


def _list(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise Malformed(_WHAT, at=at, want="a list that is not empty", got=repr(value))
    return value
