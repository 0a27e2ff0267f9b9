"""Evidence of a TPM as a guest would send it, made from throwaway keys: a test PKI, a log, a quote."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support_eventlog import ACTION, log
from support_tpm import RSASSA, SHA256, Private, attest, new_rsa, public, sign

from tallystick.core.digests import Digest
from tallystick.evidence.endorsements import Endorsements
from tallystick.formats import eventlog
from tallystick.signing.records import Endorser

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
NONCE = bytes(range(32))
AIK = x509.ObjectIdentifier("2.23.133.8.3")
EVENTS = ((0, ACTION, b"firmware"), (4, ACTION, b"image"), (9, ACTION, b"initrd"), (11, ACTION, b"sections"))


@lru_cache
def key(name: str) -> Private:
    """Return the key called ``name``, the same throughout a run: rsa…, p256…, p384…."""
    if name.startswith("rsa"):
        return new_rsa(1024 if name.endswith("1024") else 2048)
    curve = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}[name[:4]]
    return ec.generate_private_key(curve())


def spki(private: Private) -> bytes:
    """Return the DER SubjectPublicKeyInfo."""
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def der(certificate: x509.Certificate) -> bytes:
    """Return the certificate's DER."""
    return certificate.public_bytes(Encoding.DER)


def certificate(
    subject: str,
    private: Private,
    issuer: str,
    issuer_key: Private,
    *,
    authority: bool = False,
    signs: bool | None = None,
    usages: Iterable[x509.ObjectIdentifier] | None = None,
    start: datetime = NOW - timedelta(days=1),
    end: datetime = NOW + timedelta(days=1),
    more: Iterable[tuple[x509.ExtensionType, bool]] = (),
    hashed: hashes.HashAlgorithm | None = None,
) -> x509.Certificate:
    """Return a certificate for ``private`` by ``issuer_key``."""
    signs = (not authority) if signs is None else signs
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(signs, False, not signs, False, False, authority, False, False, False),
            critical=True,
        )
    )
    if usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
    for extension, critical in more:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, hashed or hashes.SHA256())


def authority(name: str = "enrolment", key_name: str = "p256 authority", **kwargs: Any) -> x509.Certificate:
    """Return a certificate that signs itself."""
    return certificate(name, key(key_name), name, key(key_name), authority=True, **kwargs)


def endorser(
    root: x509.Certificate, label: str = "software-tpm", kind: str = "tpm-enrolment"
) -> Endorsements:
    """Return the trust in ``root``."""
    pin = Digest.of(root.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return Endorsements(endorsers=(Endorser(kind=kind, label=label, spki=pin, certificates=(der(root),)),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a guest sends, before it is written down; change a part with ``dataclasses.replace``."""

    key_name: str = "rsa"
    scheme: int = RSASSA
    hashed: int = SHA256
    events: tuple[tuple[int, int, bytes], ...] = EVENTS
    pcrs: Mapping[int, bytes] = field(default_factory=dict)  # over what the log replays to
    claimed: Mapping[int, bytes] | None = None  # what the evidence says they are; None is the truth
    nonce: bytes = NONCE
    quote: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of support_tpm.attest
    message: bytes | None = None  # instead of what is signed
    leaf: x509.Certificate | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)  # over the JSON; None takes a field out

    def registers(self) -> dict[int, bytes]:
        """Return the 24 registers that are quoted."""
        replayed = eventlog.replay(eventlog.parse(log(self.events)), "sha256")
        return {register: replayed.get(register, bytes(32)) for register in range(24)} | dict(self.pcrs)

    def document(self) -> dict[str, Any]:
        """Return the evidence as JSON values."""
        private = key(self.key_name)
        message = attest(self.registers(), self.nonce, hashed=self.hashed, **self.quote)
        signature = sign(private, message, self.scheme, self.hashed)
        leaf = self.leaf or certificate("ak", private, "enrolment", key("p256 authority"), usages=[AIK])
        claimed = self.registers() if self.claimed is None else self.claimed
        document = {
            "ak_public": text(spki(private)),
            "ak_public_area": text(public(private, scheme=self.scheme, hashed=self.hashed)),
            "ak_certificate": text(der(leaf)),
            "tpm_quote": {
                "signature": text(signature),
                "message": text(self.message or message),
                "pcrs": [claimed[register].hex() for register in sorted(claimed)],
            },
            "event_log": text(log(self.events)),
        } | dict(self.fields)
        return {name: value for name, value in document.items() if value is not None}

    def bytes(self) -> bytes:
        """Return the evidence as it is sent."""
        return json.dumps(self.document()).encode()


def text(data: bytes) -> str:
    """Return base64."""
    return base64.b64encode(data).decode()


def made(**changes: Any) -> bytes:
    """Return evidence, good but for ``changes``."""
    return replace(Made(), **changes).bytes()
