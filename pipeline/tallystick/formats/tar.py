"""tar archives in the POSIX "ustar" form, read strictly from memory and never unpacked to a disk.

Source: IEEE Std 1003.1-2017, pax, "ustar Interchange Format".
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from tallystick.core.errors import Malformed, Unsupported

_BLOCK_BYTES = 512
_CHECKSUM = slice(148, 156)
_TYPES = {  # typeflag -> st_mode bits; the other types are refused by name
    b"0": stat.S_IFREG,
    b"\0": stat.S_IFREG,
    b"2": stat.S_IFLNK,
    b"5": stat.S_IFDIR,
}
_NAMES = {b"1": "hard link", b"3": "device", b"4": "device", b"6": "FIFO", b"x": "pax header",
          b"g": "pax header", b"L": "GNU long name", b"K": "GNU long link", b"S": "sparse file"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or symbolic link of an archive."""

    path: str  # relative, no "." or ".."; not UTF-8 is kept as surrogate escapes
    mode: int  # type and permissions, as st_mode
    uid: int
    gid: int
    mtime: int  # seconds
    data: memoryview  # contents of a file, target of a symbolic link

    @property
    def mode_text(self) -> str:
        """The mode as contents lists have it: ``0100755``."""
        return f"{self.mode:07o}"

    @property
    def is_directory(self) -> bool:
        """Whether this is a folder, which has no bytes of its own."""
        return stat.S_ISDIR(self.mode)


def read(data: bytes | memoryview, what: str = "tar archive") -> Iterator[Entry]:
    """Yield every entry of the archive, which ends with two blocks of zeros and nothing but zeros after them.

    Raises:
        Malformed: truncated, a wrong checksum, a lying size, or a name that leaves the root.
        Unsupported: an entry of a type that an image does not need.
    """
    view = memoryview(data)
    at = 0
    while True:
        block = bytes(view[at : at + _BLOCK_BYTES])
        if len(block) < _BLOCK_BYTES:
            raise Malformed(what, at=f"header at offset {at}", want="512 bytes", got=f"{len(block)} left")
        if not any(block):
            if len(view) - at < 2 * _BLOCK_BYTES or any(view[at:]):
                raise Malformed(
                    what, at=f"end at offset {at}", want="zeros to the end, two blocks at least", got="other"
                )
            return
        entry, at = _entry(view, block, at, what)
        yield entry


def _entry(view: memoryview, block: bytes, at: int, what: str) -> tuple[Entry, int]:
    where = f"offset {at}"
    if block[257:265] != b"ustar\x0000":
        raise Unsupported(what, at=f"magic at {where}", want="ustar, version 00", got=repr(block[257:265]))
    stated = _octal(block[_CHECKSUM], f"checksum at {where}", what)
    actual = sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" ")
    if stated != actual:
        raise Malformed(what, at=f"checksum at {where}", want=f"{actual:o}", got=f"{stated:o}")
    kind = _TYPES.get(block[156:157])
    if kind is None:
        got = _NAMES.get(block[156:157], repr(block[156:157]))
        raise Unsupported(what, at=f"type at {where}", want="file, folder or symbolic link", got=got)
    name = _text(block[0:100], f"name at {where}", what)
    prefix = _text(block[345:500], f"prefix at {where}", what)
    path = _path(prefix + b"/" + name if prefix else name, kind, where, what)
    size = _octal(block[124:136], f"size at {where}", what)
    if size and kind != stat.S_IFREG:
        raise Malformed(what, at=f"size at {where}", want="0, as for all but files", got=f"{size}")
    body = at + _BLOCK_BYTES
    end = body + -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
    if end > len(view):
        raise Malformed(what, at=f"size at {where}", want=f"at most {len(view) - body} bytes", got=f"{size}")
    if any(view[body + size : end]):
        raise Malformed(what, at=f"padding of {path}", want="zeros", got="other bytes")
    target = _text(block[157:257], f"linkname at {where}", what)
    return Entry(
        path,
        kind | _octal(block[100:108], f"mode at {where}", what) & 0o7777,
        _octal(block[108:116], f"uid at {where}", what),
        _octal(block[116:124], f"gid at {where}", what),
        _octal(block[136:148], f"mtime at {where}", what),
        memoryview(target) if kind == stat.S_IFLNK else view[body : body + size],
    ), end


def _path(raw: bytes, kind: int, where: str, what: str) -> str:
    name = raw.removesuffix(b"/") if kind == stat.S_IFDIR else raw
    if not name or any(part in (b"", b".", b"..") for part in name.split(b"/")):
        raise Malformed(what, at=f"name at {where}", want="a plain path inside the root", got=repr(raw))
    return name.decode("utf-8", "surrogateescape")


def _text(field: bytes, at: str, what: str) -> bytes:
    """A text ends at its first zero byte, and only zeros follow."""
    text, _, rest = field.partition(b"\0")
    if any(rest):
        raise Malformed(what, at=at, want="zeros behind the text", got=repr(rest))
    return text


def _octal(field: bytes, at: str, what: str) -> int:
    match = re.fullmatch(rb" *([0-7]*)[ \0]*", field)
    if match is None:
        raise Malformed(what, at=at, want="an octal number", got=repr(field))
    return int(match[1] or b"0", 8)
