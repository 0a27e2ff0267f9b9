"""Sigstore bundles, v0.1 to v0.3, read strictly: every field known, every value in its one spelling.

Source: sigstore/protobuf-specs, sigstore_bundle.proto, sigstore_rekor.proto and sigstore_common.proto, in
their JSON form. Nothing here is verified.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import canonical_base64, dsse

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_MEDIA_TYPES = (
    MEDIA_TYPE,
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
    "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.1",
)
_WHAT = "sigstore bundle"
_MAX_BYTES = 64 << 20
_MAX_ITEMS = 64  # of certificates, entries, timestamps; a proof in the largest log has fewer hashes
_UINT63 = (1 << 63) - 1  # protobuf int64, and none of ours may be negative

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class InclusionProof:
    """An audit path to a root that a checkpoint (note text, unparsed) signs."""

    log_index: int
    root_hash: bytes
    tree_size: int
    hashes: tuple[bytes, ...]
    checkpoint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One entry of a transparency log, with the log's promise and proof."""

    log_index: int
    log_id: bytes
    kind: str
    version: str
    integrated_time: int | None  # seconds; None when absent or 0, which protobuf can not tell apart
    signed_entry_timestamp: bytes | None
    proof: InclusionProof | None
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSignature:
    """A signature over a file, with the digest that the signer says it has."""

    algorithm: str | None
    digest: bytes | None
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A signature and what is needed to verify it. Exactly one of certificates and key hint is there."""

    media_type: str
    certificates: tuple[bytes, ...]  # DER, the leaf first; none in a bundle of a managed key
    key_hint: str | None
    entries: tuple[LogEntry, ...]
    timestamps: tuple[bytes, ...]  # RFC 3161 responses, DER
    content: dsse.Envelope | MessageSignature
    document: dict[str, Any]


def parse(data: bytes, what: str = _WHAT) -> Bundle:
    """Return the bundle that the JSON text ``data`` holds.

    Raises:
        Malformed: not JSON, a field missing, unknown, double, of another type, or not in its one spelling.
        Unsupported: another media type.
    """
    document = jsondoc.loads(data, what, max_bytes=_MAX_BYTES)
    fields = _Fields(document, what, "bundle")
    media_type = fields.text("mediaType")
    if media_type not in _MEDIA_TYPES:
        raise Unsupported(what, at="mediaType", want=" or ".join(_MEDIA_TYPES), got=media_type)
    material = fields.required("verificationMaterial", _object)
    certificates, hint = _signer(material)
    bundle = Bundle(
        media_type=media_type,
        certificates=certificates,
        key_hint=hint,
        entries=material.items("tlogEntries", _log_entry),
        timestamps=_timestamps(material),
        content=_content(fields),
        document=document,
    )
    for part in (material, fields):
        part.end()
    return bundle


class _Fields:
    """One JSON object, whose fields are taken by name; ``end`` refuses what nobody took."""

    def __init__(self, value: Any, what: str, at: str) -> None:
        if not isinstance(value, dict):
            raise Malformed(what, at=at, want="an object", got=type(value).__name__)
        self._left: dict[str, Any] = dict(value)
        self.what, self.at = what, at

    def optional(self, name: str, read: Callable[[Any, str, str], T]) -> T | None:
        """Return the field ``name`` as ``read`` reads it, or None when there is none."""
        if name not in self._left:
            return None
        return read(self._left.pop(name), self.what, f"{self.at}.{name}")

    def required(self, name: str, read: Callable[[Any, str, str], T]) -> T:
        """Return the field ``name`` as ``read`` reads it."""
        if name not in self._left:
            raise Malformed(self.what, at=self.at, want=f"the field {name}", got="no such field")
        return read(self._left.pop(name), self.what, f"{self.at}.{name}")

    def text(self, name: str) -> str:
        """Return the field ``name``, a text."""
        return self.required(name, _text)

    def items(self, name: str, read: Callable[[Any, str, str], T]) -> tuple[T, ...]:
        """Return each item of the list ``name``; no list is an empty one, as protobuf writes it."""
        value = self._left.pop(name, [])
        at = f"{self.at}.{name}"
        if not isinstance(value, list) or len(value) > _MAX_ITEMS:
            raise Malformed(
                self.what, at=at, want=f"a list of at most {_MAX_ITEMS}", got=type(value).__name__
            )
        return tuple(read(item, self.what, f"{at}[{index}]") for index, item in enumerate(value))

    def end(self) -> None:
        """Refuse the fields that nobody took."""
        for name in self._left:
            raise Malformed(self.what, at=self.at, want="no other field", got=name)


def _signer(material: _Fields) -> tuple[tuple[bytes, ...], str | None]:
    """Return the certificates, leaf first, or the hint of a managed key: exactly one of the three forms."""
    single = material.optional("certificate", _raw_bytes)
    chain = material.optional("x509CertificateChain", _object)
    key = material.optional("publicKey", _object)
    if sum(form is not None for form in (single, chain, key)) != 1:
        want = "exactly one of certificate, x509CertificateChain and publicKey"
        raise Malformed(material.what, at=material.at, want=want, got="none or several")
    if key is not None:
        hint = key.optional("hint", _text) or ""
        key.end()
        return (), hint
    if chain is None:
        return (single or b"",), None
    certificates = chain.items("certificates", _raw_bytes)
    chain.end()
    if not certificates:
        raise Malformed(material.what, at=chain.at, want="at least one certificate", got="none")
    return certificates, None


def _timestamps(material: _Fields) -> tuple[bytes, ...]:
    data = material.optional("timestampVerificationData", _object)
    if data is None:
        return ()
    found = data.items("rfc3161Timestamps", _signed_timestamp)
    data.end()
    return found


def _content(fields: _Fields) -> dsse.Envelope | MessageSignature:
    envelope = fields.optional("dsseEnvelope", dsse.from_json)
    message = fields.optional("messageSignature", _message_signature)
    if envelope is not None and message is None:
        return envelope
    if message is not None and envelope is None:
        return message
    want = "exactly one of dsseEnvelope and messageSignature"
    raise Malformed(fields.what, at=fields.at, want=want, got="both" if envelope else "neither")


def _log_entry(value: Any, what: str, at: str) -> LogEntry:
    fields = _Fields(value, what, at)
    log_id = fields.required("logId", _object)
    kind = fields.required("kindVersion", _object)
    promise = fields.optional("inclusionPromise", _object)
    entry = LogEntry(
        log_index=fields.optional("logIndex", _number) or 0,
        log_id=log_id.required("keyId", _bytes),
        kind=kind.text("kind"),
        version=kind.text("version"),
        integrated_time=fields.optional("integratedTime", _number) or None,
        signed_entry_timestamp=None if promise is None else promise.required("signedEntryTimestamp", _bytes),
        proof=fields.optional("inclusionProof", _inclusion_proof),
        body=fields.required("canonicalizedBody", _bytes),
    )
    for part in (log_id, kind, promise, fields):
        if part is not None:
            part.end()
    return entry


def _inclusion_proof(value: Any, what: str, at: str) -> InclusionProof:
    fields = _Fields(value, what, at)
    checkpoint = fields.optional("checkpoint", _object)
    proof = InclusionProof(
        log_index=fields.optional("logIndex", _number) or 0,
        root_hash=fields.required("rootHash", _bytes),
        tree_size=fields.required("treeSize", _number),
        hashes=fields.items("hashes", _bytes),
        checkpoint=None if checkpoint is None else checkpoint.text("envelope"),
    )
    if checkpoint is not None:
        checkpoint.end()
    fields.end()
    return proof


def _message_signature(value: Any, what: str, at: str) -> MessageSignature:
    fields = _Fields(value, what, at)
    digest = fields.optional("messageDigest", _object)
    found = MessageSignature(
        algorithm=None if digest is None else digest.text("algorithm"),
        digest=None if digest is None else digest.required("digest", _bytes),
        signature=fields.required("signature", _bytes),
    )
    if digest is not None:
        digest.end()
    fields.end()
    return found


def _object(value: Any, what: str, at: str) -> _Fields:
    return _Fields(value, what, at)


def _raw_bytes(value: Any, what: str, at: str) -> bytes:
    fields = _Fields(value, what, at)
    raw = fields.required("rawBytes", _bytes)
    fields.end()
    return raw


def _signed_timestamp(value: Any, what: str, at: str) -> bytes:
    fields = _Fields(value, what, at)
    raw = fields.required("signedTimestamp", _bytes)
    fields.end()
    return raw


def _text(value: Any, what: str, at: str) -> str:
    if not isinstance(value, str):
        raise Malformed(what, at=at, want="a text", got=type(value).__name__)
    return value


def _bytes(value: Any, what: str, at: str) -> bytes:
    return canonical_base64.decode(value, what, at)


def _number(value: Any, what: str, at: str) -> int:
    """Return an int64, which protobuf's JSON writes as a text of decimal digits."""
    if (
        not isinstance(value, str)
        or re.fullmatch(r"0|[1-9][0-9]{0,18}", value) is None
        or int(value) > _UINT63
    ):
        raise Malformed(what, at=at, want="a text of decimal digits below 2^63", got=repr(value))
    return int(value)
