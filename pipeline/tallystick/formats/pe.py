"""PE/COFF images: the headers, the sections, and the digest that firmware measures of them.

Sources: Microsoft, PE Format; Microsoft, Windows Authenticode Portable Executable Signature Format (2008);
edk2-stable202211, SecurityPkg/Tcg/Tcg2Dxe/MeasureBootPeCoff.c, MeasurePeImageAndExtend.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats.cursor import Cursor

_WHAT = "PE image"
_DOS_HEADER_BYTES = 64
_MAX_SECTIONS = 96  # the Windows loader's own limit (PE Format, COFF File Header)
_FILE_HEADER_BYTES = 20
_SECTION_HEADER_BYTES = 40
_DIRECTORY_ENTRY_BYTES = 8
_SECURITY = 4  # IMAGE_DIRECTORY_ENTRY_SECURITY
_CHECKSUM_AT = 64  # of CheckSum in the optional header; the same in PE32 and PE32+
_DIRECTORIES_AT = {0x10B: 96, 0x20B: 112}  # by Magic: PE32, PE32+
_MAX_DIRECTORIES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section header. Offsets and sizes are in bytes; ``raw`` is of the file, ``virtual`` of memory."""

    name: str
    virtual_address: int
    virtual_size: int
    raw_offset: int
    raw_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeImage:
    """An image whose headers hold, over bytes that are not copied."""

    data: memoryview
    machine: int
    sections: tuple[Section, ...]  # in the order of the section table
    headers_size: int  # SizeOfHeaders
    checksum_at: int  # file offset of CheckSum
    security_entry_at: int | None  # file offset of the certificate table's directory entry
    certificates_size: int  # 0 when the image is not signed

    def content(self, section: Section) -> memoryview:
        """Return the bytes of ``section`` as they lie in memory, as far as the file holds them."""
        size = min(section.virtual_size, section.raw_size)
        return self.data[section.raw_offset : section.raw_offset + size]


def parse(data: bytes | memoryview) -> PeImage:
    """Return the image in ``data``.

    Stricter than firmware where firmware would hash one thing and run another: raw ranges may not overlap
    each other or the headers, and must lie in the file.

    Raises:
        Malformed: the bytes break the format; the field and its offset are named.
        Unsupported: an optional header that is neither PE32 nor PE32+.
    """
    view = memoryview(data).toreadonly()
    dos = Cursor(view[:_DOS_HEADER_BYTES], _WHAT)
    if dos.take("e_magic", 2) != b"MZ":
        raise Malformed(_WHAT, at="e_magic at offset 0", want="MZ", got=bytes(view[:2]).hex())
    dos.take("the DOS header", 58)
    start = dos.little("e_lfanew", 4)
    if start > len(view):
        raise _bad("e_lfanew", 60, want=f"at most {len(view)}", got=f"{start}")
    reader = Cursor(view[start : start + 4 + _FILE_HEADER_BYTES], _WHAT)
    if (signature := reader.take("Signature", 4)) != b"PE\0\0":
        raise _bad("Signature", start, want="50450000", got=signature.hex())
    machine = reader.little("Machine", 2)
    count = reader.little("NumberOfSections", 2)
    reader.take("TimeDateStamp, PointerToSymbolTable, NumberOfSymbols", 12)
    optional_size = reader.little("SizeOfOptionalHeader", 2)
    if not 1 <= count <= _MAX_SECTIONS:
        raise _bad("NumberOfSections", start + 6, want=f"1 to {_MAX_SECTIONS}", got=f"{count}")

    optional_at = start + 4 + _FILE_HEADER_BYTES
    table_at = optional_at + optional_size
    table_end = table_at + count * _SECTION_HEADER_BYTES
    headers_size, security_at, certificates = _optional_header(view, optional_at, optional_size)
    if not table_end <= headers_size <= len(view):
        raise _bad(
            "SizeOfHeaders", optional_at + 60, want=f"{table_end} to {len(view)}", got=f"{headers_size}"
        )
    sections = _sections(view, table_at, count)
    _check_ranges(sections, headers_size, len(view) - certificates)
    return PeImage(
        data=view,
        machine=machine,
        sections=sections,
        headers_size=headers_size,
        checksum_at=optional_at + _CHECKSUM_AT,
        security_entry_at=security_at,
        certificates_size=certificates,
    )


