"""The certificates of the embedded CA, in the profile of Fulcio. Pure: serial numbers and times are passed in.

Source: sigstore/fulcio, docs/certificate-specification.md and docs/oid-info.md; RFC 6962, section 3.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tallystick.signing.certificate import ISSUER_V1, ISSUER_V2
from tallystick.signing.records import Identity
from tallystick.signing.root import EMBEDDED_DEV

LEAF_LIFETIME = timedelta(minutes=10)  # as Fulcio's
CA_LIFETIME = timedelta(days=3652)
ORGANIZATION = f"tallystick {EMBEDDED_DEV}"
_SCT_LIST = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")  # RFC 6962, section 3.3
_UTF8_STRING, _OCTET_STRING = 0x0C, 0x04
_SHA256_ECDSA = b"\x04\x03"  # RFC 5246, SignatureAndHashAlgorithm


def spki(public: ec.EllipticCurvePublicKey) -> bytes:
    """Return the key's DER SubjectPublicKeyInfo."""
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def make_root(key: ec.EllipticCurvePrivateKey, serial: int, now: datetime) -> x509.Certificate:
    """Return the root certificate over ``key``."""
    return _authority(_name("root"), key.public_key(), serial, now, path_length=1).sign(key, hashes.SHA384())


def make_intermediate(
    public: ec.EllipticCurvePublicKey,
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    serial: int,
    now: datetime,
) -> x509.Certificate:
    """Return the intermediate certificate over ``public``, which may issue for code signing alone."""
    builder = _authority(_name("intermediate"), public, serial, now, path_length=0, issuer=root.subject)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    return builder.add_extension(_authority_key(root), critical=False).sign(root_key, hashes.SHA384())


def make_leaf(
    public: ec.EllipticCurvePublicKey,
    identity: Identity,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    serial: int,
    now: datetime,
    stamp: Callable[[bytes], bytes],
) -> x509.Certificate:
    """Return a ten-minute certificate of ``public`` for ``identity``, with an embedded SCT.

    Built twice from one builder: the CT log signs the TBS of the first (no SCT list in it), and the second
    differs by that list alone, so that a verifier who takes the list out finds the bytes that were signed.

    Args:
        stamp: gives the SCT for a precertificate's TBS bytes.
    """
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(now)
        .not_valid_after(now + LEAF_LIFETIME)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(_authority_key(issuer), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(identity.san)]), critical=True)
        .add_extension(x509.UnrecognizedExtension(ISSUER_V1, identity.issuer.encode()), critical=False)
        .add_extension(
            x509.UnrecognizedExtension(ISSUER_V2, _der(_UTF8_STRING, identity.issuer.encode())),
            critical=False,
        )
    )
    sct = stamp(builder.sign(issuer_key, hashes.SHA384()).tbs_certificate_bytes)
    listed = _sized(_sized(sct))
    builder = builder.add_extension(
        x509.UnrecognizedExtension(_SCT_LIST, _der(_OCTET_STRING, listed)), critical=False
    )
    return builder.sign(issuer_key, hashes.SHA384())


def tree_leaf(tbs: bytes, issuer: x509.Certificate, at: datetime) -> bytes:
    """Return the MerkleTreeLeaf of a precertificate, which is also what its SCT signs, byte for byte.

    Source: RFC 6962, sections 3.2 and 3.4: the two structures differ in the name of their second field alone.
    """
    key = issuer.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 (ours, made above)
    millis = int(at.timestamp() * 1000)
    head = struct.pack(">BBQH", 0, 0, millis, 1)  # v1, certificate_timestamp, time, precert_entry
    return head + hashlib.sha256(spki(key)).digest() + len(tbs).to_bytes(3, "big") + tbs + b"\0\0"


def tree_leaf_time(leaf: bytes) -> int:
    """Return the milliseconds since 1970 at which ``leaf`` was stamped."""
    return int.from_bytes(leaf[2:10], "big")


def make_sct(leaf: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the signed certificate timestamp over ``leaf`` (RFC 6962, section 3.2)."""
    signature = key.sign(leaf, ec.ECDSA(hashes.SHA256()))
    log_id = hashlib.sha256(spki(key.public_key())).digest()
    return b"\0" + log_id + leaf[2:10] + b"\0\0" + _SHA256_ECDSA + _sized(signature)


def sign_tree_head(size: int, root: bytes, millis: int, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the CT log's signature over its tree head (RFC 6962, section 3.5)."""
    head = struct.pack(">BBQQ", 0, 1, millis, size) + root
    return _SHA256_ECDSA + _sized(key.sign(head, ec.ECDSA(hashes.SHA256())))


def _authority(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    serial: int,
    now: datetime,
    *,
    path_length: int,
    issuer: x509.Name | None = None,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(now)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _general_name(san: str) -> x509.GeneralName:
    """Return a URI for what has a scheme, else an e-mail address, as Fulcio tells them apart by their issuer."""
    return x509.UniformResourceIdentifier(san) if "://" in san else x509.RFC822Name(san)


def _sized(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def _der(tag: int, value: bytes) -> bytes:
    size = len(value)
    if size < 0x80:
        return bytes([tag, size]) + value
    digits = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(digits)]) + digits + value
