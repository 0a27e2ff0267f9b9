"""The manifest of an artifact release: its encrypted files, their keys, and the images that they go with.

It is what an artifact release is: the SHA-256 of its bytes is the artifact release's digest. The manifests of a
deployment travel in init-data, as one list, so that a launch measures them, and every file is held against them before
it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.handshake.fields import Fields
from tallystick.handshake.kbs import check_key

SCHEMA = "tallystick/artifacts/v1"
MAX_BYTES = 1 << 20
KINDS = ("weights", "tokenizer", "index", "adapter", "checkpoint", "other")
_WHAT = "artifacts manifest"
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")  # as a release's name and version
_SHA256_BYTES = 32
_MOST_BYTES = 1 << 53  # RFC 8785 carries whole numbers exactly up to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One encrypted file."""

    name: str  # "weights": what a policy calls it
    kind: str  # one of KINDS
    file: str  # "weights.tsenc"
    size_bytes: int  # of the plaintext
    ciphertext: Digest
    plaintext: Digest
    key: str  # KBS resource path of the key that its data key is wrapped under


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """The releases of one image that an artifact release goes with."""

    name: str  # "confidential-inference"
    versions: tuple[str, ...]  # exactly these; sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One artifact release."""

    name: str  # "assistant"
    version: str
    policy: Digest  # sha256 of the policy file that its keys are wrapped for
    images: tuple[Images, ...]  # sorted by name
    artifacts: tuple[Artifact, ...]  # sorted by name

    def goes_with(self, name: str, version: str) -> bool:
        """Whether it was made for the image release ``name`` ``version``."""
        return any(one.name == name and version in one.versions for one in self.images)

    def encode(self) -> bytes:
        """Return the manifest as RFC 8785 bytes."""
        import rfc8785

        return rfc8785.dumps(
            {
                "schema": SCHEMA,
                "name": self.name,
                "version": self.version,
                "policy": str(self.policy),
                "images": [{"name": one.name, "versions": list(one.versions)} for one in self.images],
                "artifacts": [_document(one) for one in self.artifacts],
            }
        )

    @property
    def digest(self) -> Digest:
        """The artifact release's digest."""
        return Digest.of(self.encode())


def parse(data: bytes) -> Manifest:
    """Return the manifest that ``data`` is.

    Raises:
        Malformed: not RFC 8785 bytes of one, an unknown field, something unsorted, or a name or file twice.
        Unsupported: another schema.
    """
    manifest = _manifest(jsondoc.loads(data, _WHAT, max_bytes=MAX_BYTES))
    if manifest.encode() != data:
        raise Malformed(_WHAT, at="bytes", want="RFC 8785 form", got="another spelling of the same values")
    return manifest


def encode_all(manifests: Iterable[Manifest]) -> bytes:
    """Return the list of a deployment's manifests, sorted by name, as RFC 8785 bytes.

    Raises:
        Malformed: none, a release twice, or two artifacts or files of one name.
    """
    found = tuple(sorted(manifests, key=lambda one: one.name))
    data = b"[" + b",".join(one.encode() for one in found) + b"]"
    parse_all(data)
    return data


def parse_all(data: bytes) -> tuple[Manifest, ...]:
    """Return the manifests in the list ``data``, which init-data carries.

    Raises:
        Malformed: not as :func:`encode_all` writes it. Unsupported: as :func:`parse`.
    """
    document = jsondoc.loads(data, _WHAT, max_bytes=MAX_BYTES)
    if not isinstance(document, list) or not document:
        raise Malformed(_WHAT, at="document", want="a list of at least one manifest", got="none")
    found = tuple(map(_manifest, document))
    _sorted("document", [one.name for one in found])
    artifacts = [artifact for one in found for artifact in one.artifacts]
    for what, names in (("name", [a.name for a in artifacts]), ("file", [a.file for a in artifacts])):
        if len(set(names)) != len(names):
            raise Malformed(_WHAT, at=what, want="each once in all manifests", got="one twice")
    if b"[" + b",".join(one.encode() for one in found) + b"]" != data:
        raise Malformed(_WHAT, at="bytes", want="RFC 8785 form", got="another spelling of the same values")
    return found


def check_names(name: str, file: str) -> None:
    """Check what an artifact and its file may be called.

    Raises:
        Malformed: not plain names.
    """
    for at, text in (("name", name), ("file", file)):
        if not _FILE.fullmatch(text):
            raise Malformed(_WHAT, at=at, want="a plain file name", got=repr(text))


def _manifest(document: Any) -> Manifest:
    fields = Fields(document, _WHAT)
    if fields.text("schema") != SCHEMA:
        raise Unsupported(_WHAT, at="schema", want=SCHEMA, got=fields.text("schema"))
    fields.only("schema", "name", "version", "policy", "images", "artifacts")
    images = tuple(_images(Fields(row, f"{_WHAT}: image {n}")) for n, row in enumerate(fields.rows("images")))
    rows = enumerate(fields.rows("artifacts"))
    artifacts = tuple(_artifact(Fields(row, f"{_WHAT}: artifact {n}")) for n, row in rows)
    _sorted("images", [one.name for one in images])
    _sorted("artifacts", [one.name for one in artifacts])
    if len({one.file for one in artifacts}) != len(artifacts):
        raise Malformed(_WHAT, at="file", want="each once", got="one twice")
    return Manifest(
        name=_label(fields, "name"),
        version=_label(fields, "version"),
        policy=fields.sha256("policy"),
        images=images,
        artifacts=artifacts,
    )


def _sorted(what: str, names: list[str]) -> None:
    if names != sorted(set(names)):
        raise Malformed(_WHAT, at=what, want="sorted by name, each once", got=", ".join(names))


def _document(one: Artifact) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "file": one.file,
        "size": one.size_bytes,
        "sha256_ciphertext": one.ciphertext.hex,
        "sha256_plaintext": one.plaintext.hex,
        "key": one.key,
    }


def _artifact(fields: Fields) -> Artifact:
    fields.only("name", "kind", "file", "size", "sha256_ciphertext", "sha256_plaintext", "key")
    kind, size = fields.text("kind"), fields.raw("size")
    check_names(fields.text("name"), fields.text("file"))
    if kind not in KINDS:
        raise fields.bad("kind", want=", ".join(KINDS), got=kind)
    if type(size) is not int or not 0 <= size < _MOST_BYTES:
        raise fields.bad("size", want="a size in bytes", got=repr(size))
    return Artifact(
        name=fields.text("name"),
        kind=kind,
        file=fields.text("file"),
        size_bytes=size,
        ciphertext=Digest(Algorithm.SHA256, fields.hex_bytes("sha256_ciphertext", _SHA256_BYTES)),
        plaintext=Digest(Algorithm.SHA256, fields.hex_bytes("sha256_plaintext", _SHA256_BYTES)),
        key=check_key(fields.text("key")),
    )


def _images(fields: Fields) -> Images:
    fields.only("name", "versions")
    versions = fields.rows("versions")
    plain = all(isinstance(one, str) and _LABEL.fullmatch(one) for one in versions)
    if not plain or versions != sorted(set(versions)):
        raise fields.bad("versions", want="exact versions, sorted, each once", got=repr(versions))
    return Images(name=_label(fields, "name"), versions=tuple(versions))


def _label(fields: Fields, name: str) -> str:
    text = fields.text(name)
    if not _LABEL.fullmatch(text):
        raise fields.bad(name, want="letters, digits and . _ + -", got=repr(text))
    return text
