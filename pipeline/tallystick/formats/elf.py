"""ELF programs and libraries: which interpreter and which libraries their own loader tables ask for.

Source: System V ABI (gABI), "Program Header" and "Dynamic Section". :func:`parse` reads the program headers alone, as
the kernel and the dynamic linker do; section headers are for people and may be missing or wrong. What compilers leave
for people is found through them (:func:`section`).
"""

from __future__ import annotations

from dataclasses import dataclass

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats.cursor import Cursor

MAGIC = b"\x7fELF"
_WHAT = "ELF file"
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME = 0, 1, 5, 10, 14
_HEADER_BYTES, _PROGRAM_HEADER_BYTES, _DYNAMIC_BYTES = 64, 56, 16  # of the 64-bit class
_SECTION_HEADER_BYTES, _SHT_NOBITS = 64, 8
_MAX_HEADERS = 512
_MAX_SECTIONS = 4096
_MAX_NAME_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """What a file asks of whoever loads it."""

    interpreter: str  # path of the dynamic linker; "" for a library or a static program
    needed: tuple[str, ...]  # DT_NEEDED, in the file's order
    soname: str  # DT_SONAME, or ""


@dataclass(frozen=True, slots=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int  # in the file


def is_elf(data: bytes | memoryview) -> bool:
    """Say whether ``data`` begins like an ELF file."""
    return bytes(data[:4]) == MAGIC


def parse(data: bytes | memoryview) -> Elf:
    """Return what the 64-bit little-endian file ``data`` asks for.

    Raises:
        Malformed: a header or table that leaves the file; the field is named.
        Unsupported: another class or byte order.
    """
    view = memoryview(data)
    segments = _segments(view)
    interpreter = ""
    for segment in segments:
        if segment.kind == _PT_INTERP:
            interpreter = _text(_content(view, segment, "PT_INTERP"), 0, "PT_INTERP")
    dynamic = [segment for segment in segments if segment.kind == _PT_DYNAMIC]
    if not dynamic:
        return Elf(interpreter=interpreter, needed=(), soname="")
    tags = _tags(_content(view, dynamic[0], "PT_DYNAMIC"))
    strings = _strings(view, segments, dict(tags))
    needed = tuple(_text(strings, value, "DT_NEEDED") for tag, value in tags if tag == _DT_NEEDED)
    sonames = [_text(strings, value, "DT_SONAME") for tag, value in tags if tag == _DT_SONAME]
    return Elf(interpreter=interpreter, needed=needed, soname=sonames[0] if sonames else "")


def section(data: bytes | memoryview, name: str) -> memoryview | None:
    """Return the bytes of the section called ``name``, or None where the file has none or no section headers.

    Raises:
        Malformed, Unsupported: as :func:`parse`.
    """
    view = memoryview(data)
    header = Cursor(view[:_HEADER_BYTES], _WHAT)
    _identify(header)
    header.take("version to e_phoff", 34)
    table_at = header.little("e_shoff", 8)
    header.take("e_flags to e_phnum", 10)
    entry_size, count, names_at = (
        header.little(field, 2) for field in ("e_shentsize", "e_shnum", "e_shstrndx")
    )
    if not count:
        return None
    if entry_size != _SECTION_HEADER_BYTES or count > _MAX_SECTIONS or names_at >= count:
        want = f"{_SECTION_HEADER_BYTES}-byte entries, at most {_MAX_SECTIONS}, one of them their names"
        got = f"{count} of {entry_size} bytes, names in {names_at}"
        raise Malformed(_WHAT, at="section headers", want=want, got=got)
    table = Cursor(view[table_at : table_at + count * _SECTION_HEADER_BYTES], _WHAT)
    found = [_section(table) for _ in range(count)]
    names = _content(view, found[names_at][1], "section names")
    for name_at, content in found:
        if content.kind != _SHT_NOBITS and _text(names, name_at, "sh_name") == name:
            return _content(view, content, f"section {name}")
    return None


def _section(table: Cursor) -> tuple[int, _Segment]:
    name_at, kind = table.little("sh_name", 4), table.little("sh_type", 4)
    table.take("sh_flags", 8)
    address, offset, size = (table.little(field, 8) for field in ("sh_addr", "sh_offset", "sh_size"))
    table.take("sh_link to sh_entsize", 24)
    return name_at, _Segment(kind, offset, address, size)


def _identify(header: Cursor) -> None:
    magic = header.take("magic", 4)
    if magic != MAGIC:
        raise Malformed(_WHAT, at="magic at offset 0", want="7f454c46", got=magic.hex())
    kind = header.take("class and byte order", 2)
    if kind != b"\x02\x01":
        raise Unsupported(_WHAT, at="class and byte order", want="64-bit little-endian", got=kind.hex())


def _segments(view: memoryview) -> tuple[_Segment, ...]:
    header = Cursor(view[:_HEADER_BYTES], _WHAT)
    _identify(header)
    header.take("version to e_entry", 26)
    table_at = header.little("e_phoff", 8)
    header.take("e_shoff to e_ehsize", 14)
    entry_size, count = header.little("e_phentsize", 2), header.little("e_phnum", 2)
    if count and (entry_size != _PROGRAM_HEADER_BYTES or count > _MAX_HEADERS):
        want = f"{_PROGRAM_HEADER_BYTES}-byte entries, at most {_MAX_HEADERS}"
        raise Malformed(_WHAT, at="program headers", want=want, got=f"{count} of {entry_size} bytes")
    table = Cursor(view[table_at : table_at + count * _PROGRAM_HEADER_BYTES], _WHAT)
    found = []
    for _ in range(count):
        kind_, _flags = table.little("p_type", 4), table.take("p_flags", 4)
        offset, address = table.little("p_offset", 8), table.little("p_vaddr", 8)
        table.take("p_paddr", 8)
        size = table.little("p_filesz", 8)
        table.take("p_memsz and p_align", 16)
        found.append(_Segment(kind_, offset, address, size))
    return tuple(found)


def _content(view: memoryview, segment: _Segment, what: str) -> memoryview:
    if segment.offset + segment.size > len(view):
        got = f"{segment.offset} + {segment.size}"
        raise Malformed(_WHAT, at=what, want=f"bytes within the file's {len(view)}", got=got)
    return view[segment.offset : segment.offset + segment.size]


def _tags(table: memoryview) -> list[tuple[int, int]]:
    found = []
    reader = Cursor(table, _WHAT)
    while reader.left >= _DYNAMIC_BYTES:
        tag, value = reader.little("d_tag", 8), reader.little("d_val", 8)
        if tag == _DT_NULL:
            break
        found.append((tag, value))
    return found


def _strings(view: memoryview, segments: tuple[_Segment, ...], tags: dict[int, int]) -> memoryview:
    """Return the string table, which the dynamic section names by its address in memory."""
    if _DT_STRTAB not in tags:
        return view[:0]
    address, size = tags[_DT_STRTAB], tags.get(_DT_STRSZ, 0)
    for segment in segments:
        start = address - segment.address
        if segment.kind == _PT_LOAD and 0 <= start <= segment.size - size:
            content = _content(view, segment, "PT_LOAD")
            return content[start : start + size]
    raise Malformed(_WHAT, at="DT_STRTAB", want="an address that some segment loads", got=hex(address))


def _text(strings: memoryview, at: int, what: str) -> str:
    raw = bytes(strings[at : at + _MAX_NAME_BYTES])
    text, end, _ = raw.partition(b"\0")
    if not end:
        raise Malformed(_WHAT, at=what, want="a text that ends with a zero byte", got=f"offset {at}")
    return text.decode("utf-8", "surrogateescape")
