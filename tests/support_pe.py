"""PE images and unified kernel images, made at test time."""

from __future__ import annotations

import struct

ALIGNMENT = 0x200
MAGIC = b"#### LoaderInfo: systemd-stub %s ####\0"


def pe(
    sections: list[tuple[str, bytes]],
    *,
    plus: bool = True,
    directories: int = 16,
    certificate: bytes = b"",
    trailer: bytes = b"",
    checksum: int = 0,
    virtual_sizes: dict[str, int] | None = None,
) -> bytes:
    """Return a PE32+ (or PE32) image. ``trailer`` is data that no section covers."""
    fixed = 112 if plus else 96
    optional_size = fixed + 8 * directories
    headers_end = 64 + 4 + 20 + optional_size + 40 * len(sections)
    headers_size = aligned(headers_end)
    table, body, at, address = b"", b"", headers_size, 0x1000
    for name, data in sections:
        size = (virtual_sizes or {}).get(name, len(data))
        raw = aligned(len(data))
        table += struct.pack("<8sIIII", name.encode(), size, address, raw, at if raw else 0) + bytes(16)
        body += data.ljust(raw, b"\0")
        at, address = at + raw, address + max(0x1000, aligned(size, 0x1000))
    at += len(trailer)
    optional = struct.pack("<H", 0x20B if plus else 0x10B) + bytes(58)
    optional += struct.pack("<II", headers_size, checksum) + bytes(fixed - 4 - 68)
    entries = [(0, 0)] * directories
    if certificate:
        entries[4] = (at, len(certificate))
    optional += struct.pack("<I", directories) + b"".join(struct.pack("<II", *entry) for entry in entries)
    assert len(optional) == optional_size
    dos = b"MZ" + bytes(58) + struct.pack("<I", 64)
    head = dos + b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, optional_size, 0x206)
    return (head + optional + table).ljust(headers_size, b"\0") + body + trailer + certificate


def kernel(seed: bytes = b"kernel") -> bytes:
    """Return what stands for a kernel: a PE image of its own."""
    return pe([(".text", seed * 50), (".data", b"data")])


def uki(
    *,
    linux: bytes | None = None,
    cmdline: bytes | None = b"console=ttyS0",
    initrd: bytes | None = b"initrd bytes",
    osrel: bytes | None = b"ID=test\n",
    version: str = "252.39-1~deb12u2",
    more: tuple[tuple[str, bytes], ...] = (),
) -> bytes:
    """Return a unified kernel image whose stub is a few bytes of nothing."""
    given = [(".osrel", osrel), (".cmdline", cmdline), (".initrd", initrd)]
    sections = [(".text", b"stub"), (".sdmagic", MAGIC % version.encode())]
    sections += [(name, data) for name, data in given if data is not None]
    return pe([*sections, (".linux", kernel() if linux is None else linux), *more])


def with_sections(image: bytes, changed: dict[str, bytes | None]) -> bytes:
    """Return the real unified kernel image ``image`` with these sections' contents; None takes one out.

    The stub's own sections stay where they are, so that it still boots.
    """
    start = struct.unpack_from("<I", image, 0x3C)[0]
    count, optional_size = (struct.unpack_from("<H", image, start + at)[0] for at in (6, 20))
    table_at = start + 24 + optional_size
    headers = [struct.unpack_from("<8sIIII16s", image, table_at + 40 * index) for index in range(count)]
    content = (b".osrel", b".cmdline", b".uname", b".initrd", b".linux")
    stub = [header for header in headers if header[0].rstrip(b"\0") not in content]
    out = bytearray(image[: max(header[4] + header[3] for header in stub)])
    wanted = {
        header[0].rstrip(b"\0").decode(): image[header[4] : header[4] + header[1]]
        for header in headers
        if header not in stub
    }
    wanted = {name: data for name, data in (wanted | changed).items() if data is not None}
    out[table_at : struct.unpack_from("<I", image, start + 24 + 60)[0]] = bytes(
        struct.unpack_from("<I", image, start + 24 + 60)[0] - table_at
    )
    address, kept = 0, []
    for header in stub:
        address = max(address, aligned(header[2] + header[1], 0x1000))
        kept.append(struct.pack("<8sIIII16s", *header))
    for name, data in wanted.items():
        out += bytes(-len(out) % ALIGNMENT)
        flags = bytes(12) + struct.pack("<I", 0x40000040)
        kept.append(
            struct.pack("<8sIIII16s", name.encode(), len(data), address, aligned(len(data)), len(out), flags)
        )
        out += data.ljust(aligned(len(data)), b"\0")
        address = aligned(address + len(data), 0x1000)
    out[table_at : table_at + 40 * len(kept)] = b"".join(kept)
    struct.pack_into("<H", out, start + 6, len(kept))
    struct.pack_into("<I", out, start + 24 + 56, address)
    return bytes(out)


def aligned(size: int, alignment: int = ALIGNMENT) -> int:
    """Return ``size`` rounded up."""
    return -(-size // alignment) * alignment
