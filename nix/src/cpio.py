"""The newc cpio archive, its bytes a function of names and contents alone.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import PurePosixPath

Entry = tuple[str, int, bytes, tuple[int, int]]  # path, mode, contents or link target, device number


def folders_of(paths: Iterable[str]) -> set[str]:
    """Return every folder that the paths need."""
    return {str(parent) for path in paths for parent in PurePosixPath(path).parents if str(parent) != "."}


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the archive: sorted by name, numbered from 1, owner and times zero."""
    out = bytearray()
    for number, (name, mode, data, device) in enumerate(sorted(entries), start=1):
        _add(out, number, name.encode(), mode, data, device)
    _add(out, 0, b"TRAILER!!!", 0, b"", (0, 0))
    return bytes(out + b"\0" * (-len(out) % 512))


def _add(out: bytearray, number: int, name: bytes, mode: int, data: bytes, device: tuple[int, int]) -> None:
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    out += b"070701" + b"".join(b"%08X" % field for field in fields) + name + b"\0"
    out += b"\0" * (-len(out) % 4)
    out += data
    out += b"\0" * (-len(out) % 4)
