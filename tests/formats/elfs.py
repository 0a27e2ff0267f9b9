"""ELF files made up at test time: program headers and a dynamic section, and nothing that runs."""

from __future__ import annotations

import struct

_BASE = 0x400000


def elf(
    *,
    interpreter: str = "",
    needed: tuple[str, ...] = (),
    soname: str = "",
    string_address: int | None = None,
) -> bytes:
    """Return a 64-bit little-endian file that asks for ``interpreter`` and ``needed``."""
    strings, offsets = b"\0", []
    for name in (*needed, *((soname,) if soname else ())):
        offsets.append(len(strings))
        strings += name.encode() + b"\0"
    parts: list[tuple[int, bytes]] = []
    if interpreter:
        parts.append((3, interpreter.encode() + b"\0"))
    count = 1 + len(parts) + (1 if needed or soname else 0)
    at = 64 + 56 * count
    body, headers = b"", []
    for kind, data in parts:
        headers.append((kind, at + len(body), len(data)))
        body += data
    if needed or soname:
        strings_at = at + len(body)
        body += strings
        address = _BASE + strings_at if string_address is None else string_address
        tags = [(1, offset) for offset in offsets[: len(needed)]]
        tags += [(14, offsets[-1])] if soname else []
        tags += [(5, address), (10, len(strings)), (0, 0), (1, 0xFFFF)]
        dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags)
        headers.append((2, at + len(body), len(dynamic)))
        body += dynamic
    table = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, at + len(body), at + len(body), 0x1000)
    for kind, offset, size in headers:
        table += struct.pack("<IIQQQQQQ", kind, 4, offset, _BASE + offset, 0, size, size, 8)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, count, 64, 0, 0)
    return head + table + body


def with_sections(sections: dict[str, bytes]) -> bytes:
    """Return a 64-bit little-endian file without segments whose section headers name ``sections``."""
    names, body, entries = b"\0", b"", [bytes(64)]
    for name, data in sections.items():
        entries.append(struct.pack("<IIQQQQIIQQ", len(names), 1, 0, 0, 64 + len(body), len(data), 0, 0, 1, 0))
        names += name.encode() + b"\0"
        body += data
    own = len(names)
    names += b".shstrtab\0"
    entries.append(struct.pack("<IIQQQQIIQQ", own, 3, 0, 0, 64 + len(body), len(names), 0, 0, 1, 0))
    body += names
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, 64 + len(body), 0, 64, 56, 0, 64, len(entries), len(entries) - 1
    )
    return head + body + b"".join(entries)
