"""OCI image layouts made up at test time."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from formats.test_tar import archive

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def blob(data: bytes, media_type: str) -> tuple[tuple[str, int, bytes], dict[str, Any]]:
    """Return the file of a blob and its descriptor."""
    digest = hashlib.sha256(data).hexdigest()
    return (f"blobs/sha256/{digest}", 0o100644, data), {
        "mediaType": media_type,
        "digest": f"sha256:{digest}",
        "size": len(data),
    }


def layout(
    files: list[tuple[str, int, bytes]],
    *,
    extra: list[tuple[str, int, bytes]] | None = None,
    layer_type: str = LAYER,
    **changes: Any,
) -> bytes:
    """Return the tar of a layout with one layer; ``changes`` replaces its documents."""
    layer_file, layer = blob(archive(files), layer_type)
    config_file, config = blob(b"{}", CONFIG)
    manifest = changes.get("manifest", {"config": config, "layers": [layer]})
    manifest_file, entry = blob(json.dumps(manifest).encode(), MANIFEST)
    index = changes.get("index", {"manifests": [entry]})
    version = changes.get("version", {"imageLayoutVersion": "1.0.0"})
    documents = [
        ("index.json", 0o100644, json.dumps(index).encode()),
        ("oci-layout", 0o100644, json.dumps(version).encode()),
    ]
    return archive([layer_file, config_file, manifest_file, *documents, *(extra or [])])
