"""A timestamp authority for tests: RFC 3161 responses, written in DER by hand."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from signing.boxes import DAY, NOW, b64, rfc3339

_SEQUENCE, _SET, _OCTETS, _OID, _INTEGER, _TIME = 0x30, 0x31, 0x04, 0x06, 0x02, 0x18
_SHA256, _TST_INFO = "2.16.840.1.101.3.4.2.1", "1.2.840.113549.1.9.16.1.4"


def der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body


def oid(dotted: str) -> bytes:
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    out = bytearray()
    for arc in (40 * first + second, *rest):
        chunk = [arc & 0x7F]
        while arc := arc >> 7:
            chunk.append(0x80 | arc & 0x7F)
        out += bytes(reversed(chunk))
    return der(_OID, bytes(out))


def integer(value: int) -> bytes:
    return der(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


class Stamper:
    """A root, a signing certificate, and responses by it."""

    def __init__(self) -> None:
        root_key, self._key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        root_name, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in ("root", "tsa"))
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        signing = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self.root = (
            self._certificate(root_name, root_name, root_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(signing, critical=True)
            .sign(root_key, hashes.SHA256())
        )
        self.leaf = (
            self._certificate(name, root_name, self._key.public_key())
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
            .sign(root_key, hashes.SHA256())
        )

    def _certificate(self, subject: x509.Name, issuer: x509.Name, key: Any) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(NOW - 99 * DAY).not_valid_after(NOW + 99 * DAY)

    def stamp(self, signature: bytes, at: datetime = NOW) -> bytes:
        """The response that says ``signature`` was there at ``at`` (RFC 3161, 2.4.2; RFC 5652, 5.1)."""
        algorithm = der(_SEQUENCE, oid(_SHA256))
        imprint = der(_SEQUENCE, algorithm, der(_OCTETS, hashlib.sha256(signature).digest()))
        when = der(_TIME, at.strftime("%Y%m%d%H%M%SZ").encode())
        serial = integer(secrets.randbits(63) | 1)
        info = der(_SEQUENCE, integer(1), oid("1.3.6.1.4.1.57264.2"), imprint, serial, when)
        raw = self.leaf.public_bytes(Encoding.DER)
        certificate_hash = der(_OCTETS, hashlib.sha256(raw).digest())
        identifier = der(_SEQUENCE, der(_SEQUENCE, der(_SEQUENCE, certificate_hash)))
        attributes = sorted(
            der(_SEQUENCE, oid(kind), der(_SET, value))
            for kind, value in (
                ("1.2.840.113549.1.9.3", oid(_TST_INFO)),
                ("1.2.840.113549.1.9.4", der(_OCTETS, hashlib.sha256(info).digest())),
                ("1.2.840.113549.1.9.16.2.47", identifier),
            )
        )
        signed = self._key.sign(der(_SET, *attributes), ec.ECDSA(hashes.SHA256()))
        issuer = der(_SEQUENCE, self.leaf.issuer.public_bytes(), integer(self.leaf.serial_number))
        ecdsa = der(_SEQUENCE, oid("1.2.840.10045.4.3.2"))
        signer = der(
            _SEQUENCE, integer(1), issuer, algorithm, der(0xA0, *attributes), ecdsa, der(_OCTETS, signed)
        )
        content = der(_SEQUENCE, oid(_TST_INFO), der(0xA0, der(_OCTETS, info)))
        data = der(_SEQUENCE, integer(3), der(_SET, algorithm), content, der(0xA0, raw), der(_SET, signer))
        token = der(_SEQUENCE, oid("1.2.840.113549.1.7.2"), der(0xA0, data))
        return der(_SEQUENCE, der(_SEQUENCE, integer(0)), token)

    def authority(self, start: datetime = NOW - DAY, end: datetime | None = None) -> dict[str, Any]:
        """This authority as a trusted root lists it."""
        chain = [{"rawBytes": b64(one.public_bytes(Encoding.DER))} for one in (self.leaf, self.root)]
        window = {"start": rfc3339(start)} | ({"end": rfc3339(end)} if end else {})
        subject = {"organization": "tests", "commonName": "tsa"}
        return {"subject": subject, "certChain": {"certificates": chain}, "validFor": window}
