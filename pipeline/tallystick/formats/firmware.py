"""OVMF firmware images: firmware volumes, their files, and the two volumes packed inside the LZMA section.

Sources: UEFI Platform Initialization Specification 1.7, Volume 3, 3.2 (volumes, files, sections);
edk2-stable202211, MdeModulePkg/Library/LzmaCustomDecompressLib and OvmfPkg/OvmfPkgX64.fdf.
"""

from __future__ import annotations

import lzma
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats.cursor import Cursor

_WHAT = "firmware image"
MAX_IMAGE_BYTES = 64 << 20
_MAX_UNPACKED_BYTES = 128 << 20  # OVMF's own is 14 MB
_VOLUME_HEADER_BYTES = 56  # EFI_FIRMWARE_VOLUME_HEADER up to its block map
_FILE_HEADER_BYTES = 24  # EFI_FFS_FILE_HEADER
_LARGE_FILE = 0x01  # FFS_ATTRIB_LARGE_FILE
_SECTION_HEADER_BYTES = 4
_EXTENDED = 0xFFFFFF  # a 24-bit size that says "see the 32-bit one"
_GUID_DEFINED, _FIRMWARE_VOLUME_IMAGE = 0x02, 0x17  # section types
_PEI_CORE, _DXE_CORE, _PAD = 0x04, 0x05, 0xF0  # file types
_LZMA_HEADER_BYTES = 13
LZMA_CUSTOM_DECOMPRESS = uuid.UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
# File systems whose volumes hold files: EFI_FIRMWARE_FILE_SYSTEM2_GUID and ..3_GUID.
_FILE_SYSTEMS = frozenset(
    uuid.UUID(text).bytes_le
    for text in ("8c8ce578-8a3d-4f1c-9935-896185c32dd3", "5473c07a-3dcb-4dca-bd6f-1e9689e7349a")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a firmware volume."""

    guid: uuid.UUID
    kind: int  # EFI_FV_FILETYPE
    offset: int  # of its first content byte, from the start of the volume
    content: memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """The two volumes that OVMF unpacks into memory and measures. Bytes as packed, not as measured."""

    pei: memoryview  # PEIFV: its modules run where they lie
    dxe: memoryview  # DXEFV


def parse(data: bytes | memoryview) -> Firmware:
    """Return the two packed volumes of the firmware image ``data``.

    Raises:
        Malformed: a volume, file or section breaks the format.
        Unsupported: no LZMA section, or not one PEI and one DXE volume in it.
    """
    view = memoryview(data).toreadonly()
    if len(view) > MAX_IMAGE_BYTES:
        raise Malformed(_WHAT, at="size", want=f"at most {MAX_IMAGE_BYTES} bytes", got=f"{len(view)}")
    packed = list(_packed_sections(view))
    if len(packed) != 1:
        raise Unsupported(_WHAT, at="LZMA sections", want="one", got=f"{len(packed)}")
    found: dict[int, list[memoryview]] = {_PEI_CORE: [], _DXE_CORE: []}
    for kind, content in _sections(_unpack(packed[0])):
        if kind == _FIRMWARE_VOLUME_IMAGE:
            for core in {file.kind for file in files(content)} & found.keys():
                found[core].append(content)
    if [len(volumes) for volumes in found.values()] != [1, 1]:
        raise Unsupported(
            _WHAT,
            at="the LZMA section",
            want="one volume with a PEI core and one with a DXE core",
            got=f"{len(found[_PEI_CORE])} and {len(found[_DXE_CORE])}",
        )
    return Firmware(pei=found[_PEI_CORE][0], dxe=found[_DXE_CORE][0])


def modules(data: bytes | memoryview) -> frozenset[uuid.UUID]:
    """Return the name of every file in every volume of the firmware image ``data``, packed ones included.

    Raises:
        Malformed: a volume, file or section breaks the format, or unpacks to more than any firmware's.
    """
    view = memoryview(data).toreadonly()
    if len(view) > MAX_IMAGE_BYTES:
        raise Malformed(_WHAT, at="size", want=f"at most {MAX_IMAGE_BYTES} bytes", got=f"{len(view)}")
    found: set[uuid.UUID] = set()
    for packed in _packed_sections(view):
        for kind, content in _sections(_unpack(packed)):
            if kind == _FIRMWARE_VOLUME_IMAGE:
                found |= {file.guid for file in files(content)}
    return frozenset(found)


def files(volume: memoryview) -> Iterator[File]:
    """Give the files of ``volume``, padding left out.

    Raises:
        Malformed: the volume's header, or a file's, breaks the format.
    """
    length, at = _volume_header(volume)
    while at + _FILE_HEADER_BYTES <= length:
        header = Cursor(volume[at : at + _FILE_HEADER_BYTES + 8], _WHAT)
        name = header.take("Name", 16)
        header.take("IntegrityCheck", 2)
        kind, attributes = header.little("Type", 1), header.little("Attributes", 1)
        size, state = header.little("Size", 3), header.take("State", 1)
        if name + state == b"\xff" * 17 and size == _EXTENDED:
            return  # erased flash: free space
        header_size = _FILE_HEADER_BYTES
        if attributes & _LARGE_FILE:
            size, header_size = header.little("ExtendedSize", 8), _FILE_HEADER_BYTES + 8
        if not header_size <= size <= length - at:
            raise _bad("file Size", at, want=f"{header_size} to {length - at}", got=f"{size}")
        if kind != _PAD:
            yield File(
                guid=uuid.UUID(bytes_le=name),
                kind=kind,
                offset=at + header_size,
                content=volume[at + header_size : at + size],
            )
        at = _aligned(at + size, 8)


def _packed_sections(image: memoryview) -> Iterator[memoryview]:
    """Give the contents of the LZMA sections of every file of every volume."""
    at = 0
    while at + _VOLUME_HEADER_BYTES <= len(image):
        length, _ = _volume_header(image[at:])
        volume = image[at : at + length]
        if bytes(volume[16:32]) in _FILE_SYSTEMS:
            for file in files(volume):
                if file.kind == _FIRMWARE_VOLUME_IMAGE_FILE:
                    yield from _lzma_sections(file.content)
        at += length


_FIRMWARE_VOLUME_IMAGE_FILE = 0x0B  # EFI_FV_FILETYPE_FIRMWARE_VOLUME_IMAGE


def _lzma_sections(content: memoryview) -> Iterator[memoryview]:
    for kind, section in _sections(content):
        if kind != _GUID_DEFINED:
            continue
        header = Cursor(section[:20], _WHAT)
        if header.take("SectionDefinitionGuid", 16) != LZMA_CUSTOM_DECOMPRESS.bytes_le:
            continue
        offset = header.little("DataOffset", 2) - _SECTION_HEADER_BYTES  # counted from the section's header
        if not 20 <= offset <= len(section):
            raise Malformed(_WHAT, at="DataOffset", want=f"20 to {len(section)}", got=f"{offset}")
        yield section[offset:]


def _volume_header(volume: memoryview) -> tuple[int, int]:
    """Return FvLength and where the first file begins."""
    header = Cursor(volume[:_VOLUME_HEADER_BYTES], _WHAT)
    header.take("ZeroVector and FileSystemGuid", 32)
    length = header.little("FvLength", 8)
    if (signature := header.take("Signature", 4)) != b"_FVH":
        raise _bad("volume Signature", 40, want="_FVH", got=signature.hex())
    header.take("Attributes", 4)
    header_length = header.little("HeaderLength", 2)
    header.take("Checksum", 2)
    extended_at = header.little("ExtHeaderOffset", 2)
    if not _VOLUME_HEADER_BYTES <= header_length <= length <= len(volume):
        raise _bad(
            "FvLength",
            32,
            want=f"HeaderLength ({header_length}) to {len(volume)}",
            got=f"{length}",
        )
    if extended_at == 0:
        return length, _aligned(header_length, 8)
    extended = Cursor(volume[extended_at : min(extended_at + 20, length)], _WHAT)
    extended.take("FvName", 16)
    return length, _aligned(extended_at + extended.little("ExtHeaderSize", 4), 8)


def _sections(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Give the type and the content of each section; the header is left out."""
    at = 0
    while at + _SECTION_HEADER_BYTES <= len(content):
        header = Cursor(content[at : at + 8], _WHAT)
        size, kind = header.little("section Size", 3), header.little("section Type", 1)
        header_size = _SECTION_HEADER_BYTES
        if size == _EXTENDED:
            size, header_size = header.little("section ExtendedSize", 4), 8
        if not header_size <= size <= len(content) - at:
            raise _bad("section Size", at, want=f"{header_size} to {len(content) - at}", got=f"{size}")
        yield kind, content[at + header_size : at + size]
        at = _aligned(at + size, 4)


def _unpack(packed: memoryview) -> memoryview:
    """Return what the LZMA stream ``packed`` holds, refusing one that claims or makes too much."""
    header = Cursor(packed[:_LZMA_HEADER_BYTES], _WHAT)
    header.take("LZMA properties", 5)
    size = header.little("LZMA uncompressed size", 8)
    if size > _MAX_UNPACKED_BYTES:
        raise _bad("LZMA uncompressed size", 5, want=f"at most {_MAX_UNPACKED_BYTES}", got=f"{size}")
    try:
        unpacked = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MAX_UNPACKED_BYTES).decompress(
            packed, max_length=size
        )
    except lzma.LZMAError as error:
        raise Malformed(_WHAT, at="the LZMA section", want="an LZMA stream", got=str(error)) from None
    if len(unpacked) != size:
        raise Malformed(_WHAT, at="the LZMA section", want=f"{size} bytes", got=f"{len(unpacked)}")
    return memoryview(unpacked)


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _bad(field: str, offset: int, *, want: str, got: str) -> Malformed:
    return Malformed(_WHAT, at=f"{field} at offset {offset}", want=want, got=got)
