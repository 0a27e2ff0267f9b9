"""What a policy may expect of a claim. There is no member that means "anything".

No member is met by a claim that is absent, null, or of another type: ``True`` is not ``1`` and ``"8"`` is not 8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

Scalar = bool | int | str
_VERSION = re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,9}){0,7}")


@dataclass(frozen=True, slots=True)
class Exactly:
    """Only this value, of this type."""

    value: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these values. Empty means that nothing is accepted."""

    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class NoneOf:
    """Any value of the type of these, but not one of them. Never empty."""

    values: tuple[Scalar, ...]  # all of one type


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A number that is this or more."""

    minimum: int


@dataclass(frozen=True, slots=True)
class AtLeastVersion:
    """A text of numbers with dots between them that is this version or a later one: "590.12" before "590.100"."""

    minimum: str


@dataclass(frozen=True, slots=True)
class Only:
    """A list of texts in which nothing else stands than these. Empty means that the list must be empty."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Includes:
    """A list of texts in which each of these stands."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Excludes:
    """A list of texts in which none of these stands."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Waived:
    """Not checked, by a named decision, and only until a date."""

    decision: str  # where the decision is written down: "docs/decisions/0004-pcr-10.md"
    decided_by: str
    until: datetime


Expect = Exactly | OneOf | NoneOf | AtLeast | AtLeastVersion | Only | Includes | Excludes | Waived


def version_of(text: object) -> tuple[int, ...] | None:
    """Return the numbers of a version, without zeros at the end ("1.0" is "1"); None when it is none."""
    if not isinstance(text, str) or not _VERSION.fullmatch(text):
        return None
    numbers = [int(part) for part in text.split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
