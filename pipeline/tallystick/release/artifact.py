"""A release as an OCI artifact: its manifest follows from its index alone, and what lies beside it refers to it.

Equal releases have equal manifests, so a pulled manifest is checked by making it again.

Source: OCI image specification 1.1, manifest.md ("Guidelines for Artifact Usage"); Sigstore's BUNDLE_SPEC.md
(cosign) for bundles as referrers.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.release import index as indexes

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
RELEASE = "application/vnd.tallystick.release.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
LINK = "application/vnd.in-toto+json"
EMPTY = b"{}"
MAX_MANIFEST_BYTES = 4 << 20  # distribution specification 1.1, "Pushing Manifests"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_RELEASE_INDEX = "application/vnd.tallystick.release-index.v1+json"
_FILE = "application/octet-stream"
_TITLE = "org.opencontainers.image.title"
_PREDICATE = "dev.sigstore.bundle.predicateType"
_CONTENT = "dev.sigstore.bundle.content"
_WHAT = "OCI manifest"
SUBJECT = "oci-manifest.json"  # what a release's own statement calls its manifest


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that a manifest names: where they belong in the release, what they are, and how long."""

    path: str
    digest: Digest  # sha256
    size_bytes: int


def manifest(index_bytes: bytes) -> bytes:
    """Return the manifest of the release whose index is ``index_bytes``: RFC 8785 bytes.

    Raises:
        Malformed, Unsupported: as :func:`tallystick.release.index.parse`; too many files for one manifest.
    """
    index = indexes.parse(index_bytes)
    layers = [_layer(Blob(indexes.FILE, index.digest, len(index_bytes)), _RELEASE_INDEX)]
    layers += [_layer(Blob(file.path, file.digest, file.size_bytes), _FILE) for file in index.files]
    data = _dump({"artifactType": RELEASE, "layers": layers})
    if len(data) > MAX_MANIFEST_BYTES:
        want = f"at most {MAX_MANIFEST_BYTES} bytes"
        raise Unsupported(_WHAT, at="size", want=want, got=f"{len(data)} for {len(index.files)} files")
    return data


def subjects(index_bytes: bytes) -> list[tuple[str, dict[str, str]]]:
    """Return what the statement about a release is about: its index, and the manifest that follows from that.

    With the manifest among them, ``cosign verify-attestation`` takes the bundle for the artifact in a registry. A
    release with too many files for one manifest has the index alone.
    """
    found = [(indexes.FILE, {"sha256": Digest.of(index_bytes).hex})]
    with suppress(Unsupported):
        found.append((SUBJECT, {"sha256": Digest.of(manifest(index_bytes)).hex}))
    return found


def index_blob(data: bytes) -> Blob:
    """Return where the index of the release is, whose manifest is ``data``.

    Raises:
        Malformed: no manifest. Unsupported: the manifest of something else than a release.
    """
    document = _parse(data)
    if document.get("artifactType") != RELEASE:
        raise Unsupported(_WHAT, at="artifactType", want=RELEASE, got=repr(document.get("artifactType")))
    blob = _blob(document, first_of_many=True)
    if blob.path != indexes.FILE:
        raise Malformed(_WHAT, at="layers[0]", want=indexes.FILE, got=blob.path)
    return blob


def check(data: bytes, index_bytes: bytes) -> None:
    """Check that ``data`` is the manifest of the release with this index.

    Raises:
        NotGenuine: it is not (``oci.manifest``).
    """
    if (wanted := manifest(index_bytes)) != data:
        message = (
            f"OCI manifest: want {Digest.of(wanted)}, which the release index gives, got {Digest.of(data)}"
        )
        raise NotGenuine(message, code="oci.manifest")


def referrer(release_manifest: bytes, path: str, data: bytes) -> bytes:
    """Return the manifest that attaches the file ``path`` with the bytes ``data`` to a release."""
    kind = _kind(path)
    annotations = {_TITLE: path}
    if kind == BUNDLE:
        annotations |= {_CONTENT: "dsse-envelope", _PREDICATE: _predicate_type(data)}
    return _dump(
        {
            "artifactType": kind,
            "layers": [_layer(Blob(path, Digest.of(data), len(data)), kind)],
            "subject": descriptor(release_manifest),
            "annotations": annotations,
        }
    )


