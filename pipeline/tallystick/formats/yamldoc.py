"""YAML that people write, read strictly: places kept, one spelling of each type, nothing that expands.

Source: YAML 1.2, core schema, without the parts that surprise. A plain ``true`` or ``false`` is a boolean, a
plain decimal is an integer, everything else is text: ``no``, ``on``, ``010`` and ``12:30:00`` stay what they
look like. Anchors, aliases, tags, several documents and duplicate keys are refused; ``<<`` is a plain name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tallystick.core.errors import Malformed

MAX_BYTES = 256 << 10  # a policy or recipe is a page or two; the parser is not fast
MAX_DEPTH = 16
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in the file: both count from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line} column {self.column}"


@dataclass(frozen=True, slots=True)
class Node:
    """One value and its place. ``value`` is None, bool, int, str, ``list[Node]`` or ``dict[str, Node]``."""

    value: Any
    place: Place
    keys: dict[str, Place] = field(default_factory=dict)  # of a mapping: where each key stands


def read(data: bytes, what: str) -> Node:
    """Return the one document of the YAML text ``data``.

    Args:
        what: names the document in errors.

    Raises:
        Malformed: not UTF-8, not YAML, or something this reader does not take; the error names the place.
    """
    if len(data) > MAX_BYTES:
        raise Malformed(what, at="size", want=f"at most {MAX_BYTES} bytes", got=f"{len(data)}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Malformed(what, at=f"line {line}", want="UTF-8", got=error.reason) from None
    return _document(_events(text, what), what)


def _events(text: str, what: str) -> Iterator[Any]:
    import yaml

    try:
        yield from yaml.parse(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = str(_place(mark)) if mark else "text"
        raise Malformed(what, at=at, want="YAML", got=error.problem or "something else") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Malformed(what, at=f"line {line}", want="printable text", got=error.reason) from None
    except ValueError as error:  # a malformed %YAML directive or escape that PyYAML does not catch itself
        raise Malformed(what, at="text", want="YAML", got=str(error)) from None


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _document(events: Iterator[Any], what: str) -> Node:
    """Build the tree while it is parsed: PyYAML takes quadratic time over what ``MAX_DEPTH`` cuts off."""
    import yaml

    roots: list[Node] = []
    stack: list[_Open] = []
    for event in events:
        place = _place(event.start_mark)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise Malformed(what, at=str(place), want="each value written out", got="an anchor or alias")
        if isinstance(event, yaml.DocumentStartEvent) and roots:
            raise Malformed(what, at=str(place), want="one document", got="a second one")
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            _check_tag(event.tag, what, place)
            if len(stack) == MAX_DEPTH:
                raise Malformed(what, at=str(place), want=f"at most {MAX_DEPTH} levels", got="more")
            stack.append(_Open(place, mapping=isinstance(event, yaml.MappingStartEvent)))
            continue
        if isinstance(event, yaml.ScalarEvent):
            _check_tag(event.tag, what, place)
            node = Node(_scalar(event), place)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            node = stack.pop().close()
        else:
            continue
        if stack:
            stack[-1].add(node, what)
        else:
            roots.append(node)
    if not roots:
        raise Malformed(what, at="document", want="a document", got="nothing")
    return roots[0]


class _Open:
    """A mapping or sequence whose end has not been read yet."""

    __slots__ = ("_key", "_keys", "_map", "_place", "_values")

    def __init__(self, place: Place, *, mapping: bool) -> None:
        self._map: dict[str, Node] | None = {} if mapping else None
        self._values: list[Node] = []
        self._keys: dict[str, Place] = {}
        self._key: Node | None = None
        self._place = place

    def add(self, node: Node, what: str) -> None:
        if self._map is None:
            self._values.append(node)
        elif self._key is None:
            if not isinstance(node.value, str):
                raise Malformed(what, at=str(node.place), want="a name as the key", got=shown(node))
            if node.value in self._map:
                raise Malformed(
                    what, at=str(node.place), want="each key once", got=f"a second {node.value!r}"
                )
            self._key = node
        else:
            self._keys[self._key.value] = self._key.place
            self._map[self._key.value] = node
            self._key = None

    def close(self) -> Node:
        return Node(self._values if self._map is None else self._map, self._place, self._keys)


def _check_tag(tag: str | None, what: str, place: Place) -> None:
    if tag is not None:
        raise Malformed(what, at=str(place), want="no tags", got=tag)


def _scalar(event: Any) -> bool | int | str | None:
    text: str = event.value
    if event.style is not None:  # quoted, or a block: always text
        return text
    if text in {"true", "false"}:
        return text == "true"
    if text in {"", "~", "null"}:
        return None
    return int(text) if _INTEGER.fullmatch(text) else text


def shown(node: Node) -> str:
    """Return ``node`` as an error shows it: what kind of value, and which when it is short."""
    value = node.value
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if value is None:
        return "nothing"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)


class Fields:
    """A mapping whose fields are taken one by one; what nobody took is refused.

    Every error names the field by its path and the place in the file.
    """

    __slots__ = ("_left", "_node", "_path", "_what")

    def __init__(self, node: Node, what: str, path: str = "") -> None:
        self._what, self._path, self._node = what, path, node
        if not isinstance(node.value, dict):
            raise self._bad(node, path or "document", want="a mapping")
        self._left: dict[str, Node] = dict(node.value)

    @property
    def place(self) -> Place:
        """Where the mapping begins."""
        return self._node.place

    def has(self, name: str) -> bool:
        """Say whether the field ``name`` is there and was not taken yet."""
        return name in self._left

    def peek(self, name: str) -> Node:
        """Return the value of the required field ``name`` without taking it.

        Raises:
            Malformed: it is not there. So do all readers below, and when the value has another type.
        """
        if name not in self._left:
            at = f"{_joined(self._path, name)} ({self._node.place})"
            raise Malformed(self._what, at=at, want="this field", got="nothing")
        return self._left[name]

    def take(self, name: str) -> Node:
        """Return the value of the required field ``name``, and take it."""
        node = self.peek(name)
        del self._left[name]
        return node

    def text(self, name: str, pattern: str = ".+", want: str = "text", *, most: int = 1024) -> str:
        """Return a text that matches the whole of ``pattern`` and is not longer than ``most`` characters."""
        return self._text(self.take(name), _joined(self._path, name), pattern, want, most)

    def integer(self, name: str, least: int, most: int) -> int:
        """Return an integer from ``least`` to ``most``."""
        node = self.take(name)
        value = node.value
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._bad(node, _joined(self._path, name), want=f"a whole number from {least} to {most}")
        return value

    def table(self, name: str) -> Fields:
        """Return a mapping's fields."""
        return Fields(self.take(name), self._what, _joined(self._path, name))

    def tables(self, name: str) -> list[Fields]:
        """Return the fields of each mapping of a list."""
        return [Fields(node, self._what, path) for path, node in self._items(name)]

    def texts(self, name: str, pattern: str = ".+", want: str = "text") -> list[str]:
        """Return a list of texts, each there once."""
        found: list[str] = []
        for path, node in self._items(name):
            value = self._text(node, path, pattern, want)
            if value in found:
                raise self._bad(node, path, want="each value once")
            found.append(value)
        return found

    def rest(self) -> dict[str, Node]:
        """Return every field that is left, and take it."""
        left, self._left = self._left, {}
        return left

    def end(self) -> None:
        """Refuse what nobody took.

        Raises:
            Malformed: an unknown field.
        """
        for name in self._left:
            at = f"{_joined(self._path, name)} ({self._node.keys.get(name, self._node.place)})"
            raise Malformed(self._what, at=at, want="a known field", got="an unknown one")

    def bad(self, name: str, node: Node, want: str) -> Malformed:
        """Return the error for the value of the field ``name``; the caller raises it."""
        return self._bad(node, _joined(self._path, name), want=want)

    def _items(self, name: str) -> list[tuple[str, Node]]:
        node = self.take(name)
        if not isinstance(node.value, list):
            raise self._bad(node, _joined(self._path, name), want="a list")
        return [(f"{_joined(self._path, name)}[{index}]", item) for index, item in enumerate(node.value)]

    def _text(self, node: Node, path: str, pattern: str, want: str, most: int = 1024) -> str:
        if not isinstance(node.value, str) or len(node.value) > most or not re.fullmatch(pattern, node.value):
            raise self._bad(node, path, want=want)
        return node.value

    def _bad(self, node: Node, path: str, *, want: str) -> Malformed:
        return Malformed(self._what, at=f"{path} ({node.place})", want=want, got=shown(node))


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
