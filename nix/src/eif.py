"""eif.py SPEC OUT CONTENTS: an AWS Nitro Enclaves image, EIF version 4.

Source: aws-nitro-enclaves-image-format, src/defs/mod.rs (layout) and src/utils/mod.rs (order of the sections). That
builder writes the time of the build into the metadata; this one writes a constant. Metadata is not measured.
"""

from __future__ import annotations

import json
import stat
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import contents

_VERSION = 4
_KERNEL, _COMMAND_LINE, _RAMDISK, _METADATA = 1, 2, 3, 5
_HEADER_BYTES = 548
_SECTION_HEADER = ">HHQ"  # type, flags, size of what follows
_SECTIONS_MAX = 32
_DEFAULT_MEMORY_BYTES = 1 << 30  # eif_build's own defaults
_DEFAULT_CPUS = 2
_FILE = stat.S_IFREG | 0o644


def metadata(spec: dict[str, Any], release: str) -> bytes:
    """Return the metadata section (EifIdentityInfo): in that structure's field order, with a constant build time."""
    built = {
        "BuildTime": "1970-01-01T00:00:01Z",
        "BuildTool": "tallystick",
        "BuildToolVersion": "1",
        "OperatingSystem": "Linux",
        "KernelVersion": release,
    }
    identity = {"ImageName": spec["name"], "ImageVersion": spec["version"], "BuildMetadata": built}
    return json.dumps(identity | {"DockerInfo": {}, "CustomMetadata": {}}, separators=(",", ":")).encode()


def image(sections: list[tuple[int, bytes]]) -> bytes:
    """Return the image: header, then each section behind its own header; the CRC covers all but itself."""
    offsets, sizes, body = [], [], bytearray()
    for kind, data in sections:
        offsets.append(_HEADER_BYTES + len(body))
        sizes.append(len(data))
        body += struct.pack(_SECTION_HEADER, kind, 0, len(data)) + data
    empty = [0] * (_SECTIONS_MAX - len(sections))
    header = b".eif" + struct.pack(
        ">HHQQHH32Q32QI",
        _VERSION,
        0,
        _DEFAULT_MEMORY_BYTES,
        _DEFAULT_CPUS,
        0,
        len(sections),
        *offsets,
        *empty,
        *sizes,
        *empty,
        0,
    )
    return header + struct.pack(">I", zlib.crc32(body, zlib.crc32(header))) + bytes(body)


def main(spec: dict[str, Any], out: Path, listing: Path) -> None:
    """Write the image and the list of its sections."""
    _, components = contents.read(Path(spec["listing"]))
    project = next(c for c in components if c["kind"] == "project")
    kernel = spec["kernel"]["component"]
    tree = Path(spec["kernel"]["tree"])
    parts = [
        ("kernel", _KERNEL, (tree / "vmlinuz").read_bytes(), kernel["ref"], ""),
        ("cmdline", _COMMAND_LINE, spec["command_line"].encode(), project["ref"], ""),
        ("metadata", _METADATA, metadata(spec, (tree / "release").read_text()), project["ref"], ""),
        ("ramdisk", _RAMDISK, Path(spec["initramfs"]).read_bytes(), project["ref"], "initramfs"),
    ]
    made = image([(kind, data) for _, kind, data, _, _ in parts])
    out.write_bytes(made)
    records = [contents.file_record("(headers)", made[:_HEADER_BYTES], _FILE, project["ref"])]
    records += [contents.file_record(name, data, _FILE, ref, nested) for name, _, data, ref, nested in parts]
    contents.write(listing, "eif", records, [project, kernel])


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]), Path(sys.argv[3]))
