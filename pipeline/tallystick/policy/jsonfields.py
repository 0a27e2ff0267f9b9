"""The fields of our own JSON documents, taken one by one; what nobody took is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, TypeVar

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed
from tallystick.core.expect import (
    AtLeast,
    AtLeastVersion,
    Exactly,
    Excludes,
    Expect,
    Includes,
    NoneOf,
    OneOf,
    Only,
    Waived,
    version_of,
)

MOST_INTEGER = 2**53 - 1  # RFC 8785 writes no larger one exactly
_Record = TypeVar("_Record")
_LISTS: dict[str, Callable[[tuple[str, ...]], Expect]] = {
    "only": Only,
    "includes": Includes,
    "excludes": Excludes,
}
KINDS = ("exactly", "one_of", "none_of", "at_least", "at_least_version", *_LISTS, "waived")


class JsonFields:
    """A JSON object. Every error names the document, the field's path, and what stands there."""

    __slots__ = ("_at", "_left", "_what")

    def __init__(self, value: Any, what: str, at: str = "document") -> None:
        if not isinstance(value, dict):
            raise Malformed(what, at=at, want="an object", got=type(value).__name__)
        self._what, self._at, self._left = what, at, dict(value)

    def has(self, name: str) -> bool:
        """Whether the optional field is there and was not taken yet."""
        return name in self._left

    def take(self, name: str) -> Any:
        """Return the value of a required field."""
        if name not in self._left:
            raise Malformed(self._what, at=f"{self._at}.{name}", want="this field", got="nothing")
        return self._left.pop(name)

    def text(self, name: str) -> str:
        """Return a text that is not empty."""
        value = self.take(name)
        if not isinstance(value, str) or not value:
            raise self.bad(name, want="a text", got=value)
        return value

    def integer(self, name: str, *, least: int) -> int:
        """Return a whole number from ``least`` to ``MOST_INTEGER``."""
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST_INTEGER:
            raise self.bad(name, want=f"a whole number of at least {least}", got=value)
        return value

    def digest(self, name: str) -> Digest:
        """Return a digest."""
        return Digest.parse(self.text(name))

    def time(self, name: str) -> datetime:
        """Return an instant in UTC and whole seconds."""
        text = self.text(name)
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", text):
            try:
                return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
            except ValueError:
                pass
        raise self.bad(name, want="a time in UTC such as 2027-01-31T00:00:00Z", got=text)

    def day(self, name: str) -> date:
        """Return a day."""
        text = self.text(name)
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            try:
                return date.fromisoformat(text)
            except ValueError:
                pass
        raise self.bad(name, want="a day such as 2027-01-31", got=text)

    def scalars(self, name: str) -> tuple[bool | int | str, ...]:
        """Return a list of at least one text, whole number or boolean, all of one type, in order, each once."""
        found = tuple(self._scalar(name, value) for value in self.items(name))
        if not found or len({type(value) for value in found}) != 1 or list(found) != sorted(set(found)):
            raise self.bad(name, want="at least one value, all of one type, in order, each once", got=found)
        return found

    def items(self, name: str) -> list[Any]:
        """Return a list."""
        value = self.take(name)
        if not isinstance(value, list):
            raise self.bad(name, want="a list", got=value)
        return value

    def rows(
        self, name: str, make: Callable[[JsonFields], _Record], order: Callable[[_Record], Any]
    ) -> tuple[_Record, ...]:
        """Return a list of records that stand in their one order, each once."""
        found = []
        for index, value in enumerate(self.items(name)):
            fields = JsonFields(value, self._what, f"{self._at}.{name}[{index}]")
            found.append(make(fields))
            fields.end()
        marks = [order(record) for record in found]
        if marks != sorted(set(marks)):
            raise self.bad(name, want="entries in order, each once", got=marks)
        return tuple(found)

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts that stand in order, each once."""
        found = self.items(name)
        if not all(isinstance(value, str) and value for value in found) or found != sorted(set(found)):
            raise self.bad(name, want="texts in order, each once", got=found)
        return tuple(found)

    def expectations(self, name: str) -> tuple[tuple[str, Expect], ...]:
        """Return an object of expectations by claim path, sorted."""
        value = self.take(name)
        if not isinstance(value, dict):
            raise self.bad(name, want="an object", got=value)
        found = []
        for path in sorted(value):
            if not path:
                raise self.bad(name, want="claim names", got="an empty one")
            fields = JsonFields(value[path], self._what, f"{self._at}.{name}.{path}")
            found.append((path, fields.expect()))
            fields.end()
        return tuple(found)

    def expect(self) -> Expect:
        """Return the one expectation that this object is."""
        kinds = [kind for kind in KINDS if kind in self._left]
        if len(kinds) != 1:
            got = ", ".join(sorted(self._left)) or "nothing"
            raise Malformed(self._what, at=self._at, want="one of " + ", ".join(KINDS), got=got)
        kind = kinds[0]
        if kind == "waived":
            return self._waived()
        if kind == "at_least":
            return AtLeast(self.integer("at_least", least=-MOST_INTEGER))
        if kind == "at_least_version":
            text = self.text(kind)
            if version_of(text) is None:
                raise self.bad(kind, want="a version such as 590.12", got=text)
            return AtLeastVersion(text)
        if kind == "exactly":
            return Exactly(self._scalar(kind, self.take(kind)))
        if kind in _LISTS:
            return _LISTS[kind](self.texts(kind))
        values = tuple(self._scalar(kind, value) for value in self.items(kind))
        if not values or len({(type(value), value) for value in values}) != len(values):
            raise self.bad(kind, want="at least one value, each once", got=values)
        return OneOf(values) if kind == "one_of" else NoneOf(values)

    def _scalar(self, name: str, value: Any) -> bool | int | str:
        if isinstance(value, int | str) and (isinstance(value, str) or abs(value) <= MOST_INTEGER):
            return value
        raise self.bad(name, want="a text, whole number or boolean", got=value)

    def _waived(self) -> Waived:
        fields = JsonFields(self.take("waived"), self._what, f"{self._at}.waived")
        waived = Waived(fields.text("decision"), fields.text("decided_by"), fields.time("until"))
        fields.end()
        return waived

    def end(self) -> None:
        """Refuse what nobody took."""
        for name in self._left:
            raise Malformed(self._what, at=f"{self._at}.{name}", want="a known field", got="an unknown one")

    def bad(self, name: str, *, want: str, got: object) -> Malformed:
        """Return the error for the field ``name``; the caller raises it."""
        return Malformed(self._what, at=f"{self._at}.{name}", want=want, got=repr(got))
