"""The two things that an image needs to know about an ELF file: the libraries it names, and a module's .modinfo."""

from __future__ import annotations

import struct

_DT_NEEDED, _DT_STRTAB, _DT_STRSZ = 1, 5, 10  # System V gABI, figure 5-10
_PT_LOAD, _PT_DYNAMIC = 1, 2
_MAGIC_64_LITTLE = b"\x7fELF\x02\x01"


def is_elf(data: bytes) -> bool:
    """Whether ``data`` is a 64-bit little-endian ELF file."""
    return data.startswith(_MAGIC_64_LITTLE)


def needed(data: bytes) -> list[str]:
    """Return the DT_NEEDED names of an ELF file, in its order; none for a static one."""
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", data, table + size * i) for i in range(count)]
    loads = [(h[3], h[2], h[5]) for h in headers if h[0] == _PT_LOAD]  # address, offset, size in file
    entries: list[tuple[int, int]] = []
    for header in headers:
        if header[0] == _PT_DYNAMIC:
            entries = list(struct.iter_unpack("<QQ", data[header[2] : header[2] + header[5]]))
    values = dict(entries)
    if _DT_STRTAB not in values:
        return []
    strings = _at_address(data, loads, values[_DT_STRTAB], values[_DT_STRSZ])
    return [_string(strings, value) for tag, value in entries if tag == _DT_NEEDED]


def modinfo(data: bytes) -> dict[str, str]:
    """Return the key=value pairs of a kernel module's .modinfo section; of a repeated key, the first."""
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names_index = struct.unpack_from("<HHH", data, 58)
    sections = [struct.unpack_from("<IIQQQQ", data, table + size * i) for i in range(count)]
    names = sections[names_index]
    for section in sections:
        if _string(data, names[4] + section[0]) == ".modinfo":
            found: dict[str, str] = {}
            for pair in data[section[4] : section[4] + section[5]].split(b"\0"):
                key, _, value = pair.partition(b"=")
                found.setdefault(key.decode(), value.decode())
            return found
    raise SystemExit("a kernel module without .modinfo")


def _at_address(data: bytes, loads: list[tuple[int, int, int]], address: int, size: int) -> bytes:
    for start, offset, length in loads:
        if start <= address < start + length:
            return data[offset + address - start :][:size]
    raise SystemExit("ELF: an address outside every segment")


def _string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()
