"""uki.py SPEC OUT CONTENTS: the unified kernel image and the list of its sections."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import contents
import pe

_FILE = stat.S_IFREG | 0o644
HEADERS = "(headers)"  # not a section name: those have no parentheses


def os_release(name: str, version: str) -> bytes:
    """Return the os-release text of the image (os-release(5))."""
    return f'ID={name}\nVERSION_ID="{version}"\nPRETTY_NAME="{name} {version}"\n'.encode()


def main(spec: dict[str, Any], out: Path, listing: Path) -> None:
    """Write the image: stub code, then .osrel .cmdline .uname .initrd .linux."""
    stub, kernel = spec["stub"], spec["kernel"]
    _, components = contents.read(Path(spec["listing"]))
    project = next(c for c in components if c["kind"] == "project")
    tree = Path(kernel["tree"])
    added = [
        (".osrel", os_release(spec["name"], spec["version"]), project["ref"], ""),
        (".cmdline", spec["command_line"].encode(), project["ref"], ""),
        (".uname", (tree / "release").read_bytes(), kernel["component"]["ref"], ""),
        (".initrd", Path(spec["initramfs"]).read_bytes(), project["ref"], "initramfs"),
        (".linux", (tree / "vmlinuz").read_bytes(), kernel["component"]["ref"], ""),
    ]
    stub_bytes = Path(stub["file"]).read_bytes()
    image = pe.append(stub_bytes, [(name, data) for name, data, _, _ in added])
    owners = {name: (ref, nested) for name, _, ref, nested in added}
    records = [
        contents.file_record(HEADERS, image[: pe.headers_size(image)], _FILE, stub["component"]["ref"])
    ]
    for section in pe.sections(image):
        ref, nested = owners.get(section.name, (stub["component"]["ref"], ""))
        size = min(section.virtual_size, section.raw_size)
        data = image[section.raw_offset : section.raw_offset + size]
        records.append(contents.file_record(section.name, data, _FILE, ref, nested))
    out.write_bytes(image)
    contents.write(listing, "uki", records, [project, kernel["component"], stub["component"]])


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]), Path(sys.argv[3]))
