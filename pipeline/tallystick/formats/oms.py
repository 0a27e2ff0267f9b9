"""OpenSSF Model Signing (OMS) 1.0: the manifest of a model's files, as the predicate of an in-toto statement.

The signature around it is a Sigstore bundle, which is `signing`'s to verify; here the manifest is read, written and
held against a list of what really lies there.

Source: ossf/model-signing-spec, spec/v1.0.md (5 predicate, 6 enumeration, hashing and the root digest, 8.4) and
algorithm-registry.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any, Protocol

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import dsse, intoto, sigstore_bundle

PREDICATE_TYPE = "https://model_signing/signature/v1.0"
DEFAULT_IGNORED = (".git", ".gitattributes", ".github", ".gitignore")  # at the top of the model alone (6.2)
DEFAULT_SHARD_BYTES = 1_000_000_000  # 6.3.2
_WHAT = "OMS manifest"
_MAX_SHARD_BYTES = 1 << 50
_SERIALIZATION = {"method", "hash_type", "shard_size", "allow_symlinks", "ignore_paths"}
_RANGE = re.compile(r"(.+):(0|[1-9][0-9]{0,17}):([1-9][0-9]{0,17})", re.DOTALL)


class Hasher(Protocol):
    """A hash under way."""

    def update(self, data: memoryview, /) -> object:
        """Take in ``data``."""

    def hexdigest(self) -> str:
        """Return the digest of all that came, in lower-case hex."""


class HashType(Enum):
    """Every hash of the format's registry."""

    SHA256 = ("sha256", 32)
    BLAKE2B = ("blake2b", 64)  # RFC 7693, unkeyed, at full length
    BLAKE3 = ("blake3", 32)  # the BLAKE3 paper, 2.6: unkeyed, default length

    def __init__(self, label: str, size_bytes: int) -> None:
        self.label = label
        self.size_bytes = size_bytes

    @classmethod
    def named(cls, label: str, at: str = "hash_type") -> HashType:
        """Return the hash called ``label``.

        Raises:
            Unsupported: not one that is computed here.
        """
        for kind in cls:
            if kind.label == label:
                return kind
        raise Unsupported(_WHAT, at=at, want="one of " + ", ".join(k.label for k in cls), got=label)

    def hasher(self) -> Hasher:
        """Return a new hash under way."""
        if self is HashType.BLAKE3:
            from blake3 import blake3

            return blake3()
        return hashlib.new(self.label)


