"""OCI image layouts kept in one tar: every blob under its digest, and nothing that the index does not lead to.

Source: OCI image specification 1.1, image-layout.md, image-index.md, manifest.md, layer.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.formats import tar

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MAX_DOCUMENT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """One image: its layers and every other file of the tar. The digests of what the index leads to hold."""

    layers: tuple[tuple[str, memoryview], ...]  # (digest hex, uncompressed tar), lowest first
    others: tuple[tuple[str, memoryview], ...]  # path and bytes: the documents, and whatever else is there


def read(data: bytes | memoryview, what: str = "OCI layout") -> Layout:
    """Return the one image of the layout in the tar ``data``.

    Raises:
        Malformed: no layout, a document of another shape, or a file twice.
        NotGenuine: a blob whose bytes are not those of its digest (``oci.blob``).
        Unsupported: another version, several images, or a compressed layer.
    """
    files: dict[str, memoryview] = {}
    for entry in tar.read(data, what):
        if entry.path in files:
            raise Malformed(what, at=entry.path, want="each file once", got="it twice")
        if not entry.is_directory:
            files[entry.path] = entry.data
    layout = _document(_take(files, "oci-layout", what), f"{what}: oci-layout")
    if layout.get("imageLayoutVersion") != "1.0.0":
        got = repr(layout.get("imageLayoutVersion"))
        raise Unsupported(what, at="imageLayoutVersion", want="1.0.0", got=got)
    index = _document(_take(files, "index.json", what), f"{what}: index.json")
    manifests = _list(index, "manifests", what)
    if len(manifests) != 1:
        raise Unsupported(what, at="index.json manifests", want="one image", got=f"{len(manifests)}")
    manifest = _blob(files, manifests[0], _MANIFEST, what)
    described = _document(manifest, f"{what}: manifest")
    _blob(files, described.get("config"), _CONFIG, what)
    listed = _list(described, "layers", what)
    layers = tuple((_hex(layer, what), _blob(files, layer, _LAYER, what)) for layer in listed)
    inside = {f"blobs/sha256/{digest}" for digest, _ in layers}
    return Layout(layers, tuple((path, files[path]) for path in sorted(files.keys() - inside)))


def entries(layout: Layout, what: str = "OCI layer") -> Iterator[tar.Entry]:
    """Every entry of every layer, lowest first; a later one replaces an earlier one at the same path.

    Raises:
        Malformed, Unsupported: as ``tar.read``; a whiteout too, which would hide what a lower layer has.
    """
    for digest, layer in layout.layers:
        for entry in tar.read(layer, f"{what} {digest[:12]}"):
            if entry.path.rpartition("/")[2].startswith(".wh."):
                raise Unsupported(what, at=entry.path, want="layers that add files", got="a whiteout")
            yield entry


def _take(files: Mapping[str, memoryview], path: str, what: str) -> memoryview:
    if path not in files:
        raise Malformed(what, at=path, want="a file of the layout", got="none")
    return files[path]


def _blob(files: Mapping[str, memoryview], descriptor: Any, media_type: str, what: str) -> memoryview:
    """Return the bytes that ``descriptor`` names, when they are what it says."""
    if not isinstance(descriptor, dict) or descriptor.get("mediaType") != media_type:
        got = repr(descriptor.get("mediaType") if isinstance(descriptor, dict) else descriptor)
        raise Unsupported(what, at="mediaType", want=media_type, got=got)
    name = _hex(descriptor, what)
    data = _take(files, f"blobs/sha256/{name}", what)
    if len(data) != descriptor.get("size"):
        raise Malformed(what, at=f"size of {name}", want=f"{len(data)}", got=repr(descriptor.get("size")))
    if (actual := hashlib.sha256(data).hexdigest()) != name:
        raise NotGenuine(f"{what}: blob: want {name}, got {actual}", code="oci.blob")
    return data


def _hex(descriptor: Mapping[str, Any], what: str) -> str:
    digest = descriptor.get("digest")
    if not isinstance(digest, str) or not digest.startswith("sha256:") or len(digest) != 71:
        raise Unsupported(what, at="digest", want="sha256:<64 hex digits>", got=repr(digest))
    return digest[7:]


def _document(data: memoryview, what: str) -> dict[str, Any]:
    document = jsondoc.loads(bytes(data), what, max_bytes=_MAX_DOCUMENT_BYTES)
    if not isinstance(document, dict):
        raise Malformed(what, at="document", want="an object", got=type(document).__name__)
    return document


def _list(document: Mapping[str, Any], name: str, what: str) -> list[dict[str, Any]]:
    value = document.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Malformed(what, at=name, want="a list of objects", got=repr(value))
    return value
