"""A Linux initramfs: one or more cpio archives, each plain or compressed, unpacked one over the other.

The kernel goes on behind the first archive, so a reader that stops there does not see what boots.

Source: Linux, init/initramfs.c, unpack_to_rootfs.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import cpio

MAX_UNPACKED_BYTES = 1 << 30
_STEP_BYTES = 1 << 20
_XZ_MEMORY_BYTES = 256 << 20  # of a stream's dictionary; xz -9 needs 65 MiB
_XZ = b"\xfd7zXZ\x00"
_GZIP = b"\x1f\x8b"
_NAMES = {  # what the kernel also knows and this reader does not
    b"BZh": "bzip2",
    b"\x5d\x00\x00": "lzma",
    b"\x89LZO": "lzo",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x28\xb5\x2f\xfd": "zstd",
}


@dataclass(frozen=True, slots=True)
class Initramfs:
    """Everything that an initramfs unpacks to, in order; later entries replace earlier ones."""

    entries: tuple[cpio.Entry, ...]
    archives: int
    padding_bytes: int  # zero bytes between and behind archives


def read(
    data: bytes | memoryview, what: str = "initramfs", *, max_bytes: int = MAX_UNPACKED_BYTES
) -> Initramfs:
    """Return all entries of all archives in ``data``.

    Args:
        max_bytes: most that all compressed parts together may unpack to.

    Raises:
        Malformed: a broken archive, or one that unpacks to more than ``max_bytes``.
        Unsupported: a compression that this reader does not know.
    """
    view = memoryview(data)
    entries: list[cpio.Entry] = []
    at = archives = padding = 0
    left = max_bytes
    while at < len(view):
        if view[at] == 0:
            zeros = _zeros(view[at : at + _STEP_BYTES])
            at, padding = at + zeros, padding + zeros
        elif bytes(view[at : at + 4]) == b"0707":
            archive = cpio.read(view, what, start=at)
            entries += archive.entries
            at, archives = archive.end, archives + 1
        else:
            unpacked, at = _decompress(view, at, left, what)
            left -= len(unpacked)
            inner = read(
                unpacked, what, max_bytes=0
            )  # a compressed part holds archives, not compressed parts
            entries += inner.entries
            archives, padding = archives + inner.archives, padding + inner.padding_bytes
    return Initramfs(tuple(entries), archives, padding)


def _zeros(view: memoryview) -> int:
    """Return how many zero bytes ``view`` begins with: a stream may unpack to a gigabyte of them."""
    return len(view) - len(bytes(view).lstrip(b"\0"))


def _decompress(view: memoryview, at: int, max_bytes: int, what: str) -> tuple[bytes, int]:
    """Return what the compressed stream at ``at`` holds, and the place behind it."""
    head = bytes(view[at : at + 6])
    decompress: Callable[[memoryview, _Bound], int]
    if head == _XZ:
        decompress = _unxz
    elif head[:2] == _GZIP:
        decompress = _gunzip
    else:
        known = next((name for magic, name in _NAMES.items() if head.startswith(magic)), head.hex())
        raise Unsupported(what, at=f"offset {at}", want="cpio, xz or gzip", got=known)
    bound = _Bound(max_bytes, what, at)
    try:
        end = at + decompress(view[at:], bound)
    except (lzma.LZMAError, zlib.error) as error:
        raise Malformed(what, at=f"offset {at}", want="a compressed stream", got=str(error)) from None
    return bound.joined, end


class _Bound:
    """Unpacked bytes, never more than allowed."""

    __slots__ = ("_left", "_parts", "_place", "_what")

    def __init__(self, max_bytes: int, what: str, at: int) -> None:
        self._left, self._what, self._place = max_bytes, what, f"offset {at}"
        self._parts: list[bytes] = []

    def take(self, part: bytes) -> None:
        self._left -= len(part)
        if self._left < 0:
            raise Malformed(
                self._what, at=self._place, want="no more than the unpacked size allowed", got="more"
            )
        self._parts.append(part)

    def truncated(self) -> Malformed:
        return Malformed(self._what, at=self._place, want="a whole compressed stream", got="its beginning")

    @property
    def joined(self) -> bytes:
        return b"".join(self._parts)


def _unxz(view: memoryview, bound: _Bound) -> int:
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
    at = 0
    while not stream.eof:
        chunk = view[at : at + _STEP_BYTES] if stream.needs_input else view[:0]
        if stream.needs_input and not chunk:
            raise bound.truncated()
        at += len(chunk)
        bound.take(stream.decompress(chunk, _STEP_BYTES))
    return at - len(stream.unused_data)


def _gunzip(view: memoryview, bound: _Bound) -> int:
    stream = zlib.decompressobj(wbits=31)
    at = 0
    while not stream.eof:
        chunk: bytes | memoryview = stream.unconsumed_tail
        if not chunk:
            chunk = view[at : at + _STEP_BYTES]
            at += len(chunk)
        part = stream.decompress(chunk, _STEP_BYTES)
        if not part and not chunk and not stream.eof:
            raise bound.truncated()
        bound.take(part)
    return at - len(stream.unused_data)
