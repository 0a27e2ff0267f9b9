"""The broker's own authorities for attestation keys: one for each manufacturer label.

An attestation key's certificate is issued by the authority of the label that its endorsement key's chain
ended in, and evidence takes the label of the authority under which it verifies: no label is ever parsed.

Source: RFC 5280; TCG EK Credential Profile, §3.5 (tcg-kp-AIKCertificate).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tallystick.broker.tokens import create_key, load_key
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed
from tallystick.core.files import read_file, write_file
from tallystick.evidence.tpm_chain import AK_AUTHORITY
from tallystick.signing.records import Endorser

AK_USAGE = x509.ObjectIdentifier("2.23.133.8.3")  # tcg-kp-AIKCertificate
_LIFE = timedelta(days=3650)
_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MAX_CERTIFICATE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentAuthority:
    """Certifies attestation keys whose TPM's manufacturer has ``label``."""

    label: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def endorser(self) -> Endorser:
        """Return what evidence verification needs to believe this authority's certificates."""
        spki = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        return Endorser(kind=AK_AUTHORITY, label=self.label, spki=Digest.of(spki), certificates=(der,))

    def certify(self, key: rsa.RSAPublicKey, *, now: datetime, life: timedelta) -> x509.Certificate:
        """Return the certificate of an attestation key that has been proven to live in such a TPM."""
        spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"AK {Digest.of(spki).hex[:32]}")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([AK_USAGE]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
        return builder.sign(self.key, hashes.SHA256())


def authority(folder: Path, label: str, *, now: datetime) -> EnrolmentAuthority:
    """Return the authority for ``label``, whose key and certificate are made in ``folder`` the first time.

    Raises:
        Malformed: a label that can not name a file, or a certificate that is not one.
        NotGenuine: others can read the key.
    """
    if not _LABEL.fullmatch(label):
        raise Malformed("endorser", at="label", want="lower-case letters, digits and -", got=label)
    key_path, certificate_path = folder / f"{label}.pem", folder / f"{label}.crt"
    if not key_path.exists():
        create_key(key_path)
    key = load_key(key_path, f"enrolment key of {label}")
    if not certificate_path.exists():
        write_file(certificate_path, _root(key, label, now).public_bytes(serialization.Encoding.PEM))
    pem = read_file(certificate_path, "enrolment certificate", max_bytes=_MAX_CERTIFICATE_BYTES)
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise Malformed(
            "enrolment certificate", at=str(certificate_path), want="a PEM certificate", got="other bytes"
        ) from None
    if certificate.public_key() != key.public_key():
        raise Malformed(
            "enrolment certificate", at=str(certificate_path), want=f"of {key_path}", got="of another key"
        )
    return EnrolmentAuthority(label=label, certificate=certificate, key=key)


def _root(key: ec.EllipticCurvePrivateKey, label: str, now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"tallystick enrolment {label}")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def _usage(*, sign: bool) -> x509.KeyUsage:
    """Return the key usage of a leaf that signs, or of an authority that signs certificates."""
    return x509.KeyUsage(
        digital_signature=sign,
        key_cert_sign=not sign,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
