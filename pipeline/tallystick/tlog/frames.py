"""How leaves lie in a file: one frame after another, each with a length and a checksum."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

MAX_LEAF_BYTES = 16 << 20
_MAGIC = 0x54  # so that a tail of zeros, as a crash can leave one, is no frame
_HEADER = struct.Struct(">BII")  # magic, length in bytes, CRC-32 of the leaf
HEADER_BYTES = _HEADER.size


def check_size(leaf: bytes) -> None:
    """Raise :class:`ValueError` for a leaf of more than ``MAX_LEAF_BYTES``: a caller's bug."""
    if len(leaf) > MAX_LEAF_BYTES:
        raise ValueError(f"a leaf has at most {MAX_LEAF_BYTES} bytes, not {len(leaf)}")


def frame(leaf: bytes) -> bytes:
    """Return ``leaf`` as it lies in the file."""
    return _header(leaf) + leaf


def scan(stream: BinaryIO, start: int) -> Iterator[tuple[bytes, int]]:
    """Yield each whole leaf from offset ``start`` on, with the offset behind it, up to a torn one."""
    stream.seek(start)
    at = start
    while True:
        leaf = _next(stream)
        if leaf is None:
            return
        at += HEADER_BYTES + len(leaf)
        yield leaf, at


def open_frame(data: bytes) -> bytes | None:
    """Return the leaf of the one frame ``data``, or None when that is not what it is."""
    leaf = data[HEADER_BYTES:]
    return leaf if data[:HEADER_BYTES] == _header(leaf) else None


def _header(leaf: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, len(leaf), zlib.crc32(leaf))


def _next(stream: BinaryIO) -> bytes | None:
    header = stream.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return None
    magic, size, check = _HEADER.unpack(header)
    if magic != _MAGIC or size > MAX_LEAF_BYTES:
        return None
    leaf = stream.read(size)
    return leaf if len(leaf) == size and zlib.crc32(leaf) == check else None
