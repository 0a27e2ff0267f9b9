"""The finite domain of a claim: values in which every combination of answers to its questions occurs.

Of each claim these are in it: absent; null, both booleans, numbers, texts, lists and objects that no question
names; every value that a question names, its other spellings (upper case, a number or boolean as a text, a text
that is a number as one, a list around it) and the numbers next to a bound; and of lists that questions are asked
about, every subset of the members they name, with and without one that they do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

from tallystick.compile.logic.formula import ABSENT, Formula, Test, Value, atoms
from tallystick.compile.logic.tests import identity

OTHER_TEXT = "\x1fother"  # a text that no document names: U+001F stands in none
OTHER_NUMBER = 1_000_003
_MOST_MEMBERS = 8  # of lists: their subsets are all in the domain

COMMON: tuple[Value, ...] = (
    ABSENT, None, OTHER_TEXT, "", True, False, 0, 1, -1, OTHER_NUMBER, 0.5, 1.0,
    [], [OTHER_TEXT], [None], {}, {OTHER_TEXT: OTHER_TEXT},
)  # fmt: skip


class TooManyMembers(ValueError):
    """A list claim is asked for more members than the domain has room for."""


class Space:
    """The domain of one claim. The first value is ``ABSENT``."""

    __slots__ = ("_folded", "_index", "path", "values")

    def __init__(self, path: str, tests: Iterable[Test]) -> None:
        self.path = path
        self.values: list[Value] = []
        self._index: dict[tuple[str, Any], int] = {}
        self._folded: dict[str, list[int]] = {}
        for value in COMMON:
            self._add(value)
        members: dict[str, None] = {}
        for test in tests:
            for value in test.landmarks():
                self._add(value)
                for near in _spellings(value) if getattr(test, "spelled", True) else ():
                    self._add(near)
                if isinstance(value, list):
                    members |= dict.fromkeys(one for one in value if isinstance(one, str))
        for value in _lists(list(members)):
            self._add(value)

    def _add(self, value: Value) -> None:
        mark = identity(value)
        if mark not in self._index:
            self._index[mark] = len(self.values)
            if isinstance(value, bool | int | float | str):
                self._folded.setdefault(str(value).lower(), []).append(len(self.values))
            self.values.append(value)

    def meeting(self, test: Test) -> list[int]:
        """Return the places of the values of which ``test`` holds.

        A test may say that it holds of its landmarks alone (``points``), or of spellings of some texts alone
        (``folded``), a number's and a boolean's among them, so that not every value must be asked about.
        """
        if getattr(test, "points", False):
            return sorted({self._index[identity(v)] for v in test.landmarks() if test.holds(v)})
        folded = getattr(test, "folded", None)
        if folded is not None:
            near = {place for text in folded for place in self._folded.get(text.lower(), ())}
            return sorted(place for place in near if test.holds(self.values[place]))
        return [place for place, value in enumerate(self.values) if test.holds(value)]


def spaces(formulas: Iterable[Formula]) -> dict[str, Space]:
    """Return the domain of every claim that any of ``formulas`` asks about, sorted by path."""
    tests: dict[str, dict[Test, None]] = {}
    for formula in formulas:
        for atom in atoms(formula):
            tests.setdefault(atom.path, {})[atom.test] = None
    return {path: Space(path, tests[path]) for path in sorted(tests)}


def _spellings(value: Value) -> Iterator[Value]:
    """Other values that say nearly the same, each of which some engine has taken for it."""
    if isinstance(value, bool):
        yield from (str(value).lower(), str(value), int(value), not value)
    elif isinstance(value, int | float):
        yield from (str(value), value + 1, value - 1)
    elif isinstance(value, str) and value:
        yield from (value.upper(), value.lower(), [value], value[:-1], value + "0")
        if value.lower() in ("true", "false"):
            yield value.lower() == "true"
        elif value.isascii() and value.isdigit() and len(value) < 16:
            yield int(value)


def _lists(members: list[str]) -> Iterator[Value]:
    if len(members) > _MOST_MEMBERS:
        raise TooManyMembers(f"{len(members)} members are asked for; the domain has room for {_MOST_MEMBERS}")
    for size in range(len(members) + 1):
        for chosen in combinations(members, size):
            if chosen:
                yield list(chosen)
                yield [*chosen, None]
                yield dict.fromkeys(chosen, OTHER_TEXT)
            yield [*chosen, OTHER_TEXT]
