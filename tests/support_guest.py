"""Images that could attest on every platform, made at test time, and the released firmware."""

from __future__ import annotations

import stat
import struct
import zlib
from pathlib import Path

from tallystick.measure import attestable

ROOT = Path(__file__).resolve().parents[1]
AMDSEV = (ROOT / "nix/released/ovmf-amdsev.fd").read_bytes()
INTELTDX = (ROOT / "nix/released/ovmf-inteltdx.fd").read_bytes()
INIT = f"#!/bin/sh\npython3 -m {attestable.HEARTBEAT}\n".encode()


def archive(files: dict[str, bytes]) -> bytes:
    """Return a newc archive (Linux, buffer-format.rst) of plain files."""
    made = b""
    for number, (name, data) in enumerate([*files.items(), ("TRAILER!!!", b"")], start=1):
        fields = (number, stat.S_IFREG | 0o644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        made += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        made += bytes(-len(made) % 4) + data
        made += bytes(-len(made) % 4)
    return made


def guest(*, without: str = "", virtio: bytes = b"virtio-mmio-cmdline", init: bytes = INIT) -> bytes:
    """Return an initramfs with every platform's driver."""
    names = ("sev_guest", "tdx_guest", "tsm", "nsm", "vmw_vsock_virtio_transport")
    files = {f"usr/lib/modules/{name}.ko": b"module" for name in names}
    files["usr/lib/modules/virtio_mmio.ko"] = virtio
    files["usr/lib/tallystick/tallystick/attester/heartbeat.pyc"] = b"code"
    files["init"] = init
    return archive({path: data for path, data in files.items() if without not in path or not without})


def enclave(ramdisk: bytes) -> bytes:
    """Return an enclave image (EIF version 4) of three sections."""
    body, offsets, sizes = b"", [], []
    for kind, data in ((1, b"kernel"), (2, b"cmdline"), (3, ramdisk)):
        offsets.append(548 + len(body))
        sizes.append(len(data))
        body += struct.pack(">HHQ", kind, 0, len(data)) + data
    table = [*offsets, *[0] * 29, *sizes, *[0] * 29]
    header = struct.pack(">4sHHQQHH64QI", b".eif", 4, 0, 0, 0, 0, 3, *table, 0)
    return header + struct.pack(">I", zlib.crc32(body, zlib.crc32(header))) + body
