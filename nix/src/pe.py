"""Appending sections to a PE image, as ukify does, with bytes that depend on nothing but the input.

Source: Microsoft PE/COFF specification; UAPI group, "Unified Kernel Image (UKI)".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_INITIALISED_READABLE_DATA = 0x40000040  # IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ
_SECTION_BYTES = 40


@dataclass(frozen=True)
class Section:
    """One entry of the section table."""

    name: str
    virtual_size: int
    virtual_address: int
    raw_size: int
    raw_offset: int


def _table(image: bytes | bytearray) -> tuple[int, int, int]:
    """Return (offset of the COFF header, offset of the section table, number of sections)."""
    (pe,) = struct.unpack_from("<I", image, 0x3C)
    if image[pe : pe + 4] != b"PE\0\0":
        raise SystemExit("not a PE image")
    (count,) = struct.unpack_from("<H", image, pe + 6)
    (optional_size,) = struct.unpack_from("<H", image, pe + 20)
    return pe, pe + 24 + optional_size, count


def sections(image: bytes) -> list[Section]:
    """Return the section table."""
    _, table, count = _table(image)
    found = []
    for index in range(count):
        name, *numbers = struct.unpack_from("<8sIIII", image, table + _SECTION_BYTES * index)
        found.append(Section(name.rstrip(b"\0").decode(), *numbers))
    return found


def headers_size(image: bytes) -> int:
    """Return SizeOfHeaders."""
    pe, _, _ = _table(image)
    return int(struct.unpack_from("<I", image, pe + 24 + 60)[0])


def append(stub: bytes, added: list[tuple[str, bytes]]) -> bytes:
    """Return ``stub`` with the sections ``added``; build time, check sum and symbol table are zeroed."""
    image = bytearray(stub)
    pe, table, count = _table(image)
    optional = pe + 24
    alignment, file_alignment = struct.unpack_from("<II", image, optional + 32)
    known = sections(stub)
    need = table + _SECTION_BYTES * (count + len(added))
    if need > min(section.raw_offset for section in known if section.raw_size):
        raise SystemExit(f"the stub's headers have no room for {len(added)} more sections")
    _drop_symbols(image, pe, known)
    address = _up(max(s.virtual_address + s.virtual_size for s in known), alignment)
    image += b"\0" * (-len(image) % file_alignment)
    for index, (name, data) in enumerate(added):
        raw_size = _up(len(data), file_alignment)
        numbers = (len(data), address, raw_size, len(image), 0, 0, 0, 0, _INITIALISED_READABLE_DATA)
        at = table + _SECTION_BYTES * (count + index)
        struct.pack_into("<8sIIIIIIHHI", image, at, name.encode(), *numbers)
        image += data + b"\0" * (raw_size - len(data))
        address = _up(address + len(data), alignment)
    struct.pack_into("<H", image, pe + 6, count + len(added))
    struct.pack_into("<I", image, pe + 8, 0)  # TimeDateStamp
    struct.pack_into("<I", image, optional + 56, address)  # SizeOfImage
    (headers,) = struct.unpack_from("<I", image, optional + 60)
    struct.pack_into("<I", image, optional + 60, max(headers, _up(need, file_alignment)))
    struct.pack_into("<I", image, optional + 64, 0)  # CheckSum
    return bytes(image)


def _drop_symbols(image: bytearray, pe: int, known: list[Section]) -> None:
    """Cut what follows the last section (COFF symbols and strings), to which the header would point."""
    struct.pack_into("<II", image, pe + 12, 0, 0)  # PointerToSymbolTable, NumberOfSymbols
    del image[max(section.raw_offset + section.raw_size for section in known) :]


def _up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
