"""What a policy may expect of a claim. There is no member that means "anything"."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Exactly:
    """Only this value, of this type: ``True`` is not ``1`` and ``"1"`` is neither."""

    value: bool | int | str


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these values. Empty means that nothing is accepted."""

    values: tuple[bool | int | str, ...]


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A number that is this or more."""

    minimum: int


@dataclass(frozen=True, slots=True)
class Waived:
    """Not checked, by a named decision, and only until a date."""

    decision: str  # where the decision is written down: "docs/decisions/0004-pcr-10.md"
    decided_by: str
    until: datetime


Expect = Exactly | OneOf | AtLeast | Waived
