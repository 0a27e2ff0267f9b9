"""Questions that CEL asks of one claim, as CEL answers them.

Source: https://github.com/google/cel-spec, doc/langdef.md ("Equality", "Ordering", "List of Standard Definitions").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tallystick.compile.logic.formula import Value
from tallystick.compile.logic.tests import identity, is_number


@dataclass(frozen=True, slots=True)
class Ordered:
    """A number that is in some order with another; ``==`` is not here."""

    operator: str
    bound: int | float

    def holds(self, value: Value) -> bool:
        """Say whether ``value`` is a number in that order with the bound."""
        if not is_number(value):
            return False
        answers = {
            "<": value < self.bound,
            "<=": value <= self.bound,
            ">": value > self.bound,
            ">=": value >= self.bound,
        }
        return bool(answers[self.operator])

    def landmarks(self) -> Iterable[Value]:
        """Return the numbers around the bound."""
        return (
            self.bound - 1,
            self.bound,
            self.bound + 1,
            self.bound - 0.5,
            self.bound + 0.5,
            float(self.bound),
        )


@dataclass(frozen=True, slots=True)
class Number:
    """Any number."""

    def holds(self, value: Value) -> bool:
        """Say whether ``value`` is one."""
        return is_number(value)

    def landmarks(self) -> Iterable[Value]:
        """Return none beside the common ones."""
        return ()


@dataclass(frozen=True, slots=True)
class Text:
    """A text that stands in a relation with another: ``startsWith``, ``endsWith``, ``contains``; "" is any text."""

    relation: str
    part: str

    def holds(self, value: Value) -> bool:
        """Say whether ``value`` is a text of which that is true."""
        if not isinstance(value, str):
            return False
        if self.relation == "startsWith":
            return value.startswith(self.part)
        if self.relation == "endsWith":
            return value.endswith(self.part)
        return self.part in value

    def landmarks(self) -> Iterable[Value]:
        """Return texts with the part in every place."""
        part = self.part
        return (
            part,
            f"{part}\x1fother",
            f"\x1fother{part}",
            f"\x1fother{part}\x1fother",
            part[:-1],
            part[1:],
        )


@dataclass(frozen=True, slots=True)
class Size:
    """A text, list or object whose size is in some order with a number; without an order, one that has a size."""

    operator: str
    bound: int

    def holds(self, value: Value) -> bool:
        """Say whether ``value`` has a size of which that is true."""
        if not isinstance(value, str | list | dict):
            return False
        if not self.operator:
            return True
        size = len(value)
        answers = {
            "==": size == self.bound,
            "<": size < self.bound,
            "<=": size <= self.bound,
            ">": size > self.bound,
            ">=": size >= self.bound,
        }
        return bool(answers[self.operator])

    def landmarks(self) -> Iterable[Value]:
        """Return a text, a list and an object of each size that matters."""
        for size in range(min(self.bound + 2, 12)):
            yield from ("x" * size, [None] * size, {str(number): None for number in range(size)})


@dataclass(frozen=True, slots=True)
class EachText:
    """A list of texts, or an object, whose keys are texts."""

    def holds(self, value: Value) -> bool:
        """Say whether ``value`` is one."""
        return isinstance(value, list | dict) and all(isinstance(one, str) for one in value)

    def landmarks(self) -> Iterable[Value]:
        """Return lists with something else at either end."""
        return ([None, "x"], ["x", None])


@dataclass(frozen=True, slots=True)
class EachAmong:
    """A list or an object whose members are all among some texts."""

    members: tuple[str, ...]

    def holds(self, value: Value) -> bool:
        """Say whether ``value`` is one."""
        return isinstance(value, list | dict) and all(
            isinstance(one, str) and one in self.members for one in value
        )

    def landmarks(self) -> Iterable[Value]:
        """Return a list with each of them."""
        return tuple([member] for member in self.members)


@dataclass(frozen=True, slots=True)
class EqualTo:
    """A value that equals a literal as CEL has it: numbers by their value, and every other type with its own."""

    value: Any  # a literal that is no container, or the empty list

    def holds(self, value: Value) -> bool:
        """Say whether ``value`` is equal."""
        if self.value == ():
            return bool(value == [])
        if is_number(value) and is_number(self.value):
            return bool(value == self.value)
        return identity(value) == identity(self.value)

    def landmarks(self) -> Iterable[Value]:
        """Return the value; a number in its other form, too."""
        if self.value == ():
            return ([],)
        if is_number(self.value):
            return (self.value, float(self.value))
        return (self.value,)

    @property
    def points(self) -> bool:
        """It holds of its landmarks alone; a number has another form."""
        return self.value == () or not is_number(self.value)
