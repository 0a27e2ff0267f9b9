"""AWS Nitro Enclaves image files (EIF): the sections that an enclave starts from.

Source: aws/aws-nitro-enclaves-image-format, src/defs/mod.rs: a 548-byte big-endian header, then sections that each
begin with a 12-byte header of their own.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import Enum

from tallystick.core.errors import Malformed, Unsupported

HEADER_BYTES = 548
SECTION_HEADER_BYTES = 12
MAX_SECTIONS = 32
_VERSIONS = (3, 4)  # 4 adds the metadata section
_HEADER = struct.Struct(">4sHHQQHH32Q32QII")
_WHAT = "EIF"


class Kind(Enum):
    """Section types (EifSectionType)."""

    KERNEL = 1
    CMDLINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its type and where its bytes lie."""

    kind: Kind
    data: memoryview


@dataclass(frozen=True, slots=True)
class Eif:
    """An image file whose header, section table and CRC hold."""

    version: int
    arm64: bool
    sections: tuple[Section, ...]

    def only(self, kind: Kind) -> memoryview:
        """Return the bytes of the one section of this kind; the parser has made sure that it is one."""
        return next(section.data for section in self.sections if section.kind is kind)

    def every(self, kind: Kind) -> tuple[memoryview, ...]:
        """Return the bytes of every section of this kind, in file order."""
        return tuple(section.data for section in self.sections if section.kind is kind)


def parse(data: bytes | memoryview) -> Eif:
    """Return the image in ``data``; nothing is copied.

    Raises:
        Malformed: the bytes break the format, the CRC is wrong, sections leave gaps or overlap; the field and its
            offset are named.
        Unsupported: another version of the format, or a section type that it does not know.
    """
    view = memoryview(data)
    if len(view) < HEADER_BYTES:
        raise _bad("header at offset 0", f"{HEADER_BYTES} bytes", f"{len(view)}")
    magic, version, flags, _, _, _, count, *rest = _HEADER.unpack_from(view)
    offsets, sizes, crc = rest[:32], rest[32:64], rest[65]
    if magic != b".eif":
        raise _bad("magic at offset 0", ".eif", magic.hex())
    if version not in _VERSIONS:
        raise Unsupported(_WHAT, at="version at offset 4", want="3 or 4", got=str(version))
    if flags & ~1:
        raise Unsupported(_WHAT, at="flags at offset 6", want="bit 0 (arm64) alone", got=hex(flags))
    if not 1 <= count <= MAX_SECTIONS:
        raise _bad("number of sections at offset 26", f"1 to {MAX_SECTIONS}", str(count))
    actual = zlib.crc32(view[HEADER_BYTES:], zlib.crc32(view[: HEADER_BYTES - 4]))
    if actual != crc:
        raise _bad(f"CRC at offset {HEADER_BYTES - 4}", f"{actual:08x}", f"{crc:08x}")
    sections, end = [], HEADER_BYTES
    for index in range(count):
        section, end = _section(view, index, end, offsets[index], sizes[index])
        sections.append(section)
    if end != len(view):
        raise _bad(f"end at offset {end}", "no more bytes", f"{len(view) - end} bytes")
    _check_kinds(sections)
    return Eif(version, bool(flags & 1), tuple(sections))


def _section(view: memoryview, index: int, at: int, offset: int, size: int) -> tuple[Section, int]:
    """Return the section that begins at ``at``, and where it ends."""
    if offset != at:
        raise _bad(f"offset of section {index}", str(at), str(offset))
    if at + SECTION_HEADER_BYTES + size > len(view):
        raise _bad(f"size of section {index}", f"at most {len(view) - at - SECTION_HEADER_BYTES}", str(size))
    kind, _, said = struct.unpack_from(">HHQ", view, at)
    if said != size:
        raise _bad(f"size in section {index}'s header at offset {at + 4}", str(size), str(said))
    start = at + SECTION_HEADER_BYTES
    try:
        return Section(Kind(kind), view[start : start + size]), start + size
    except ValueError:
        raise Unsupported(
            _WHAT, at=f"type of section {index} at offset {at}", want="1 to 5", got=str(kind)
        ) from None


def _check_kinds(sections: list[Section]) -> None:
    for kind, least, most in (
        (Kind.KERNEL, 1, 1),
        (Kind.CMDLINE, 1, 1),
        (Kind.RAMDISK, 1, MAX_SECTIONS),
        (Kind.SIGNATURE, 0, 1),
        (Kind.METADATA, 0, 1),
    ):
        found = sum(section.kind is kind for section in sections)
        if not least <= found <= most:
            raise _bad(f"{kind.name.lower()} sections", f"{least} to {most}", str(found))


def _bad(at: str, want: str, got: str) -> Malformed:
    return Malformed(_WHAT, at=at, want=want, got=got)
