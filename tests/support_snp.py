"""A processor maker of this suite's own: ARK, ASK and VCEK of AMD's profile, reports and revocation lists."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

AT = datetime(2025, 6, 1, tzinfo=UTC)
AMD = "1.3.6.1.4.1.3704.1."


class Maker:
    """A processor maker of this test's own: ARK, ASK and VCEK of AMD's profile."""

    def __init__(self, product="Milan", tcb=(4, 0, 24, 219), fmc=None, chip=bytes(range(64)), revoke=False):
        self.product, self.chip = product, chip
        self.ark_key, self.ask_key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.ark = self._issue(
            f"ARK-{product}", self.ark_key.public_key(), f"ARK-{product}", self.ark_key, ca=True
        )
        self.ask = self._issue(
            f"SEV-{product}", self.ask_key.public_key(), f"ARK-{product}", self.ark_key, ca=True
        )
        extensions = [("2", b"\x16" + bytes([len(product) + 3]) + product.encode() + b"-B0"), ("4", chip)]
        for oid, value in zip(("3.1", "3.2", "3.3", "3.8"), tcb, strict=True):
            extensions.append(
                (oid, b"\x02\x01" + bytes([value]) if value < 128 else b"\x02\x02\0" + bytes([value]))
            )
        if fmc is not None:
            extensions.append(("3.9", b"\x02\x01" + bytes([fmc])))
        self.vcek = self._issue("SEV-VCEK", self.key.public_key(), f"SEV-{product}", self.ask_key, extensions)
        revoked = [self.vcek.serial_number] if revoke else []
        self.crl = self._crl(revoked)

    def _issue(self, name, public, issuer, issuer_key, extensions=(), *, ca=False):
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(AT - timedelta(days=30))
            .not_valid_after(AT + timedelta(days=30))
        )
        if ca:
            builder = builder.add_extension(x509.BasicConstraints(True, None), True)
        for oid, value in extensions:
            builder = builder.add_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier(AMD + oid), value), False
            )
        return builder.sign(
            issuer_key, hashes.SHA384(), rsa_padding=padding.PSS(padding.MGF1(hashes.SHA384()), 48)
        )

    def _crl(self, serials):
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.ask.subject)
            .last_update(AT - timedelta(days=1))
            .next_update(AT + timedelta(days=1))
        )
        for serial in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(AT - timedelta(hours=1))
                .build()
            )
        made = builder.sign(self.ask_key, hashes.SHA384())
        return made.public_bytes(serialization.Encoding.DER)

    def report(
        self,
        *,
        version=3,
        report_data=b"n" * 64,
        policy=0x30000,
        cpuid=(0x19, 1, 1),
        tcb=None,
        chip=None,
        vmpl=0,
        host_data=bytes(32),
    ):
        body = bytearray(0x2A0)
        struct.pack_into("<IIQ", body, 0, version, 0, policy)
        struct.pack_into("<II", body, 0x30, vmpl, 1)
        body[0x50:0x90] = report_data
        body[0x90:0xC0] = b"m" * 48
        body[0xC0:0xE0] = host_data
        body[0x180:0x188] = tcb or bytes([4, 0, 0, 0, 0, 0, 24, 219])
        if version > 2:
            body[0x188:0x18B] = bytes(cpuid)
        body[0x1A0:0x1E0] = chip if chip is not None else self.chip
        r, s = decode_dss_signature(self.key.sign(bytes(body), ec.ECDSA(hashes.SHA384())))
        return bytes(body) + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)

    def endorsements(self):
        return [
            self.vcek.public_bytes(serialization.Encoding.PEM),
            self.ask.public_bytes(serialization.Encoding.DER),
        ]


def believe(monkeypatch: Any, maker: Maker) -> None:
    """Believe ``maker``'s root in place of AMD's."""
    from tallystick.evidence import roots, snp_report

    snp_report._endorsed.cache_clear()
    real = roots.certificate
    monkeypatch.setattr(
        roots, "certificate", lambda name: maker.ark if name.startswith("ARK-") else real(name)
    )
