"""A log's high-water mark on disk: the largest head that was ever acknowledged, in two slots written in turn.

A crash can spoil the slot that is being written, never the other one, so the mark always reads as the last
head that was acknowledged or the one before it was about to be.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from tallystick.core.errors import NotGenuine
from tallystick.core.files import write_file
from tallystick.tlog.merkle import EMPTY_ROOT

_SCHEMA = "tallystick/log-mark/v1"
_SLOT_BYTES = 4096  # one page each: a torn write of one can not reach the other
_LINE = re.compile(rb"(tallystick/log-mark/v1 ([0-9]+) ([0-9]+) ([0-9a-f]{64})) ([0-9a-f]{64})\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How many leaves a log has, and the root over them."""

    size: int
    root: bytes


EMPTY = Head(size=0, root=EMPTY_ROOT)


def create(path: Path) -> None:
    """Write the mark of an empty log, whole and durably.

    Raises:
        Unreachable: the disk would not take it.
    """
    write_file(path, _slot(0, EMPTY).ljust(2 * _SLOT_BYTES, b"\0"), mode=0o600)


def read(path: Path) -> tuple[int, Head]:
    """Return the mark and its sequence number.

    Raises:
        NotGenuine: ``log.mark-damaged``: neither slot holds a mark.
        OSError: it can not be read.
    """
    data = path.read_bytes()
    slots = (_parse(data[:_SLOT_BYTES]), _parse(data[_SLOT_BYTES : 2 * _SLOT_BYTES]))
    found = [slot for slot in slots if slot is not None]
    if not found:
        raise NotGenuine(f"transparency log: {path} holds no mark that can be read", code="log.mark-damaged")
    return max(found, key=lambda slot: slot[0])


def advance(path: Path, sequence: int, head: Head) -> None:
    """Make ``head`` the mark, durably, under the number ``sequence`` (one above the last).

    Raises:
        OSError: the disk would not take it; the mark before still reads.
    """
    handle = os.open(path, os.O_RDWR)
    try:
        os.pwrite(handle, _slot(sequence, head), sequence % 2 * _SLOT_BYTES)
        os.fdatasync(handle)
    finally:
        os.close(handle)


def _slot(sequence: int, head: Head) -> bytes:
    line = f"{_SCHEMA} {sequence} {head.size} {head.root.hex()}"
    check = hashlib.sha256(line.encode()).hexdigest()
    return f"{line} {check}\n".encode().ljust(_SLOT_BYTES, b"\0")


def _parse(slot: bytes) -> tuple[int, Head] | None:
    match = _LINE.match(slot)
    if match is None or hashlib.sha256(match[1]).hexdigest().encode() != match[5]:
        return None
    return int(match[2]), Head(size=int(match[3]), root=bytes.fromhex(match[4].decode()))
