"""Formulas: what a policy asks of claims, without the policy's language."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class _Absent:
    """The value of a claim that is not there. Not null: a claim can be there and be null."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()
Value = Any  # a JSON value, or ABSENT


class Test(Protocol):
    """A question about one claim's value. Hashable: equal questions are one."""

    def holds(self, value: Value) -> bool:
        """Answer it. Total: every JSON value, and ABSENT, has an answer."""

    def landmarks(self) -> Iterable[Value]:
        """Return values such that any other value is answered as one of the common ones is (space.COMMON)."""


@dataclass(frozen=True, slots=True)
class Atom:
    """One question about one claim."""

    path: str
    test: Test


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds; without parts: true."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Any_:
    """Some part holds; without parts: false."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Formula


Formula = Atom | All | Any_ | Not
TRUE: Formula = All(())
FALSE: Formula = Any_(())


def every(parts: Iterable[Formula]) -> Formula:
    """Return the conjunction of ``parts``, without parts that are true."""
    found = tuple(part for part in parts if part != TRUE)
    return FALSE if FALSE in found else found[0] if len(found) == 1 else All(found)


def some(parts: Iterable[Formula]) -> Formula:
    """Return the disjunction of ``parts``, without parts that are false."""
    found = tuple(part for part in parts if part != FALSE)
    return TRUE if TRUE in found else found[0] if len(found) == 1 else Any_(found)


def negated(part: Formula) -> Formula:
    """Return what holds when ``part`` does not."""
    if isinstance(part, Not):
        return part.part
    return FALSE if part == TRUE else TRUE if part == FALSE else Not(part)


def evaluate(formula: Formula, claims: Mapping[str, Value]) -> bool:
    """Return whether ``formula`` holds of ``claims``; a claim that is not in the mapping is absent."""
    match formula:
        case Atom(path, test):
            return test.holds(claims.get(path, ABSENT))
        case All(parts):
            return all(evaluate(part, claims) for part in parts)
        case Any_(parts):
            return any(evaluate(part, claims) for part in parts)
        case Not(part):
            return not evaluate(part, claims)


def atoms(formula: Formula) -> Iterator[Atom]:
    """Yield every question in ``formula``, as often as it stands there."""
    left = [formula]
    while left:
        found = left.pop()
        match found:
            case Atom():
                yield found
            case All(parts) | Any_(parts):
                left.extend(parts)
            case Not(part):
                left.append(part)