def referred(data: bytes, release_manifest: bytes) -> Blob | None:
    """Return the file that the referrer ``data`` attaches to the release; None when it is no file of ours.

    Raises:
        Malformed: no manifest, or a path that does not lie beside a release.
        NotGenuine: it refers to something else (``oci.subject``).
    """
    document = _parse(data)
    if document.get("artifactType") not in (BUNDLE, LINK):
        return None
    annotations = document.get("annotations")
    if not isinstance(annotations, dict) or _TITLE not in annotations:
        return None
    if document.get("subject") != descriptor(release_manifest):
        raise NotGenuine(
            f"OCI referrer {Digest.of(data)}: its subject is another manifest", code="oci.subject"
        )
    blob = _blob(document)
    if blob.path.partition("/")[0] not in indexes.BESIDE:
        raise Malformed(_WHAT, at="title", want="a file beside the release", got=blob.path)
    return blob


def descriptor(data: bytes, media_type: str = MANIFEST) -> dict[str, Any]:
    """Return the OCI descriptor of the bytes ``data``."""
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}


def referrer_descriptor(data: bytes) -> dict[str, Any]:
    """Return the descriptor of a referrer as a list of referrers has it: with its type and annotations."""
    document = _parse(data)
    return descriptor(data) | {
        "artifactType": document["artifactType"],
        "annotations": document["annotations"],
    }


def referrers_index(descriptors: list[dict[str, Any]]) -> bytes:
    """Return the image index that stands for the referrers where a registry has no such list itself."""
    import rfc8785

    ordered = sorted(descriptors, key=lambda entry: str(entry["digest"]))
    return rfc8785.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": ordered})


def listed(data: bytes) -> list[dict[str, Any]]:
    """Return the descriptors of the image index ``data``, each with a usable digest.

    Raises:
        Malformed: no image index.
    """
    document = jsondoc.loads(data, "OCI index", max_bytes=MAX_MANIFEST_BYTES)
    entries = document.get("manifests") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Malformed("OCI index", at="manifests", want="a list of descriptors", got=type(entries).__name__)
    for entry in entries:
        _digest(entry)
    return entries


def _kind(path: str) -> str:
    return LINK if path.endswith(".link") else BUNDLE


def _predicate_type(bundle: bytes) -> str:
    from tallystick.formats import dsse, intoto, sigstore_bundle

    content = sigstore_bundle.parse(bundle).content
    if not isinstance(content, dsse.Envelope):
        raise Unsupported("Sigstore bundle", at="content", want="a DSSE envelope", got="a message signature")
    return intoto.parse(content.payload).predicate_type


def _layer(blob: Blob, media_type: str) -> dict[str, Any]:
    return {
        "mediaType": media_type,
        "digest": str(blob.digest),
        "size": blob.size_bytes,
        "annotations": {_TITLE: blob.path},
    }


def _dump(fields: dict[str, Any]) -> bytes:
    import rfc8785

    config = descriptor(EMPTY, _EMPTY_TYPE)
    return rfc8785.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, **fields})


def _parse(data: bytes) -> dict[str, Any]:
    document = jsondoc.loads(data, _WHAT, max_bytes=MAX_MANIFEST_BYTES)
    if not isinstance(document, dict):
        raise Malformed(_WHAT, at="document", want="an object", got=type(document).__name__)
    if document.get("mediaType") != MANIFEST or document.get("schemaVersion") != 2:
        got = f"{document.get('mediaType')!r}, schemaVersion {document.get('schemaVersion')!r}"
        raise Unsupported(_WHAT, at="mediaType", want=f"{MANIFEST}, schemaVersion 2", got=got)
    return document


def _blob(document: dict[str, Any], *, first_of_many: bool = False) -> Blob:
    layers = document.get("layers")
    if not isinstance(layers, list) or not layers or (len(layers) > 1 and not first_of_many):
        got = f"{len(layers)}" if isinstance(layers, list) else type(layers).__name__
        raise Malformed(_WHAT, at="layers", want="one layer", got=got)
    layer = layers[0]
    if not isinstance(layer, dict) or not isinstance(layer.get("annotations"), dict):
        raise Malformed(_WHAT, at="layers[0]", want="a descriptor with a title", got=repr(layer))
    path, size = layer["annotations"].get(_TITLE), layer.get("size")
    if not isinstance(path, str) or not indexes.safe_path(path):
        raise Malformed(_WHAT, at="layers[0] title", want="a relative path", got=repr(path))
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise Malformed(_WHAT, at="layers[0] size", want="a size in bytes", got=repr(size))
    return Blob(path, _digest(layer), size)


def _digest(entry: dict[str, Any]) -> Digest:
    text = entry.get("digest")
    if not isinstance(text, str) or not text.startswith("sha256:"):
        raise Unsupported(_WHAT, at="digest", want="sha256:<hex>", got=repr(text))
    return Digest.parse(text)
