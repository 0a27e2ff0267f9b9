"""The embedded transparency log, in the profile of Rekor v1: proposed entries in, logged entries out.

Source: sigstore/rekor, pkg/types/dsse/v0.0.1 and pkg/types/hashedrekord/v0.0.1, and openapi.yaml.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.formats import canonical_base64, dsse
from tallystick.tlog import checkpoint as cp
from tallystick.tlog.log import Log

HOST = "rekor.tallystick.local"  # signs checkpoints; verifiers want it in them and in the root's baseUrl
GENESIS_LEAVES = 2  # Go's protojson drops zeros, so that an entry 0 would be refused by others
_WHAT = "proposed log entry"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransparencyLog:
    """A Rekor whose log lies in a folder."""

    key: ec.EllipticCurvePrivateKey
    folder: Path

    @property
    def log_id(self) -> bytes:
        """SHA-256 of the key's SubjectPublicKeyInfo."""
        return cp.spki_digest(self.key.public_key())

    @property
    def origin(self) -> str:
        """The first line of its checkpoints: the host and a number for the tree, as Rekor v1 writes it."""
        return f"{HOST} - {int.from_bytes(self.log_id[:8], 'big') >> 1}"

    def create(self) -> None:
        """Make the log with its genesis leaves, unless it is there."""
        with Log.open(self.folder) as log:
            log.append_all([_genesis(number) for number in range(log.size, GENESIS_LEAVES)])

    def submit(self, proposed: dict[str, Any], now: datetime) -> dict[str, Any]:
        """Return the logged entry, in protobuf's JSON form, once it is durable.

        Raises:
            Malformed: not a proposed entry.
            Unsupported: of another kind or version.
            NotGenuine: ``sigstore.entry``: its own signature does not hold.
        """
        kind, version = proposed.get("kind"), proposed.get("apiVersion")
        bodies = {"dsse/0.0.1": _dsse_body, "hashedrekord/0.0.1": _hashedrekord_body}
        make = bodies.get(f"{kind}/{version}")
        if make is None:
            raise Unsupported(
                _WHAT, at="kind", want="dsse/0.0.1 or hashedrekord/0.0.1", got=f"{kind}/{version}"
            )
        spec = proposed.get("spec")
        if not isinstance(spec, dict):
            raise Malformed(_WHAT, at="spec", want="an object", got=type(spec).__name__)
        body = rfc8785.dumps({"apiVersion": version, "kind": kind, "spec": make(spec)})
        with Log.open(self.folder) as log:
            index = log.append(body)
            return self._entry(log, index, body, f"{kind}", f"{version}", int(now.timestamp()))

    def checkpoint(self) -> str:
        """Return the signed checkpoint of the log as it is: what leaves this machine and keeps it honest."""
        return self._signed(Log.read(self.folder))

    def consistency(self, older: int, newer: int) -> tuple[bytes, ...]:
        """Return the proof that the first ``older`` entries are a prefix of the first ``newer``."""
        return Log.read(self.folder).consistency(older, newer)

    def _entry(
        self, log: Log, index: int, body: bytes, kind: str, version: str, seconds: int
    ) -> dict[str, Any]:
        b64 = canonical_base64.encode
        promise = rfc8785.dumps(
            {"body": b64(body), "integratedTime": seconds, "logID": self.log_id.hex(), "logIndex": index}
        )
        return {
            "logIndex": str(index),
            "logId": {"keyId": b64(self.log_id)},
            "kindVersion": {"kind": kind, "version": version},
            "integratedTime": str(seconds),
            "inclusionPromise": {
                "signedEntryTimestamp": b64(self.key.sign(promise, ec.ECDSA(hashes.SHA256())))
            },
            "inclusionProof": {
                "logIndex": str(index),
                "rootHash": b64(log.root()),
                "treeSize": str(log.size),
                "hashes": [b64(step) for step in log.inclusion(index)],
                "checkpoint": {"envelope": self._signed(log)},
            },
            "canonicalizedBody": b64(body),
        }

    def _signed(self, log: Log) -> str:
        head = log.head()
        text = cp.Checkpoint(origin=self.origin, size=head.size, root=head.root).text
        return str(cp.SignedNote(text=text, signatures=(cp.sign(text, HOST, self.key),)))


def _genesis(number: int) -> bytes:
    return rfc8785.dumps({"apiVersion": "0.0.1", "kind": "tallystick-genesis", "spec": {"number": number}})


def _dsse_body(spec: dict[str, Any]) -> dict[str, Any]:
    """Return what is logged of a DSSE envelope: hashes, and each signature with its certificate."""
    content = spec.get("proposedContent")
    if not isinstance(content, dict) or not isinstance(content.get("envelope"), str):
        raise Malformed(_WHAT, at="spec.proposedContent.envelope", want="a text", got=repr(content))
    raw = content["envelope"].encode()
    envelope = dsse.parse(raw)
    verifiers = content.get("verifiers")
    if not isinstance(verifiers, list) or len(verifiers) != 1 or len(envelope.signatures) != 1:
        raise Malformed(
            _WHAT, at="spec.proposedContent.verifiers", want="one, for one signature", got=repr(verifiers)
        )
    pem = canonical_base64.decode(verifiers[0], _WHAT, "spec.proposedContent.verifiers[0]")
    signature = envelope.signatures[0].sig
    _check(pem, signature, hashlib.sha256(envelope.signed_bytes).digest())
    return {
        "envelopeHash": _hash(raw),
        "payloadHash": _hash(envelope.payload),
        "signatures": [{"signature": canonical_base64.encode(signature), "verifier": verifiers[0]}],
    }


def _hashedrekord_body(spec: dict[str, Any]) -> dict[str, Any]:
    """Return what is logged of a signature over a file: the file's digest, the signature, the certificate."""
    try:
        algorithm, value = spec["data"]["hash"]["algorithm"], spec["data"]["hash"]["value"]
        content, key = spec["signature"]["content"], spec["signature"]["publicKey"]["content"]
    except (KeyError, TypeError):
        raise Malformed(_WHAT, at="spec", want="data.hash and signature", got=repr(spec)) from None
    if algorithm != "sha256" or not isinstance(value, str) or re.fullmatch("[0-9a-f]{64}", value) is None:
        raise Malformed(_WHAT, at="spec.data.hash", want="a SHA-256 in hex", got=f"{algorithm}:{value}")
    pem = canonical_base64.decode(key, _WHAT, "spec.signature.publicKey.content")
    _check(pem, canonical_base64.decode(content, _WHAT, "spec.signature.content"), bytes.fromhex(value))
    return {
        "data": {"hash": {"algorithm": "sha256", "value": value}},
        "signature": {"content": content, "publicKey": {"content": key}},
    }


def _check(pem: bytes, signature: bytes, digest: bytes) -> None:
    """Check that the key of the certificate ``pem`` signed ``digest``, as Rekor does before it logs."""
    try:
        key = x509.load_pem_x509_certificate(pem).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("not an elliptic curve key")
        key.verify(signature, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    except (InvalidSignature, ValueError):
        raise NotGenuine("proposed log entry: its signature does not hold", code="sigstore.entry") from None


def _hash(data: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}
