"""TCG event logs, made at test time."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

ALGORITHMS = {"sha1": 4, "sha256": 0xB, "sha384": 0xC, "sha512": 0xD}
NO_ACTION, SEPARATOR, ACTION = 3, 4, 5


def legacy(register: int, kind: int, data: bytes, digest: bytes | None = None) -> bytes:
    """Return one event of TPM 1.2's form."""
    value = hashlib.sha1(data, usedforsecurity=False).digest() if digest is None else digest
    return struct.pack("<II", register, kind) + value + struct.pack("<I", len(data)) + data


def header(
    banks: Iterable[str] = ("sha256",),
    *,
    vendor: bytes = b"",
    algorithms: list[tuple[int, int]] | None = None,
) -> bytes:
    """Return the Spec ID event."""
    listed = algorithms
    if listed is None:
        listed = [(ALGORITHMS[bank], hashlib.new(bank).digest_size) for bank in banks]
    data = b"Spec ID Event03\0" + bytes(4) + b"\0\2\0\2" + struct.pack("<I", len(listed))
    data += b"".join(struct.pack("<HH", *pair) for pair in listed) + bytes([len(vendor)]) + vendor
    return legacy(0, NO_ACTION, data, bytes(20))


def event(
    register: int,
    kind: int,
    data: bytes,
    banks: Iterable[str] = ("sha256",),
    digests: dict[str, bytes] | None = None,
) -> bytes:
    """Return one crypto-agile event, whose digests are of its data unless they are given."""
    values = {bank: hashlib.new(bank, data).digest() for bank in banks} | (digests or {})
    out = struct.pack("<III", register, kind, len(values))
    out += b"".join(struct.pack("<H", ALGORITHMS[bank]) + value for bank, value in values.items())
    return out + struct.pack("<I", len(data)) + data


def log(events: Iterable[tuple[int, int, bytes]], banks: Iterable[str] = ("sha256",)) -> bytes:
    """Return a whole log of (register, kind, data)."""
    names = tuple(banks)
    return header(names) + b"".join(event(*one, names) for one in events)


def log_of_digests(events: Iterable[tuple[int, bytes, str]]) -> bytes:
    """Return a SHA-256 log of (register, digest, what), as a firmware would leave it."""
    return header() + b"".join(
        event(register, ACTION, what.encode(), digests={"sha256": digest})
        for register, digest, what in events
    )
