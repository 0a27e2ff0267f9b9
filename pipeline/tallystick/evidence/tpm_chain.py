"""Whose word an attestation key rests on: its certificate's chain to an authority that is believed.

An authority counts by its public key, never by its name: swtpm's private authorities have the same names on
every machine.

Sources: RFC 5280, 6.1 and 4.2; TCG EK Credential Profile 2.5, 3.5 (certificates of attestation keys).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tallystick.core.digests import Digest
from tallystick.core.findings import Finding
from tallystick.evidence.chain import Chain, build_chain, common_name, load_certificate
from tallystick.signing.records import Endorser

AK_AUTHORITY = "tpm-enrolment"  # Endorser.kind: vouches for attestation keys
_CODE = "tpm.ak-certificate"
_MIN_RSA_BITS = 2048
_HASHES = frozenset(("sha256", "sha384", "sha512"))
# tcg-kp-AIKCertificate, and tcg-kp-EKCertificate as Google Compute Engine's older ones have it. KeyUsage tells
# those from certificates of encryption keys.
_AK_USAGES = (x509.ObjectIdentifier("2.23.133.8.3"), x509.ObjectIdentifier("2.23.133.8.1"))
_PROCESSED = frozenset(
    (x509.BasicConstraints.oid, x509.KeyUsage.oid, x509.ExtendedKeyUsage.oid, x509.SubjectAlternativeName.oid)
)


def spki(certificate: x509.Certificate) -> bytes:
    """Return the certificate's public key as DER SubjectPublicKeyInfo."""
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def find(
    leaf: x509.Certificate, endorsers: Sequence[Endorser], links: Sequence[x509.Certificate], *, at: datetime
) -> tuple[str, Chain, tuple[Finding, ...]] | Finding:
    """Return the label, the chain and what is wrong with it; or a finding when there is no chain at all.

    Args:
        endorsers: of the trust file; those that do not vouch for attestation keys are left aside.
        links: intermediate certificates, believed for nothing by themselves.
    """
    authorities = [endorser for endorser in endorsers if endorser.kind == AK_AUTHORITY]
    best: tuple[str, Chain, tuple[Finding, ...]] | None = None
    for endorser in authorities:
        own = [load_certificate(der, f"certificate of {endorser.label}") for der in endorser.certificates]
        roots = [one for one in own if Digest.of(spki(one)) == endorser.spki]
        chain = build_chain(leaf, [one for one in (*own, *links) if one not in roots], roots)
        if chain is None or len(chain.certificates) < 2:
            continue
        found = (endorser.label, chain, tuple(_chain_findings(chain, at)))
        if not found[2]:
            return found
        best = best or found
    labels = ", ".join(endorser.label for endorser in authorities) or "none"
    return best or Finding(
        f"{_CODE}.untrusted",
        "issuer of ak_certificate",
        f"a chain to a believed key ({labels})",
        _issuer(leaf),
    )


def _issuer(leaf: x509.Certificate) -> str:
    return leaf.issuer.rfc4514_string()[:120] or "no name"


def _chain_findings(chain: Chain, at: datetime) -> Iterator[Finding]:
    yield from chain.expiry(_CODE, at)
    yield from _usage_findings(chain.certificates[0])
    for certificate in chain.certificates:
        where = f"certificate {common_name(certificate)}"
        for extension in certificate.extensions:
            if extension.critical and extension.oid not in _PROCESSED:
                yield Finding(
                    f"{_CODE}.extension",
                    where,
                    "no critical extension we do not know",
                    extension.oid.dotted_string,
                )
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) and not (
            isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS
        ):
            yield Finding(
                f"{_CODE}.key", where, f"RSA of {_MIN_RSA_BITS} bits or more, or ECC", type(key).__name__
            )
    for certificate in chain.certificates[:-1]:
        hashed = certificate.signature_hash_algorithm
        if hashed is None or hashed.name not in _HASHES:
            where, got = f"certificate {common_name(certificate)}", hashed.name if hashed else "none"
            yield Finding(f"{_CODE}.hash", where, "signed over SHA-2", got)


def _usage_findings(leaf: x509.Certificate) -> Iterator[Finding]:
    """Give why the certificate is not an attestation key's: the same authority may certify other keys."""
    where, extensions = "extensions of ak_certificate", leaf.extensions
    try:
        signs = extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        signs = False
    if not signs:
        yield Finding(f"{_CODE}.usage", where, "KeyUsage digitalSignature", "none")
    try:
        usages = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        usages = [_AK_USAGES[0]]  # an extended usage is a restriction: without one KeyUsage decides
    if not any(usage in _AK_USAGES for usage in usages):
        got = ", ".join(usage.dotted_string for usage in usages)
        yield Finding(f"{_CODE}.usage", where, f"ExtendedKeyUsage {_AK_USAGES[0].dotted_string}", got)
    try:
        authority = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        authority = False
    if authority:
        yield Finding(f"{_CODE}.usage", where, "no authority", "CA:TRUE")
