"""Which modules a Go program was linked from: the build information that the Go linker leaves in every program.

Source: Go, package ``debug/buildinfo`` (the inline format since Go 1.18) and ``runtime/debug`` (``BuildInfo.String``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import elf

_WHAT = "Go build information"
_MAGIC = b"\xff Go buildinf:"
_HEADER_BYTES, _ALIGNMENT = 32, 16
_INLINE = 2  # flag: two strings follow the header, each after its length as a varint
_SENTINEL_BYTES = 16  # on both sides of the module text
_FROM_FOLDER = "(devel)"
_MAX_TEXT_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One module that is in the program."""

    path: str  # "golang.org/x/text"
    version: str  # "v0.38.0"; "(devel)" of a module that was built from a folder
    sum: str  # "h1:…" of go.sum, or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInfo:
    """What the program says of itself."""

    go: str  # "go1.26.8"
    main: Module | None
    modules: tuple[Module, ...]  # after replacement, in the program's order


def find(data: bytes | memoryview) -> BuildInfo | None:
    """Return the build information of the ELF file ``data``, or None when it is no Go program.

    Raises:
        Malformed: the information does not parse.
        Unsupported: the format of Go before 1.18, which points into memory.
    """
    place = elf.section(data, ".go.buildinfo")
    if place is None or bytes(place[: len(_MAGIC)]) != _MAGIC:
        return None
    if len(place) < _HEADER_BYTES:
        raise Malformed(_WHAT, at="header", want=f"{_HEADER_BYTES} bytes", got=f"{len(place)}")
    if not place[15] & _INLINE:
        raise Unsupported(
            _WHAT, at="flags", want="the inline format of Go 1.18 and later", got=f"{place[15]}"
        )
    version, at = _string(place, _HEADER_BYTES, "version")
    text, _ = _string(place, at, "modules")
    if text and (
        len(text) < 2 * _SENTINEL_BYTES + 1 or text[-_SENTINEL_BYTES - 1 : -_SENTINEL_BYTES] != b"\n"
    ):
        raise Malformed(_WHAT, at="modules", want="a text between two sentinels", got=f"{len(text)} bytes")
    return _parse(_utf8(version), _utf8(text[_SENTINEL_BYTES:-_SENTINEL_BYTES]))


def _string(view: memoryview, at: int, what: str) -> tuple[bytes, int]:
    size = shift = 0
    while True:
        if at >= len(view) or shift > 28:
            raise Malformed(_WHAT, at=f"{what} length", want="a varint", got="its end is missing")
        byte = view[at]
        size |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            break
    if size > min(_MAX_TEXT_BYTES, len(view) - at):
        raise Malformed(_WHAT, at=what, want=f"{size} bytes", got=f"{len(view) - at} left")
    return bytes(view[at : at + size]), at + size


def _parse(go: str, text: str) -> BuildInfo:
    main: Module | None = None
    modules: list[Module] = []
    last = ""
    for line in text.splitlines():
        kind, *words = line.split("\t")
        if kind not in ("mod", "dep", "=>"):
            continue
        if not 2 <= len(words) <= 3 or not words[0]:
            raise Malformed(_WHAT, at=f"line {kind}", want="a path, a version and perhaps a sum", got=line)
        module = Module(path=words[0], version=words[1], sum=words[2] if len(words) == 3 else "")
        if kind == "mod":
            main = module
        elif kind == "dep":
            modules.append(module)
        elif (
            last == "dep"
        ):  # the module before was replaced by this one, which is perhaps a folder without a name
            local = module.path.startswith(("./", "../", "/"))
            modules[-1] = replace(module, path=modules[-1].path, version=_FROM_FOLDER) if local else module
        last = kind
    return BuildInfo(go=go, main=main, modules=tuple(modules))


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(_WHAT, at=f"byte {error.start}", want="UTF-8", got=error.reason) from None