def authenticode(image: PeImage, algorithm: Algorithm = Algorithm.SHA256) -> Digest:
    """Return the digest that edk2 extends for ``image``.

    No padding: tools that *sign* pad the image to 8 bytes before they hash, firmware does not, so the two
    digests of an image of odd size differ.
    """
    hasher = hashlib.new(algorithm.label)
    data, after_checksum = image.data, image.checksum_at + 4
    hasher.update(data[: image.checksum_at])
    if image.security_entry_at is None:
        hasher.update(data[after_checksum : image.headers_size])
    else:
        hasher.update(data[after_checksum : image.security_entry_at])
        hasher.update(data[image.security_entry_at + _DIRECTORY_ENTRY_BYTES : image.headers_size])
    hashed = image.headers_size
    for section in sorted(image.sections, key=lambda section: section.raw_offset):
        hasher.update(data[section.raw_offset : section.raw_offset + section.raw_size])
        hashed += section.raw_size
    # The rest is counted, not located: edk2 takes it from the *sum* of what was hashed, gaps and all.
    hasher.update(data[hashed : len(data) - image.certificates_size])
    return Digest(algorithm, hasher.digest())


def _optional_header(view: memoryview, at: int, size: int) -> tuple[int, int | None, int]:
    """Return SizeOfHeaders, the file offset of the security entry, and the certificate table's size."""
    reader = Cursor(view[at : at + size], _WHAT)
    magic = reader.little("Magic", 2)
    directories_at = _DIRECTORIES_AT.get(magic)
    if directories_at is None:
        raise Unsupported(_WHAT, at=f"Magic at offset {at}", want="10b or 20b", got=f"{magic:x}")
    reader.take("the optional header", 58)
    headers_size = reader.little("SizeOfHeaders", 4)
    reader.take("the optional header", directories_at - 4 - 64)
    count = reader.little("NumberOfRvaAndSizes", 4)
    if count > _MAX_DIRECTORIES:
        raise _bad(
            "NumberOfRvaAndSizes", at + directories_at - 4, want=f"at most {_MAX_DIRECTORIES}", got=f"{count}"
        )
    reader.take("DataDirectory", count * _DIRECTORY_ENTRY_BYTES)
    if count <= _SECURITY:
        return headers_size, None, 0
    entry_at = at + directories_at + _SECURITY * _DIRECTORY_ENTRY_BYTES
    entry = Cursor(view[entry_at : entry_at + _DIRECTORY_ENTRY_BYTES], _WHAT)
    table_at, table_size = entry.little("Certificate Table", 4), entry.little("Certificate Table Size", 4)
    if (table_at, table_size) != (0, 0) and table_at + table_size != len(view):
        raise _bad(
            "Certificate Table",
            entry_at,
            want=f"a table that ends the file, at {len(view)}",
            got=f"{table_at} + {table_size}",
        )
    if table_size and table_at < headers_size:
        raise _bad("Certificate Table", entry_at, want=f"at least {headers_size}", got=f"{table_at}")
    return headers_size, entry_at, table_size


def _sections(view: memoryview, at: int, count: int) -> tuple[Section, ...]:
    reader = Cursor(view[at : at + count * _SECTION_HEADER_BYTES], _WHAT)
    found = []
    for index in range(count):
        raw_name = reader.take(f"section {index} Name", 8).rstrip(b"\0")
        if not all(0x20 <= byte < 0x7F for byte in raw_name):
            raise _bad(
                f"section {index} Name",
                at + index * _SECTION_HEADER_BYTES,
                want="printable ASCII",
                got=raw_name.hex(),
            )
        virtual_size = reader.little("VirtualSize", 4)
        virtual_address = reader.little("VirtualAddress", 4)
        raw_size = reader.little("SizeOfRawData", 4)
        raw_offset = reader.little("PointerToRawData", 4)
        reader.take("relocations, line numbers, Characteristics", 16)
        found.append(
            Section(
                name=raw_name.decode("ascii"),
                virtual_address=virtual_address,
                virtual_size=virtual_size,
                raw_offset=raw_offset,
                raw_size=raw_size,
            )
        )
    return tuple(found)


def _check_ranges(sections: tuple[Section, ...], headers_size: int, end: int) -> None:
    """Refuse raw ranges that leave the file, or lie over one another or the headers."""
    free_from, before = headers_size, "the headers"
    for section in sorted(sections, key=lambda section: section.raw_offset):
        if section.raw_size == 0:
            continue
        if section.raw_offset < free_from:
            raise Malformed(
                _WHAT,
                at=f"section {section.name} PointerToRawData",
                want=f"at least {free_from}, where {before} end",
                got=f"{section.raw_offset}",
            )
        free_from, before = section.raw_offset + section.raw_size, f"the bytes of {section.name}"
        if free_from > end:
            raise Malformed(
                _WHAT,
                at=f"section {section.name} SizeOfRawData",
                want=f"an end of at most {end}",
                got=f"{free_from}",
            )


def _bad(field: str, offset: int, *, want: str, got: str) -> Malformed:
    return Malformed(_WHAT, at=f"{field} at offset {offset}", want=want, got=got)
