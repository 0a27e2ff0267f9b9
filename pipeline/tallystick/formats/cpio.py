"""cpio archives in the "newc" form, as Linux unpacks them into its first root file system.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst and init/initramfs.c.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass

from tallystick.core.errors import Malformed, Unsupported

_MAGIC = b"070701"
_HEADER_BYTES = 110
_FIELDS = (
    "ino", "mode", "uid", "gid", "nlink", "mtime", "filesize",
    "devmajor", "devminor", "rdevmajor", "rdevminor", "namesize", "check",
)  # fmt: skip
_HEX = re.compile(rb"[0-9A-Fa-f]{104}")
_TRAILER = b"TRAILER!!!"
_MAX_NAME_BYTES = 4096  # PATH_MAX, where the kernel gives up too


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder, link or device of an archive."""

    path: str  # relative, no "." or "..", "." for the root itself; not UTF-8 is kept as surrogate escapes
    mode: int  # type and permissions, as st_mode
    uid: int
    gid: int
    mtime: int  # seconds
    device: tuple[int, int]  # major and minor number of a device node
    data: memoryview  # contents of a file, target of a symbolic link

    @property
    def mode_text(self) -> str:
        """The mode as contents lists have it: ``0100755``."""
        return f"{self.mode:07o}"

    @property
    def is_directory(self) -> bool:
        """Whether this is a folder, which has no bytes of its own."""
        return stat.S_ISDIR(self.mode)


@dataclass(frozen=True, slots=True)
class Archive:
    """The entries of one archive and the place of its first byte behind the trailer."""

    entries: tuple[Entry, ...]
    end: int


def read(data: bytes | memoryview, what: str = "cpio archive", *, start: int = 0) -> Archive:
    """Return the archive that begins at ``start``, up to and with its trailer.

    What follows the trailer is the caller's: padding, or another archive that is unpacked over this one.

    Raises:
        Malformed: truncated, a lying size, a name that leaves the root, or bytes between entries.
        Unsupported: another cpio form, or a hard link.
    """
    view = memoryview(data)
    entries: list[Entry] = []
    at = start
    while True:
        entry, at = _entry(view, at, start, what)
        if entry is None:
            return Archive(tuple(entries), at)
        entries.append(entry)


def _entry(view: memoryview, at: int, start: int, what: str) -> tuple[Entry | None, int]:
    header = bytes(view[at : at + _HEADER_BYTES])
    if len(header) < _HEADER_BYTES:
        raise Malformed(what, at=f"header at offset {at}", want="110 bytes", got=f"{len(header)} left")
    if header[:6] != _MAGIC:
        raise Unsupported(what, at=f"magic at offset {at}", want=_MAGIC.decode(), got=repr(header[:6]))
    if not _HEX.fullmatch(header, 6):
        raise Malformed(what, at=f"header at offset {at}", want="hexadecimal fields", got=repr(header[6:]))
    field = {name: int(header[6 + 8 * i : 14 + 8 * i], 16) for i, name in enumerate(_FIELDS)}
    name, body = _name(view, at, start, field["namesize"], what)
    size = field["filesize"]
    if size > len(view) - body:
        raise Malformed(what, at=f"size of {name!r}", want=f"at most {len(view) - body} bytes", got=f"{size}")
    after = _padded(view, body + size, start, what)
    if name == _TRAILER:
        if size:
            raise Malformed(what, at="trailer", want="no data", got=f"{size} bytes")
        return None, after
    path = name.decode("utf-8", "surrogateescape")
    if field["nlink"] > 1 and stat.S_ISREG(field["mode"]):
        raise Unsupported(
            what, at=path, want="files with one name", got=f"a hard link ({field['nlink']} names)"
        )
    if size and not (stat.S_ISREG(field["mode"]) or stat.S_ISLNK(field["mode"])):
        raise Malformed(what, at=path, want="data only in files and symbolic links", got=f"{size} bytes")
    return Entry(
        path, field["mode"], field["uid"], field["gid"], field["mtime"],
        (field["rdevmajor"], field["rdevminor"]), view[body : body + size],
    ), after  # fmt: skip


def _name(view: memoryview, at: int, start: int, size: int, what: str) -> tuple[bytes, int]:
    """Return the entry's name and the place of its data."""
    if not 2 <= size <= _MAX_NAME_BYTES:
        raise Malformed(what, at=f"namesize at offset {at}", want=f"2 to {_MAX_NAME_BYTES}", got=f"{size}")
    raw = bytes(view[at + _HEADER_BYTES : at + _HEADER_BYTES + size])
    if len(raw) < size:
        raise Malformed(what, at=f"name at offset {at}", want=f"{size} bytes", got=f"{len(raw)} left")
    name = raw[:-1]
    if raw[-1:] != b"\0" or b"\0" in name:
        raise Malformed(what, at=f"name at offset {at}", want="one final zero byte", got=repr(raw))
    parts = name.split(b"/")
    if name != b"." and any(part in (b"", b".", b"..") for part in parts):
        raise Malformed(what, at=f"name at offset {at}", want="a plain path inside the root", got=repr(name))
    return name, _padded(view, at + _HEADER_BYTES + size, start, what)


def _padded(view: memoryview, at: int, start: int, what: str) -> int:
    """Return ``at`` rounded up to four bytes; the bytes skipped must be there and be zero."""
    after = at + (start - at) % 4
    padding = bytes(view[at:after])
    if len(padding) != after - at or any(padding):
        raise Malformed(
            what,
            at=f"padding at offset {at}",
            want=f"{after - at} zero bytes",
            got=padding.hex() or "the end",
        )
    return after
