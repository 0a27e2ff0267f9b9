"""oci.py SPEC LISTING OUT CONTENTS TREE...: an OCI image layout as one reproducible tar.

Source: OCI image specification 1.1 (image-layout, manifest, config). The layer is not compressed: its digest is its
diff_id, and no compressor's version can change it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import sys
import tarfile
from pathlib import Path
from typing import Any

import contents
import cpio
import guest

_CREATED = "1970-01-01T00:00:01Z"  # SOURCE_DATE_EPOCH=1
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_FILE = stat.S_IFREG | 0o644


def archive(files: list[tuple[str, int, bytes]]) -> bytes:
    """Return a ustar archive of (path, mode, contents or link target) and their folders; owner and times zero."""
    folders = [(name, stat.S_IFDIR | 0o755, b"") for name in cpio.folders_of(path for path, _, _ in files)]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, mode, data in sorted([*files, *folders]):
            entry = tarfile.TarInfo(path)
            entry.mode = mode & 0o777
            if stat.S_ISDIR(mode):
                entry.type = tarfile.DIRTYPE
            elif stat.S_ISLNK(mode):
                entry.type, entry.linkname = tarfile.SYMTYPE, data.decode()
            else:
                entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data) if entry.isreg() else None)
    return stream.getvalue()


def layer_files(records: list[dict[str, Any]], trees: list[Path]) -> list[tuple[str, int, bytes]]:
    """Return what goes into the layer: everything but device nodes, which a container's runtime makes."""
    found = []
    for record in records:
        mode = int(record["mode"], 8)
        for path in (tree / record["path"] for tree in trees):
            if stat.S_ISLNK(mode) and path.is_symlink():
                found.append((record["path"], mode, os.readlink(path).encode()))
            elif stat.S_ISREG(mode) and path.is_file():
                found.append((record["path"], mode, path.read_bytes()))
    return found


class Layout:
    """The blobs of an image layout, each under its digest."""

    def __init__(self) -> None:
        self.files: list[tuple[str, int, bytes]] = []

    def add(self, media_type: str, data: bytes) -> dict[str, Any]:
        """Add one blob and return its descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        self.files.append((f"blobs/sha256/{digest}", _FILE, data))
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def canonical(value: Any) -> bytes:
    """Return ``value`` as JSON with sorted keys and no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def config(spec: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
    """Return the image configuration: how to run it, and its one layer."""
    return {
        "architecture": "amd64",
        "os": "linux",
        "created": _CREATED,
        "config": {
            "Entrypoint": ["/usr/bin/python3", "-P", "-S", "-B", "-m", "tallystick.attester.guest"],
            "Env": ["PATH=/usr/bin", f"PYTHONPATH=/{guest.PACKAGES}"],
            "Labels": {
                "org.opencontainers.image.title": spec["name"],
                "org.opencontainers.image.version": spec["version"],
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        "history": [{"created": _CREATED, "created_by": "tallystick nix/images/oci.nix"}],
    }


def main(spec: dict[str, Any], listing: Path, out: Path, contents_out: Path, trees: list[Path]) -> None:
    """Write the layout as a tar, and the contents list: the layer's files in the layer's place, and the documents."""
    records, components = contents.read(listing)
    project = next(c["ref"] for c in components if c["kind"] == "project")
    files = layer_files(records, trees)
    packed = {path for path, _, _ in files}
    layout = Layout()
    layer = layout.add(_LAYER, archive(files))
    described = layout.add(_CONFIG, canonical(config(spec, layer)))
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": described, "layers": [layer]}
    entry = layout.add(_MANIFEST, canonical(manifest))
    entry["annotations"] = {"org.opencontainers.image.ref.name": spec["version"]}
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [entry]}
    layout.files.append(("index.json", _FILE, canonical(index)))
    layout.files.append(("oci-layout", _FILE, canonical({"imageLayoutVersion": "1.0.0"})))
    out.write_bytes(archive(layout.files))
    kept = [record for record in records if record["path"] in packed]
    kept += [
        contents.file_record(path, data, mode, project)
        for path, mode, data in layout.files
        if layer["digest"].removeprefix("sha256:") not in path
    ]
    contents.write(contents_out, "oci", kept, components)


if __name__ == "__main__":
    _, _spec, _listing, _out, _contents, *_trees = sys.argv
    _settings = json.loads(Path(_spec).read_text(encoding="utf-8"))
    main(_settings, Path(_listing), Path(_out), Path(_contents), [Path(tree) for tree in _trees])
