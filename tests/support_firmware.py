"""Firmware images in the shape of OVMF, made at test time: two volumes inside an LZMA section."""

from __future__ import annotations

import lzma
import struct
import uuid

FFS2 = uuid.UUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3")
LZMA = uuid.UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
PLATFORM_PEI = uuid.UUID("222c386d-5abc-4fb4-b124-fbb82488acf4")
PEI_CORE, DXE_CORE, PEIM, VOLUME_FILE = 0x04, 0x05, 0x06, 0x0B
STRUCTURE_BYTES = 138  # EFI_HOB_PLATFORM_INFO with its HOB header


def section(kind: int, content: bytes, *, extended: bool = False) -> bytes:
    """Return one section, without the padding that the next one needs."""
    if extended:
        return b"\xff\xff\xff" + bytes([kind]) + struct.pack("<I", 8 + len(content)) + content
    return (4 + len(content)).to_bytes(3, "little") + bytes([kind]) + content


def sections(*parts: bytes) -> bytes:
    """Return sections one after another, each aligned to 4 bytes."""
    out = b""
    for part in parts:
        out += bytes(-len(out) % 4) + part
    return out


def file(kind: int, content: bytes, guid: uuid.UUID | None = None, *, large: bool = False) -> bytes:
    """Return one firmware file."""
    head = 32 if large else 24
    size = head + len(content)
    name = (guid or uuid.uuid5(uuid.NAMESPACE_OID, f"{kind} {len(content)}")).bytes_le
    start = name + b"\0\0" + bytes([kind, 1 if large else 0])
    if large:
        return start + b"\0\0\0" + b"\xf8" + size.to_bytes(8, "little") + content
    return start + size.to_bytes(3, "little") + b"\xf8" + content


def volume(*files: bytes, size: int = 0, system: uuid.UUID = FFS2, extended: bool = False) -> bytes:
    """Return a firmware volume; what is left of ``size`` is erased flash."""
    header = 72
    body = b""
    if extended:
        body = bytes(16) + struct.pack("<I", 20) + bytes(4)
    for one in files:
        body += b"\xff" * (-(header + len(body)) % 8) + one
    length = max(size, header + len(body))
    start = bytes(16) + system.bytes_le + struct.pack("<Q", length) + b"_FVH" + bytes(4)
    start += struct.pack("<HHHBB", header, 0, header if extended else 0, 0, 2) + bytes(16)
    return (start + body).ljust(length, b"\xff")


def packed(inner: bytes, *, data_offset: int = 24) -> bytes:
    """Return the GUID-defined section that holds ``inner``, compressed."""
    stream = lzma.compress(inner, format=lzma.FORMAT_ALONE)
    stream = stream[:5] + struct.pack("<Q", len(inner)) + stream[13:]
    return section(0x02, LZMA.bytes_le + struct.pack("<HH", data_offset, 1) + stream)


def platform_pei(*, uses: int = 1, filled: bytes = b"", distance: int | None = None) -> bytes:
    """Return a stand-in for PlatformPei: code that uses its global, then the global."""
    code = b""
    for index in range(uses):
        after = 13 * (uses - 1 - index)
        step = 19 + after if distance is None else distance
        code += b"\x41\xb8" + struct.pack("<I", STRUCTURE_BYTES) + b"\x48\x8d\x15" + struct.pack("<i", step)
    return code + b"\xcc" * 19 + bytes(24) + filled.ljust(STRUCTURE_BYTES - 24 + 8, b"\0")


def image(
    pei: bytes | None = None, dxe: bytes | None = None, *more: bytes, wrap: bytes | None = None
) -> bytes:
    """Return a firmware image: a variable store, then a volume with the packed volumes."""
    pei = pei_volume() if pei is None else pei
    dxe = volume(file(DXE_CORE, b"dxe core"), size=4096) if dxe is None else dxe
    inner = sections(section(0x19, b"\0" * 4), *(section(0x17, one) for one in (pei, dxe, *more)))
    store = volume(system=uuid.UUID("fff12b8d-7696-4c8b-a985-2747075b4f50"), size=1024)
    content = packed(inner) if wrap is None else wrap
    return store + volume(file(VOLUME_FILE, content), size=8192)


def pei_volume(module: bytes | None = None) -> bytes:
    """Return a PEI volume that holds a core and PlatformPei."""
    return volume(
        file(PEI_CORE, b"pei core"),
        file(PEIM, platform_pei() if module is None else module, PLATFORM_PEI),
        size=2048,
    )