class Method(Enum):
    """How files become entries."""

    FILES = "files"
    SHARDS = "shards"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serialization:
    """How the manifest was made, so that it can be made again."""

    method: Method = Method.FILES
    hash_type: HashType = HashType.SHA256
    shard_bytes: int = 0  # 0 when whole files are hashed
    ignore_paths: tuple[str, ...] = ()  # beside DEFAULT_IGNORED

    def ignores(self, path: str) -> bool:
        """Whether ``path`` (relative, with ``/``) or a folder that it lies in is left out."""
        return any(
            path == one or path.startswith(f"{one}/") for one in (*DEFAULT_IGNORED, *self.ignore_paths)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One file, or one byte range of one."""

    name: str
    digest: str  # lower-case hex, by the manifest's hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Every file of a model, sorted by name."""

    model: str  # the folder's or file's own name; it decides nothing
    serialization: Serialization
    resources: tuple[Resource, ...]

    @property
    def root(self) -> Digest:
        """The root digest: SHA-256 over the raw digests in order. It covers no names: see docs/decisions/0087."""
        return Digest.of(b"".join(bytes.fromhex(resource.digest) for resource in self.resources))

    def statement(self) -> bytes:
        """Return the in-toto statement (RFC 8785 bytes) that an OMS signature covers."""
        made = self.serialization
        serialization: dict[str, Any] = {
            "method": made.method.value,
            "hash_type": made.hash_type.label,
            "allow_symlinks": False,
            "ignore_paths": sorted({*DEFAULT_IGNORED, *made.ignore_paths}),
        }
        if made.method is Method.SHARDS:
            serialization["shard_size"] = made.shard_bytes
        resources = [
            {"name": one.name, "digest": one.digest, "algorithm": made.hash_type.label}
            for one in self.resources
        ]
        predicate = {"resources": resources, "serialization": serialization}
        return intoto.make([(self.model, {"sha256": self.root.hex})], PREDICATE_TYPE, predicate)


def make(model: str, serialization: Serialization, digests: Mapping[str, str]) -> Manifest:
    """Return the manifest of ``digests`` (entry name -> hex), in the order that the specification wants.

    Raises:
        Malformed: no entry, or a name that is not canonical.
    """
    resources = tuple(Resource(name=name, digest=digests[name]) for name in sorted(digests))
    _check(resources, serialization)
    return Manifest(model=model, serialization=serialization, resources=resources)


def parse(statement: intoto.Statement) -> Manifest:
    """Return the manifest that ``statement`` carries.

    Raises:
        Malformed: a field is missing or of another type, entries are unsorted or not canonical, byte ranges leave
            gaps, or the subject is not the root digest of the entries.
        Unsupported: another predicate (the drafts before 1.0 too), a hash that is not computed here, or a
            manifest that followed symbolic links.
    """
    if statement.predicate_type != PREDICATE_TYPE:
        raise Unsupported(_WHAT, at="predicateType", want=PREDICATE_TYPE, got=statement.predicate_type)
    if len(statement.subjects) != 1:
        raise Malformed(_WHAT, at="subject", want="one", got=str(len(statement.subjects)))
    predicate = _object(statement.predicate, "predicate")
    unknown = sorted(predicate.keys() - {"resources", "serialization"})
    if unknown:
        raise Malformed(_WHAT, at="predicate", want="resources and serialization", got=", ".join(unknown))
    serialization = _serialization(_object(predicate.get("serialization"), "serialization"))
    listed = predicate.get("resources")
    if not isinstance(listed, list):
        raise Malformed(_WHAT, at="resources", want="a list", got=type(listed).__name__)
    resources = tuple(_resource(one, f"resources[{i}]", serialization) for i, one in enumerate(listed))
    _check(resources, serialization)
    subject = statement.subjects[0]
    manifest = Manifest(model=subject.name or "model", serialization=serialization, resources=resources)
    if not subject.has(manifest.root):
        got = dict(subject.digests).get("sha256", "none")
        raise Malformed(_WHAT, at="subject digest", want=f"{manifest.root}, of its entries", got=got)
    return manifest


def from_file(data: bytes, what: str = _WHAT) -> Manifest:
    """Return the manifest in ``data``: a Sigstore bundle that carries one, or the bare statement. Nothing is verified.

    Raises:
        Malformed: neither, or a bundle of a Fulcio certificate without a log entry (spec 4.1).
        Unsupported: as :func:`parse`, or a bundle that signs something else than a statement.
    """
    if b'"dsseEnvelope"' not in data and b'"verificationMaterial"' not in data:
        return parse(intoto.parse(data, what))
    bundle = sigstore_bundle.parse(data, what)
    if not isinstance(bundle.content, dsse.Envelope) or bundle.content.payload_type != intoto.PAYLOAD_TYPE:
        raise Unsupported(what, at="dsseEnvelope", want=intoto.PAYLOAD_TYPE, got="something else")
    keyless = "certificate" in bundle.document["verificationMaterial"]
    if keyless and not bundle.entries:
        raise Malformed(
            what, at="tlogEntries", want="one entry, as for any short-lived certificate", got="none"
        )
    return parse(intoto.parse(bundle.content.payload, what))


def ranges(path: str, size_bytes: int, serialization: Serialization) -> tuple[tuple[str, int, int], ...]:
    """Return (entry name, start, end) of each entry of a file; an empty file has none under ``shards`` (6.3.2)."""
    if serialization.method is Method.FILES:
        return ((path, 0, size_bytes),)
    step = serialization.shard_bytes
    starts = range(0, size_bytes, step)
    return tuple(
        (f"{path}:{start}:{min(start + step, size_bytes)}", start, min(start + step, size_bytes))
        for start in starts
    )


def check_ignored(paths: Iterable[str]) -> tuple[str, ...]:
    """Return ``paths`` when they may stand in ``ignore_paths`` (6.2.1): plain relative paths, no patterns.

    Raises:
        Malformed: one that may not.
    """
    found = tuple(paths)
    for path in found:
        if not _canonical(path) or any(letter in path for letter in "*?["):
            raise Malformed(_WHAT, at="ignore_paths", want="relative paths without patterns", got=repr(path))
    return found


def _canonical(name: str) -> bool:
    """Whether ``name`` is as 6.1.2 wants it: relative, ``/`` between parts, none of them empty, ``.`` or ``..``."""
    return bool(name) and "\0" not in name and all(part not in ("", ".", "..") for part in name.split("/"))


def _serialization(fields: dict[str, Any]) -> Serialization:
    unknown = sorted(fields.keys() - _SERIALIZATION)
    if unknown:
        raise Malformed(
            _WHAT, at="serialization", want=", ".join(sorted(_SERIALIZATION)), got=", ".join(unknown)
        )
    label = _text(fields, "method", "serialization")
    if label not in [method.value for method in Method]:
        raise Unsupported(_WHAT, at="serialization.method", want="files or shards", got=label)
    hash_type = HashType.named(_text(fields, "hash_type", "serialization"), "serialization.hash_type")
    symlinks = fields.get("allow_symlinks")
    if not isinstance(symlinks, bool):
        raise Malformed(_WHAT, at="serialization.allow_symlinks", want="true or false", got=repr(symlinks))
    if symlinks:
        raise Unsupported(_WHAT, at="serialization.allow_symlinks", want="false", got="true")
    ignored = fields.get("ignore_paths", [])
    if not isinstance(ignored, list) or not all(isinstance(one, str) for one in ignored):
        raise Malformed(_WHAT, at="serialization.ignore_paths", want="a list of texts", got=repr(ignored))
    size, sharded = fields.get("shard_size"), label == Method.SHARDS.value
    if sharded != (size is not None):
        raise Malformed(_WHAT, at="serialization.shard_size", want="one with shards alone", got=repr(size))
    # model-signing writes 1000.0, as protobuf's Struct has every number; JSON Schema takes that for an integer
    shard_bytes = int(size) if type(size) is int or (type(size) is float and size.is_integer()) else 0
    if sharded and not 1 <= shard_bytes <= _MAX_SHARD_BYTES:
        raise Malformed(_WHAT, at="serialization.shard_size", want="a positive whole number", got=repr(size))
    return Serialization(
        method=Method(label),
        hash_type=hash_type,
        shard_bytes=shard_bytes,
        ignore_paths=tuple(sorted(set(check_ignored(ignored)) - set(DEFAULT_IGNORED))),
    )


def _resource(value: Any, at: str, serialization: Serialization) -> Resource:
    """Read one in-toto Resource Descriptor; fields that OMS does not use may be there and mean nothing (5.2.1)."""
    fields = _object(value, at)
    algorithm = _text(fields, "algorithm", at)
    label = serialization.hash_type.label
    # 5.2.1 wants the hash's own name; model-signing 1.1.1 has the size of the shards in it too
    if algorithm not in (label, f"{label}-sharded-{serialization.shard_bytes}"):
        want = f"{label}, the manifest's hash"
        raise Malformed(_WHAT, at=f"{at}.algorithm", want=want, got=algorithm)
    digest, digits = _text(fields, "digest", at), 2 * serialization.hash_type.size_bytes
    if not re.fullmatch(f"[0-9a-f]{{{digits}}}", digest):
        raise Malformed(_WHAT, at=f"{at}.digest", want=f"{digits} lower-case hex digits", got=digest)
    return Resource(name=_text(fields, "name", at), digest=digest)


def _check(resources: tuple[Resource, ...], serialization: Serialization) -> None:
    if not resources:
        raise Malformed(_WHAT, at="resources", want="at least one file", got="none")
    for first, second in pairwise(resources):
        if first.name >= second.name:
            raise Malformed(_WHAT, at="resources", want="sorted by name, each once", got=second.name)
    ends: dict[str, list[tuple[int, int]]] = {}
    for resource in resources:
        path = resource.name
        if serialization.method is Method.SHARDS:
            path, start, end = _range(resource.name, serialization)
            ends.setdefault(path, []).append((start, end))
        if not _canonical(path):
            raise Malformed(_WHAT, at="resource name", want="a canonical relative path", got=repr(path))
        if serialization.ignores(path):
            raise Malformed(_WHAT, at="resource name", want="no path that is left out", got=path)
    for path, parts in ends.items():
        _check_parts(path, sorted(parts), serialization.shard_bytes)


def _range(name: str, serialization: Serialization) -> tuple[str, int, int]:
    match = _RANGE.fullmatch(name)
    if match is None:
        raise Malformed(_WHAT, at="resource name", want="PATH:START:END", got=name)
    start, end = int(match[2]), int(match[3])
    if start % serialization.shard_bytes or not start < end <= start + serialization.shard_bytes:
        want = f"a range that {serialization.shard_bytes} bytes make"
        raise Malformed(_WHAT, at=f"resource {name}", want=want, got=f"{start} to {end}")
    return match[1], start, end


def _check_parts(path: str, parts: list[tuple[int, int]], step: int) -> None:
    """Ranges of a file begin at its start, leave no gap, and all but the last are whole."""
    for index, (start, _) in enumerate(parts):
        if start != index * step:
            raise Malformed(
                _WHAT, at=f"ranges of {path}", want=f"one from byte {index * step}", got=str(start)
            )
    for start, end in parts[:-1]:
        if end - start != step:
            raise Malformed(_WHAT, at=f"ranges of {path}", want=f"whole ones of {step}", got=str(end - start))


def _object(value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(_WHAT, at=at, want="an object", got=type(value).__name__)
    return value


def _text(fields: Mapping[str, Any], name: str, at: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise Malformed(_WHAT, at=f"{at}.{name}", want="a text", got=repr(value))
    return value
