"""OVMF firmware: the GUIDed table before the reset vector, and the sections it says are to be measured.

Source: edk2 OvmfPkg/ResetVector: Ia16/ResetVectorVtf0.asm (the table), X64/OvmfSevMetadata.asm (SEV),
X64/IntelTdxMetadata.asm (TDVF sections; Intel TDX Virtual Firmware Design Guide, section 11).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from types import MappingProxyType

from tallystick.core import guid
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats.cursor import Cursor

PAGE_BYTES = 4096
FOUR_GIB = 1 << 32
_MAX_SECTION_BYTES = 1 << 30  # far above any firmware's; keeps a lying table from costing hours of hashing
_MAX_EXTENDED_BYTES = 64 << 20  # of one section that is hashed byte by byte; OVMF's has 4 MiB at most
_MAX_SECTIONS = 64
_TABLE_END_BYTES = 32  # from the end of the file: the reset vector
_ENTRY_HEADER_BYTES = 18  # u16 length and a GUID, both after the entry's data

FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"
SEV_HASH_TABLE = "7255371f-3a3b-4b04-927b-1da6efa8d454"
SEV_ES_RESET_BLOCK = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
SEV_METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
SVSM_INFO = "a789a612-0597-4c4b-a49f-cbb1fe9d1ddd"
TDX_METADATA = "e47a6535-984a-4798-865e-4685a7bf8ec2"


class SevSection(Enum):
    """Types of SEV metadata sections (OvmfSevMetadata.asm)."""

    SNP_SEC_MEM = 1
    SNP_SECRETS = 2
    CPUID = 3
    SVSM_CAA = 4
    SNP_KERNEL_HASHES = 0x10


@dataclass(frozen=True, slots=True, kw_only=True)
class SevRange:
    """One guest physical range that the VMM prepares before launch."""

    kind: SevSection
    gpa: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxSection:
    """One TDVF section: bytes of the file, or memory, that the VMM adds to the TD."""

    kind: int  # 0 BFV, 1 CFV, 2 TD_HOB, 3 TempMem, 4 PermMem, 5 Payload, 6 PayloadParam
    data_offset: int
    raw_bytes: int
    gpa: int
    memory_bytes: int
    extended: bool  # attribute bit 0, MR.EXTEND: contents are measured, not only the page's address
    augmented: bool  # attribute bit 1, PAGE.AUG: added after launch, so not measured at all


@dataclass(frozen=True, slots=True)
class Firmware:
    """A firmware file and its GUIDed table."""

    data: bytes
    table: Mapping[str, bytes]  # GUID -> data

    @property
    def gpa(self) -> int:
        """Where QEMU maps the file: it ends at 4 GiB."""
        return FOUR_GIB - len(self.data)

    def number(self, guid: str, name: str) -> int:
        """Return the 32-bit number that the table's entry ``guid`` starts with.

        Raises:
            Unsupported: the firmware has no such entry.
            Malformed: the entry is shorter than that.
        """
        if guid not in self.table:
            raise Unsupported("firmware", at=f"table entry {name}", want=guid, got="no such entry")
        return Cursor(self.table[guid], f"firmware table entry {name}").little("offset", 4)

    def sev_ranges(self) -> tuple[SevRange, ...]:
        """Return the SEV metadata sections in the table's own order, which is the order of measuring.

        Raises:
            Unsupported: the firmware carries no SEV metadata, a version other than 1, or an unknown type.
            Malformed: sections that overlap, are unaligned, or lie outside the file or address space.
        """
        what = "firmware SEV metadata"
        cursor = self._descriptor(SEV_METADATA, "OVMF_SEV_META_DATA", what)
        if cursor.take("signature", 4) != b"ASEV":
            raise cursor.bad("signature", want="ASEV", got="something else")
        size, version, count = (cursor.little(name, 4) for name in ("size", "version", "count"))
        if version != 1:
            raise Unsupported(what, at="version", want="1", got=str(version))
        if count > _MAX_SECTIONS or size != 16 + 12 * count:
            raise cursor.bad("count", want=f"{(size - 16) // 12} sections in {size} bytes", got=str(count))
        ranges = tuple(_sev_range(cursor, what, index) for index in range(count))
        _refuse_overlap([(r.gpa, r.size_bytes) for r in ranges], what)
        return ranges

    def tdx_sections(self) -> tuple[TdxSection, ...]:
        """Return the TDVF sections in the descriptor's own order.

        Raises:
            Unsupported: the firmware carries no TDVF descriptor, or one of another version.
            Malformed: sections that overlap, are unaligned, or lie outside the file.
        """
        what = "firmware TDVF metadata"
        cursor = self._descriptor(TDX_METADATA, "TDX_METADATA_OFFSET", what)
        if cursor.take("signature", 4) != b"TDVF":
            raise cursor.bad("signature", want="TDVF", got="something else")
        size, version, count = (cursor.little(name, 4) for name in ("length", "version", "count"))
        if version != 1:
            raise Unsupported(what, at="version", want="1", got=str(version))
        if count > _MAX_SECTIONS or size < 16 + 32 * count:
            raise cursor.bad(
                "count", want=f"at most {(size - 16) // 32} sections in {size} bytes", got=str(count)
            )
        sections = tuple(self._tdx_section(cursor, index) for index in range(count))
        _refuse_overlap([(s.gpa, s.memory_bytes) for s in sections], what)
        return sections

    def _descriptor(self, guid: str, name: str, what: str) -> Cursor:
        offset = self.number(guid, name)
        if not 16 <= offset <= len(self.data):
            raise Malformed(what, at=name, want=f"16 to {len(self.data)} bytes from the end", got=str(offset))
        return Cursor(self.data[len(self.data) - offset :], what)

    def _tdx_section(self, cursor: Cursor, index: int) -> TdxSection:
        data_offset, raw = cursor.little("data offset", 4), cursor.little("raw size", 4)
        gpa, memory = cursor.little("memory address", 8), cursor.little("memory size", 8)
        kind, attributes = cursor.little("type", 4), cursor.little("attributes", 4)
        at = f"section {index}"
        if gpa % PAGE_BYTES or memory % PAGE_BYTES or memory > _MAX_SECTION_BYTES:
            raise cursor.bad(at, want="whole pages, at most 1 GiB", got=f"{memory:#x} bytes at {gpa:#x}")
        if data_offset + raw > len(self.data) or raw > memory:
            raise cursor.bad(at, want="bytes inside the file", got=f"{raw:#x} bytes at {data_offset:#x}")
        if attributes & 1 and memory > _MAX_EXTENDED_BYTES:
            raise cursor.bad(at, want="at most 64 MiB whose contents are measured", got=f"{memory:#x} bytes")
        if attributes & ~0b11:
            raise Unsupported(
                "firmware TDVF metadata", at=f"{at} attributes", want="bits 0 and 1", got=hex(attributes)
            )
        return TdxSection(
            kind=kind,
            data_offset=data_offset,
            raw_bytes=raw,
            gpa=gpa,
            memory_bytes=memory,
            extended=bool(attributes & 1),
            augmented=bool(attributes & 2),
        )


def parse(data: bytes) -> Firmware:
    """Return the firmware in ``data``.

    Raises:
        Unsupported: there is no OVMF table: not a firmware that says how it is measured.
        Malformed: not whole pages, or a table whose entries do not fill it.
    """
    if not data or len(data) % PAGE_BYTES or len(data) > FOUR_GIB // 2:
        raise Malformed("firmware", at="size", want="whole pages of 4096 bytes", got=f"{len(data)} bytes")
    end = len(data) - _TABLE_END_BYTES
    size, name = _entry(data, end)
    if name != FOOTER:
        raise Unsupported(
            "firmware", at=f"table footer at offset {end:#x}", want=f"OVMF table footer {FOOTER}", got=name
        )
    end -= _ENTRY_HEADER_BYTES
    start = end - (size - _ENTRY_HEADER_BYTES)
    if size < _ENTRY_HEADER_BYTES or start < 0:
        raise Malformed(
            "firmware", at=f"table length at offset {end:#x}", want="a table inside the file", got=str(size)
        )
    table: dict[str, bytes] = {}
    while end > start:
        if end - start < _ENTRY_HEADER_BYTES:
            raise Malformed(
                "firmware",
                at=f"table at offset {start:#x}",
                want="whole entries",
                got=f"{end - start} bytes over",
            )
        size, name = _entry(data, end)
        if not _ENTRY_HEADER_BYTES <= size <= end - start:
            raise Malformed(
                "firmware", at=f"table entry {name}", want="a length inside the table", got=str(size)
            )
        if name in table:
            raise Malformed("firmware", at=f"table entry {name}", want="each entry once", got="a second one")
        table[name] = data[end - size : end - _ENTRY_HEADER_BYTES]
        end -= size
    return Firmware(data, MappingProxyType(table))


def _entry(data: bytes, end: int) -> tuple[int, str]:
    header = data[end - _ENTRY_HEADER_BYTES : end]
    return int.from_bytes(header[:2], "little"), guid.text(header[2:])


def _sev_range(cursor: Cursor, what: str, index: int) -> SevRange:
    gpa, size, kind = (cursor.little(name, 4) for name in ("gpa", "size", "type"))
    if gpa % PAGE_BYTES or size % PAGE_BYTES or not 0 < size <= _MAX_SECTION_BYTES or gpa + size > FOUR_GIB:
        raise cursor.bad(
            f"section {index}", want="whole pages below 4 GiB", got=f"{size:#x} bytes at {gpa:#x}"
        )
    try:
        return SevRange(kind=SevSection(kind), gpa=gpa, size_bytes=size)
    except ValueError:
        raise Unsupported(
            what, at=f"section {index} type", want="1, 2, 3, 4 or 0x10", got=hex(kind)
        ) from None


def _refuse_overlap(ranges: list[tuple[int, int]], what: str) -> None:
    ordered = sorted(r for r in ranges if r[1])
    for (gpa, size), (next_gpa, _) in pairwise(ordered):
        if gpa + size > next_gpa:
            raise Malformed(
                what,
                at=f"section at {next_gpa:#x}",
                want=f"no overlap with {gpa:#x}+{size:#x}",
                got="an overlap",
            )
