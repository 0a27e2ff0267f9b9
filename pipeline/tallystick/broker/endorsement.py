"""Is this endorsement key's certificate from a TPM manufacturer whose key the trust file pins?

Source: TCG EK Credential Profile for TPM 2.0, §3.2 (EK certificate: key usage, extended key usage
2.23.133.8.1); RFC 5280, §6.1 (path validation). The names of swtpm's private authorities are the same on
every machine, so a chain counts by the public key it ends in, never by its names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.signing.records import Endorser

MANUFACTURER = "tpm-manufacturer"  # Endorser.kind
_EK_USAGE = x509.ObjectIdentifier("2.23.133.8.1")  # tcg-kp-EKCertificate
_RSA_BITS = 2048  # EK template L-1
_WHAT = "EK certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndorsedKey:
    """An endorsement key that a pinned manufacturer vouches for."""

    key: rsa.RSAPublicKey
    label: str  # of the manufacturer's root: "software-tpm"
    certificate: Digest  # sha256 of the certificate's DER
    valid_until: datetime


def endorsed_key(certificate: bytes, endorsers: Sequence[Endorser], *, now: datetime) -> EndorsedKey:
    """Return the endorsement key that ``certificate`` certifies.

    Args:
        certificate: DER as it was read from the TPM's NV index, whose unused end is zeros or ones.
        endorsers: of the trust file; those of other kinds are left aside.

    Raises:
        Malformed: not a certificate.
        Unsupported: not an RSA-2048 key.
        NotGenuine: not for an EK, outside its validity, or no chain to a pinned key (``ek.…``).
    """
    der = _trimmed(certificate)
    leaf = _parse(der)
    key = _public(leaf)
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _RSA_BITS:
        raise Unsupported(_WHAT, at="public key", want="RSA 2048", got=type(key).__name__)
    _check_usage(leaf)
    for endorser in endorsers:
        if endorser.kind != MANUFACTURER:
            continue
        chain = _chain(leaf, endorser)
        if chain is not None:
            until = _check_times([leaf, *chain], now)
            return EndorsedKey(key=key, label=endorser.label, certificate=Digest.of(der), valid_until=until)
    known = ", ".join(e.label for e in endorsers if e.kind == MANUFACTURER) or "none"
    raise _refuse(
        "ek.untrusted", "issuer", f"a chain to a pinned manufacturer's key ({known})", _name(leaf.issuer)
    )


def _trimmed(certificate: bytes) -> bytes:
    """Return the first DER element: an NV index may be longer than the certificate in it."""
    if len(certificate) < 4 or certificate[:2] != b"\x30\x82":
        raise Malformed(_WHAT, at="DER", want="a SEQUENCE of two length bytes", got=certificate[:4].hex())
    size = 4 + int.from_bytes(certificate[2:4], "big")
    rest = certificate[size:]
    if size > len(certificate) or (rest.strip(b"\0") and rest.strip(b"\xff")):
        raise Malformed(_WHAT, at="DER", want=f"{size} bytes and padding", got=f"{len(certificate)} bytes")
    return certificate[:size]


def _parse(der: bytes) -> x509.Certificate:
    try:
        found = x509.load_der_x509_certificate(der)
        found.extensions  # noqa: B018 - parsed here, so that a broken one is malformed and not a crash later
    except (ValueError, TypeError, x509.DuplicateExtension) as error:
        raise Malformed(_WHAT, at="DER", want="an X.509 certificate", got=str(error)) from None
    return found


def _public(certificate: x509.Certificate) -> object:
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Unsupported(_WHAT, at="public key", want="RSA 2048", got=str(error)) from None


def _check_usage(leaf: x509.Certificate) -> None:
    try:
        usages = list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        usages = []
    if _EK_USAGE not in usages:
        got = ", ".join(usage.dotted_string for usage in usages) or "none"
        raise _refuse("ek.usage", "extended key usage", f"{_EK_USAGE.dotted_string} (EK certificate)", got)


def _chain(leaf: x509.Certificate, endorser: Endorser) -> list[x509.Certificate] | None:
    """Return the issuers from ``leaf`` up to the pinned key; None when there is no such chain."""
    pool = [_parse(der) for der in endorser.certificates]
    chain: list[x509.Certificate] = []
    at = leaf
    while len(chain) < len(pool):
        issuer = next(
            (found for found in pool if found not in chain and _issued(at, found, len(chain))), None
        )
        if issuer is None:
            return None
        chain.append(issuer)
        if _spki(issuer) == endorser.spki:
            return chain
        at = issuer
    return None


def _issued(certificate: x509.Certificate, issuer: x509.Certificate, depth: int) -> bool:
    """Whether ``issuer`` signed ``certificate`` and may sign for ``depth`` authorities below it."""
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
        certificate.verify_directly_issued_by(issuer)
    except (x509.ExtensionNotFound, InvalidSignature, ValueError, TypeError):
        return False
    room = constraints.path_length is None or constraints.path_length >= depth
    return constraints.ca and room and usage.key_cert_sign


def _check_times(chain: Sequence[x509.Certificate], now: datetime) -> datetime:
    for certificate in chain:
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not start <= now <= end:
            want = f"{start.isoformat()} to {end.isoformat()}"
            raise _refuse("ek.validity", f"validity of {_name(certificate.subject)}", want, now.isoformat())
    return min(certificate.not_valid_after_utc for certificate in chain)


def _spki(certificate: x509.Certificate) -> Digest:
    return Digest.of(
        certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def _name(name: x509.Name) -> str:
    return name.rfc4514_string() or "(empty name)"


def _refuse(code: str, where: str, want: str, got: str) -> NotGenuine:
    finding = Finding(code, where, want, got)
    return NotGenuine(f"{_WHAT}: {finding.message}", findings=[finding])
