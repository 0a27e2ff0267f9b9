"""Emitted files with one thing changed, whatever they are: JSON, Rego, CBOR or HCL."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cbor2

OTHER = "ab" * 32
Mutant = tuple[str, Mapping[str, bytes]]
PAPERS = ("README.md", "residual.json", "about.json")


def mutants(files: Mapping[str, bytes]) -> Iterator[Mutant]:
    """Every policy file changed in every way; the papers beside it once each."""
    for name, data in files.items():
        if name in PAPERS:
            yield f"{name}: a line more", {**files, name: data + b"\n"}
            continue
        yield f"{name} missing", {other: kept for other, kept in files.items() if other != name}
        made = _BY_ENDING[name.rpartition(".")[2]]
        for what, changed in made(data):
            if changed != data:
                yield f"{name}: {what}", {**files, name: changed}
        yield f"{name} twice", {**files, f"x{name}": data}


def _json(data: bytes) -> Iterator[tuple[str, bytes]]:
    for what, found in values(json.loads(data)):
        yield what, (json.dumps(found, indent=1) + "\n").encode()


def _cbor(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The manifest and, inside it, every module identifier."""
    thawed = _thaw(cbor2.loads(data))
    for what, found in values(thawed.value):
        yield what, cbor2.dumps(cbor2.CBORTag(501, found), canonical=True)
    for number, tag in enumerate(thawed.value[1]):
        for what, found in values(_thaw(cbor2.loads(tag.value))):
            changed = _thaw(thawed.value)
            changed[1][number] = cbor2.CBORTag(506, cbor2.dumps(found, canonical=True))
            yield f"tag {number} {what}", cbor2.dumps(cbor2.CBORTag(501, changed), canonical=True)


def values(document: Any) -> Iterator[tuple[str, Any]]:
    """A document with one member, element or scalar dropped, added, or another."""
    for path, value in _walk(document, ()):
        if path:
            yield f"{_name(path)} dropped", _edit(document, path, None, drop=True)
        seen = [repr(value)]
        for other in _others(value):
            if repr(other) not in seen:
                seen.append(repr(other))
                yield f"{_name(path)} {_short(other)}", _edit(document, path, other)


def _walk(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield path, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _walk(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _walk(inner, (*path, number))
    elif isinstance(value, cbor2.CBORTag) and isinstance(value.value, int | list | dict | str):
        yield from _walk(value.value, (*path, "tag"))


def _others(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int):
        return [value + 1, max(value - 1, 0), 0]
    if isinstance(value, str):
        return [OTHER[: len(value)] if len(value) in (64, 96, 128) else value + "x", "", "*", None]
    if isinstance(value, bytes):
        return [b"\xab" * len(value), b""]
    if isinstance(value, list):
        more = [*value, _another(value[-1])] if value else [OTHER]
        return [[], more]
    if isinstance(value, dict):
        return [{}]
    if isinstance(value, cbor2.CBORTag):
        return [cbor2.CBORTag(553 if value.tag == 552 else 552, value.value), value.value]
    return []


def _another(value: Any) -> Any:
    if isinstance(value, str):
        return OTHER[: len(value)]
    return _thaw(value)


def _edit(document: Any, path: tuple[Any, ...], new: Any, *, drop: bool = False) -> Any:
    if not path:
        return new
    found = _thaw(document)
    *outer, last = path
    place: Any = found
    for name in outer:
        place = place.value if name == "tag" else place[name]
    if last == "tag":
        *above, name = outer
        holder: Any = found
        for one in above:
            holder = holder.value if one == "tag" else holder[one]
        holder[name] = cbor2.CBORTag(place.tag, 0 if drop else new)
    elif drop:
        del place[last]
    else:
        place[last] = new
    return found


def _thaw(value: Any) -> Any:
    if isinstance(value, cbor2.CBORTag):
        return cbor2.CBORTag(value.tag, _thaw(value.value))
    if hasattr(value, "items"):
        return {name: _thaw(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_thaw(inner) for inner in value]
    if hasattr(value, "timestamp"):
        return cbor2.CBORTag(1, int(value.timestamp()))
    return value


_SWAPS = (
    (" == ", (" != ", " >= ")),
    (" <= ", (" >= ",)),
    (" >= ", (" <= ", " > ")),
    (" > ", (" < ",)),
    (" < ", (" > ",)),
    (":= false", (":= true",)),
    ("true", ("false",)),
    ("false", ("true",)),
    ("every ", ("some ",)),
    ("not ", ("",)),
    (" in ", (" == ",)),
    ("count(", ("-count(",)),
    ("is_string(", ("is_array(",)),
    ("is_array(", ("is_string(",)),
)
_HEX = re.compile(r'"[0-9a-f]{12,}"')
_TEXT = re.compile(r'"([A-Za-z][\w .-]{3,40})"')
_NUMBER = re.compile(r"(?<![\w.\"])\d+(?![\w.])")


def _lines(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every line dropped, doubled in a wider form, and each of its operators and constants changed."""
    text = data.decode()
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if not line.strip() or line.lstrip().startswith("#"):
            continue

        def put(new: str | None, number: int = number) -> bytes:
            changed = [*lines[:number], *([] if new is None else [new]), *lines[number + 1 :]]
            return "\n".join(changed).encode()

        here = f"{number + 1}"
        yield f"{here} dropped: {line.strip()}", put(None)
        for what, changed in _line(line):
            yield f"{here} {what}: {changed.strip()[:120]}", put(changed)


def _line(line: str) -> Iterator[tuple[str, str]]:
    for old, others in _SWAPS:
        for new in others:
            for at in range(line.count(old)):
                parts = line.split(old)
                yield "swapped", old.join(parts[: at + 1]) + new + old.join(parts[at + 1 :])
    for match in _HEX.finditer(line):
        digits = len(match[0]) - 2
        yield "another value", line[: match.start()] + f'"{(OTHER * 2)[:digits]}"' + line[match.end() :]
    for match in _TEXT.finditer(line):
        yield "another text", line[: match.start()] + f'"{match[1]}x"' + line[match.end() :]
    for match in _NUMBER.finditer(line):
        for other in (int(match[0]) + 1, int(match[0]) * 2 + 1):
            yield "another number", line[: match.start()] + str(other) + line[match.end() :]


_BY_ENDING: dict[str, Callable[[bytes], Iterator[tuple[str, bytes]]]] = {
    "json": _json,
    "cbor": _cbor,
    "rego": _lines,
    "hcl": _lines,
}


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path)) or "document"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
