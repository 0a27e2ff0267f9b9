"""Is this endorsement key's certificate from a TPM manufacturer whose key the trust file pins?

Source: TCG EK Credential Profile for TPM 2.0, §3.2 (EK certificate: key usage, extended key usage
2.23.133.8.1); RFC 5280, §6.1 (path validation). The names of swtpm's private authorities are the same on
every machine, so a chain counts by the public key it ends in, never by its names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.evidence.chain import Chain, build_chain, common_name, load_certificate
from tallystick.evidence.tpm_chain import spki
from tallystick.signing.records import Endorser

MANUFACTURER = "tpm-manufacturer"  # Endorser.kind
_EK_USAGE = x509.ObjectIdentifier("2.23.133.8.1")  # tcg-kp-EKCertificate
_RSA_BITS = 2048  # EK template L-1
_HASHES = frozenset(("sha256", "sha384", "sha512"))
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
    leaf = load_certificate(der, _WHAT)
    key = leaf.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _RSA_BITS:
        raise Unsupported(_WHAT, at="public key", want="RSA 2048", got=type(key).__name__)
    _check_usage(leaf)
    for endorser in endorsers:
        chain = _chain(leaf, endorser) if endorser.kind == MANUFACTURER else None
        if chain is not None:
            findings = (*chain.expiry("ek", now), *_weak(chain))
            if findings:
                raise NotGenuine(f"{_WHAT}: {findings[0].message}", findings=findings)
            until = chain.not_after
            return EndorsedKey(key=key, label=endorser.label, certificate=Digest.of(der), valid_until=until)
    known = ", ".join(e.label for e in endorsers if e.kind == MANUFACTURER) or "none"
    want = f"a chain to a pinned manufacturer's key ({known})"
    raise _refuse("ek.untrusted", "issuer", want, leaf.issuer.rfc4514_string() or "(empty name)")


def _trimmed(certificate: bytes) -> bytes:
    """Return the first DER element: an NV index may be longer than the certificate in it."""
    if len(certificate) < 4 or certificate[:2] != b"\x30\x82":
        raise Malformed(_WHAT, at="DER", want="a SEQUENCE of two length bytes", got=certificate[:4].hex())
    size = 4 + int.from_bytes(certificate[2:4], "big")
    rest = certificate[size:]
    if size > len(certificate) or (rest.strip(b"\0") and rest.strip(b"\xff")):
        raise Malformed(_WHAT, at="DER", want=f"{size} bytes and padding", got=f"{len(certificate)} bytes")
    return certificate[:size]


def _check_usage(leaf: x509.Certificate) -> None:
    try:
        usages = list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        usages = []
    if _EK_USAGE not in usages:
        got = ", ".join(usage.dotted_string for usage in usages) or "none"
        raise _refuse("ek.usage", "extended key usage", f"{_EK_USAGE.dotted_string} (EK certificate)", got)


def _chain(leaf: x509.Certificate, endorser: Endorser) -> Chain | None:
    """Return the chain from ``leaf`` up to the pinned key; None when there is none."""
    own = [load_certificate(der, f"certificate of {endorser.label}") for der in endorser.certificates]
    roots = [one for one in own if Digest.of(spki(one)) == endorser.spki]
    chain = build_chain(leaf, [one for one in own if one not in roots], roots)
    return chain if chain is not None and len(chain.certificates) > 1 else None


def _weak(chain: Chain) -> Iterator[Finding]:
    for certificate in chain.certificates[:-1]:
        hashed = certificate.signature_hash_algorithm
        name = hashed.name if hashed is not None else "none"
        if name not in _HASHES:
            yield Finding("ek.hash", f"certificate {common_name(certificate)}", "signed over SHA-2", name)


def _refuse(code: str, where: str, want: str, got: str) -> NotGenuine:
    finding = Finding(code, where, want, got)
    return NotGenuine(f"{_WHAT}: {finding.message}", findings=[finding])
