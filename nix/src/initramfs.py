"""The parts of an initramfs: initramfs.py part TREE LISTING OUT | modules KERNEL COMPONENT OUT CONTENTS."""

from __future__ import annotations

import json
import lzma
import os
import stat
import sys
from pathlib import Path

import contents
import cpio
import guest

MODULES = "usr/lib/modules"
_MOUNT_POINTS = ("dev", "proc", "run", "sys", "tmp")
_FILE = stat.S_IFREG | 0o644

# The kernel's decoder knows the x86 filter and CRC32, not CRC64 (Documentation/staging/xz.rst). The dictionary covers a
# whole part; the kernel decodes into memory anyway.
_FILTERS = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 16 << 20}]


def part(tree: Path, listing: Path, out: Path) -> None:
    """Write one tree as a cpio archive under xz, with the files in the order and with the modes of its list."""
    entries: list[cpio.Entry] = []
    for record in contents.read(listing)[0]:
        mode, path = int(record["mode"], 8), tree / record["path"]
        if stat.S_ISCHR(mode):
            entries.append((record["path"], mode, b"", guest.DEVICES[record["path"]]))
        else:
            data = os.readlink(path).encode() if stat.S_ISLNK(mode) else path.read_bytes()
            entries.append((record["path"], mode, data, (0, 0)))
    for folder in cpio.folders_of(entry[0] for entry in entries) | set(_MOUNT_POINTS):
        entries.append((folder, stat.S_IFDIR | 0o755, b"", (0, 0)))
    archive = cpio.archive(entries)
    out.write_bytes(lzma.compress(archive, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=_FILTERS))


def modules(kernel: Path, component: dict[str, str], out: Path, listing: Path) -> None:
    """Write the tree of the kernel's modules and their load order."""
    records = []
    (out / MODULES).mkdir(parents=True)
    for path in sorted((kernel / "modules").iterdir()):
        name, data = f"{MODULES}/{path.name}", path.read_bytes()
        (out / name).write_bytes(data)
        records.append(contents.file_record(name, data, _FILE, component["ref"]))
    contents.write(listing, "modules", records, [component])


if __name__ == "__main__":
    if sys.argv[1] == "part":
        part(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        modules(Path(sys.argv[2]), json.loads(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
