"""OCSP responses that were fetched earlier and are given as files: whose they are, what they say, and until when.

Source: RFC 6960: 4.2.2.2 for who may sign (the issuer, or a responder it certified for that), 4.2.2.1 for times.
A response without nextUpdate is refused: nothing says for how long it may be believed offline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from tallystick.core.findings import Finding
from tallystick.evidence.chain import Chain, common_name

_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
_MAX_SINGLE_RESPONSES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What responses say about one certificate of a chain."""

    certificate: x509.Certificate
    value: str  # "good", "revoked" or "unknown"
    reason: str | None  # why it is revoked: "certificateHold"
    until: datetime  # nextUpdate


def load(data: bytes) -> ocsp.OCSPResponse | None:
    """Return the response in ``data`` (DER), or None when it is something else."""
    try:
        response = ocsp.load_der_ocsp_response(data)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return None
        # the library reads late: what is broken breaks here and nowhere else
        _ = (response.signature_algorithm_oid, response.certificates, response.signature, response.extensions)
        _ = (response.responder_name, response.responder_key_hash)
        for count, single in enumerate(response.responses):
            _ = (single.serial_number, single.certificate_status, single.hash_algorithm)
            _ = (single.this_update_utc, single.next_update_utc, single.revocation_reason)
            _ = (single.issuer_name_hash, single.issuer_key_hash)
            if count >= _MAX_SINGLE_RESPONSES:
                return None
    except _UNREADABLE:
        return None
    return response


def check(
    chain: Chain, responses: Sequence[ocsp.OCSPResponse], code: str, at: datetime
) -> tuple[tuple[Finding, ...], tuple[Status, ...]]:
    """Return (findings, statuses) of what ``responses`` say about the certificates of ``chain`` below its root."""
    findings: list[Finding] = []
    statuses: list[Status] = []
    pairs = tuple(zip(chain.certificates, chain.certificates[1:], strict=False))
    for response in responses:
        for single in response.responses:
            pair = next(((c, i) for c, i in pairs if _is_about(single, c, i)), None)
            if pair is None:
                continue
            certificate, issuer = pair
            bad = _bad_response(response, single, issuer, common_name(certificate), code, at)
            if bad is not None:
                findings.append(bad)
                continue
            status = _status(single, certificate)
            statuses.append(status)
            if status.value != "good":
                got = status.value if status.reason is None else f"{status.value} ({status.reason})"
                where = f"certificate {common_name(certificate)}"
                findings.append(Finding(f"{code}.{status.value}", where, "good (OCSP)", got))
    return tuple(findings), tuple(statuses)


def _is_about(
    single: ocsp.OCSPSingleResponse, certificate: x509.Certificate, issuer: x509.Certificate
) -> bool:
    if single.serial_number != certificate.serial_number:
        return False
    try:
        digest = hashlib.new(single.hash_algorithm.name)
    except ValueError:
        return False
    other = digest.copy()
    digest.update(issuer.subject.public_bytes())
    other.update(_key_bits(issuer))
    return digest.digest() == single.issuer_name_hash and other.digest() == single.issuer_key_hash


def _key_bits(certificate: x509.Certificate) -> bytes:
    """Return the subjectPublicKey BIT STRING without its tag: what issuerKeyHash is made of."""
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return b""


def _status(single: ocsp.OCSPSingleResponse, certificate: x509.Certificate) -> Status:
    until = single.next_update_utc
    assert until is not None  # noqa: S101 - _bad_response refused it
    reason = single.revocation_reason
    return Status(
        certificate=certificate,
        value=single.certificate_status.name.lower(),
        reason=None if reason is None else str(reason.value),
        until=until,
    )


def _bad_response(
    response: ocsp.OCSPResponse,
    single: ocsp.OCSPSingleResponse,
    issuer: x509.Certificate,
    subject: str,
    code: str,
    at: datetime,
) -> Finding | None:
    where = f"OCSP response about {subject}"
    responder = _responder(response, issuer, at)
    if responder is None or not _signed_by(response, responder):
        return Finding(
            f"{code}.ocsp.signature", where, "a signature of the issuer or its responder", "another"
        )
    since, until = single.this_update_utc, single.next_update_utc
    if until is None or not since <= at <= until:
        window = f"{since.isoformat()} to {until.isoformat() if until else 'no end'}"
        return Finding(f"{code}.ocsp.expired", where, f"current at {at.isoformat()}", window)
    return None


def _responder(
    response: ocsp.OCSPResponse, issuer: x509.Certificate, at: datetime
) -> x509.Certificate | None:
    """Return the certificate that should have signed: the issuer's, or one that it issued for OCSP signing."""
    name, key_hash = response.responder_name, response.responder_key_hash

    def named(certificate: x509.Certificate) -> bool:
        if name is not None:
            return certificate.subject == name
        digest = hashlib.sha1(
            _key_bits(certificate), usedforsecurity=False
        ).digest()  # KeyHash is SHA-1 by RFC 6960
        return digest == key_hash

    if named(issuer):
        return issuer
    for certificate in response.certificates:
        if (
            not named(certificate)
            or not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc
        ):
            continue
        try:
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            certificate.verify_directly_issued_by(issuer)
        except (x509.ExtensionNotFound, InvalidSignature, *_UNREADABLE):
            continue
        if ExtendedKeyUsageOID.OCSP_SIGNING in usage:
            return certificate
    return None


def _signed_by(response: ocsp.OCSPResponse, responder: x509.Certificate) -> bool:
    key = responder.public_key()
    try:
        algorithm = response.signature_hash_algorithm
        if algorithm is None or algorithm.digest_size < 32:
            return False
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), algorithm)
        else:
            return False
    except (InvalidSignature, *_UNREADABLE):
        return False
    return True
