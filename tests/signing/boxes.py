"""A Sigstore in a folder for each test run, bundles by it, and bundles that nobody honest would make."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import rfc8785
import sigstore.sign
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tallystick.core.digests import Digest
from tallystick.formats import canonical_base64, dsse, intoto
from tallystick.signing import keyfile, people
from tallystick.signing import sigstore as signers
from tallystick.signing.artifact import Artifact
from tallystick.signing.embedded import instance, x509parts
from tallystick.signing.records import Identity, VerifiedStatement
from tallystick.signing.verify import Verifier
from tallystick.tlog.log import Log

NOW = datetime.now(UTC).replace(microsecond=0)  # sigstore-python's signer looks at the machine's clock


class _Now(datetime):
    """The moment these tests are at, however long they take: certificates made for it last ten minutes."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return NOW


sigstore.sign.datetime = _Now  # asks it one thing: whether the certificate has ended
DAY = timedelta(days=1)
PREDICATE = "https://example.org/predicate/v1"
SUBJECT = Digest.of(b"the artifact")
ARTIFACT = Artifact(sha256=SUBJECT)
PAYLOAD = intoto.make([("artifact", {"sha256": SUBJECT.hex})], PREDICATE, {"vcpus": 4})
ALICE = Identity(san="alice@example.org", issuer=instance.ISSUER)
BUILDER = Identity(san="https://ci.example/builder", issuer=instance.ISSUER)
PEOPLE = {"alice": ALICE, "ci-builder": BUILDER}
b64 = canonical_base64.encode


@dataclass
class Box:
    """An embedded Sigstore with two people enrolled."""

    workdir: Path

    @classmethod
    def make(cls, workdir: Path) -> Box:
        instance.create(workdir / "sigstore", NOW)
        for name, identity in PEOPLE.items():
            key = people.create(workdir / "people" / name, identity, None)
            instance.enrol(workdir / "sigstore", identity, keyfile.public_pem(key))
        return cls(workdir)

    @property
    def root(self) -> bytes:
        return (self.workdir / "sigstore" / "trusted_root.json").read_bytes()

    @property
    def instance(self) -> instance.Instance:
        return instance.Instance(self.workdir / "sigstore")

    def sign(self, payload: bytes = PAYLOAD, name: str = "ci-builder") -> bytes:
        with signers.embedded(self.workdir, name, NOW) as signer:
            return signer.statement(payload)

    def verify(self, bundle: bytes, *, root: bytes | None = None, **changed: Any) -> VerifiedStatement:
        options = {"signers": (BUILDER,), "predicate_type": PREDICATE, "now": NOW} | changed
        return Verifier(root or self.root).statement(bundle, **options)

    def leaf(
        self,
        key: Any,
        identity: Identity = BUILDER,
        *,
        edit: Callable[[x509.CertificateBuilder], x509.CertificateBuilder] | None = None,
        ct_key: ec.EllipticCurvePrivateKey | None = None,
        now: datetime = NOW,
    ) -> x509.Certificate:
        """A certificate by this box's CA, which asks for no proof here."""
        authority = self.instance.authority
        serial = x509.random_serial_number()

        def stamp(tbs: bytes) -> bytes:
            leaf = x509parts.tree_leaf(tbs, authority.chain[0], now)
            return x509parts.make_sct(leaf, ct_key or authority.ct_key)

        if edit is None:
            return x509parts.make_leaf(
                key.public_key(),
                identity,
                authority.chain[0],
                authority.key,
                serial=serial,
                now=now,
                stamp=stamp,
            )
        real = x509.CertificateBuilder.sign
        try:
            x509.CertificateBuilder.sign = lambda builder, *rest: real(edit(builder), *rest)  # type: ignore[method-assign,assignment]
            return self.leaf(key, identity, ct_key=ct_key, now=now)
        finally:
            x509.CertificateBuilder.sign = real  # type: ignore[method-assign]

    def forge(
        self,
        payload: bytes = PAYLOAD,
        *,
        payload_type: str = intoto.PAYLOAD_TYPE,
        identity: Identity = BUILDER,
        key: ec.EllipticCurvePrivateKey | None = None,
        certificate: x509.Certificate | None = None,
        now: datetime = NOW,
    ) -> dict[str, Any]:
        """A bundle with everything in order but what the caller asked for, as a JSON value."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        certificate = certificate or self.leaf(key, identity, now=now)
        envelope = signed(key, payload, payload_type)
        pem = b64(certificate.public_bytes(Encoding.PEM))
        content = {"envelope": json.dumps(dsse.to_json(envelope)), "verifiers": [pem]}
        proposed = {"apiVersion": "0.0.1", "kind": "dsse", "spec": {"proposedContent": content}}
        entry = self.instance.log.submit(proposed, now)
        return bundle_of(entry, {"dsseEnvelope": dsse.to_json(envelope)}, certificate)

    def log(self, kind: str, version: str, spec: dict[str, Any], now: datetime = NOW) -> dict[str, Any]:
        """An entry with any body at all, in the log and with everything that the log signs."""
        log = self.instance.log
        body = rfc8785.dumps({"apiVersion": version, "kind": kind, "spec": spec})
        with Log.open(log.folder) as opened:
            index = opened.append(body)
            return log._entry(opened, index, body, kind, version, int(now.timestamp()))


def signed(key: ec.EllipticCurvePrivateKey, payload: bytes, payload_type: str) -> dsse.Envelope:
    signature = key.sign(dsse.pae(payload_type, payload), ec.ECDSA(hashes.SHA256()))
    return dsse.Envelope(
        payload=payload, payload_type=payload_type, signatures=(dsse.Signature(sig=signature),)
    )


def bundle_of(
    entry: dict[str, Any], content: dict[str, Any], certificate: x509.Certificate | None
) -> dict[str, Any]:
    material: dict[str, Any] = {
        "tlogEntries": [entry],
        "timestampVerificationData": {"rfc3161Timestamps": []},
    }
    if certificate is not None:
        material["certificate"] = {"rawBytes": b64(certificate.public_bytes(Encoding.DER))}
    media_type = "application/vnd.dev.sigstore.bundle.v0.3+json"
    return {"mediaType": media_type, "verificationMaterial": material, **content}


def spelled(document: Any) -> bytes:
    return rfc8785.dumps(document)


def edited(bundle: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The bundle after ``change``, in its canonical spelling."""
    document = copy.deepcopy(json.loads(bundle))
    change(document)
    return spelled(document)


def flipped(text: str, at: int = 5) -> str:
    """Base64 of the value with one bit of one byte changed."""
    value = bytearray(canonical_base64.decode(text, "x", "x"))
    value[at % len(value)] ^= 1
    return b64(bytes(value))


def rfc3339(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def replaced(
    builder: x509.CertificateBuilder, value: x509.ExtensionType, *, critical: bool = True
) -> x509.CertificateBuilder:
    """The builder with ``value`` in the place of the extension of its kind."""
    kept = [extension for extension in builder._extensions if extension.oid != value.oid]
    kept.append(x509.Extension(value.oid, critical, value))
    return x509.CertificateBuilder(
        builder._issuer_name,
        builder._subject_name,
        builder._public_key,
        builder._serial_number,
        builder._not_valid_before,
        builder._not_valid_after,
        kept,
    )
