"""Attestation keys of a TPM: as public areas, as SubjectPublicKeyInfo, and what they signed.

Source: TCG TPM 2.0 Library 1.59, Part 1, annexes B (RSA) and C (ECC); Part 2, 12.2.4.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.findings import Finding
from tallystick.formats import tpm
from tallystick.formats.tpm import ObjectAttributes

AttestationKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
_WHAT = "attestation key"
_MIN_RSA_BITS, _MAX_RSA_BITS = 2048, 4096
_CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}

# (scheme, hash) -> curve names it is accepted with; RSA has none. Nothing else is accepted.
_SCHEMES: dict[tuple[int, int], tuple[str, ...]] = {
    (tpm.ALG_RSASSA, tpm.ALG_SHA256): (),
    (tpm.ALG_RSAPSS, tpm.ALG_SHA256): (),
    (tpm.ALG_ECDSA, tpm.ALG_SHA256): ("secp256r1",),
    (tpm.ALG_ECDSA, tpm.ALG_SHA384): ("secp384r1",),
}
_HASHES: dict[int, hashes.HashAlgorithm] = {tpm.ALG_SHA256: hashes.SHA256(), tpm.ALG_SHA384: hashes.SHA384()}
# A key that signs only what the TPM itself made, and that never leaves this TPM.
_REQUIRED = (
    ObjectAttributes.FIXED_TPM
    | ObjectAttributes.FIXED_PARENT
    | ObjectAttributes.SENSITIVE_DATA_ORIGIN
    | ObjectAttributes.RESTRICTED
    | ObjectAttributes.SIGN_ENCRYPT
)
_FORBIDDEN = ObjectAttributes.DECRYPT | ObjectAttributes.ENCRYPTED_DUPLICATION | ObjectAttributes.X509_SIGN


def from_spki(der: bytes) -> AttestationKey:
    """Return the key in a DER SubjectPublicKeyInfo.

    Raises:
        Malformed: not one.
        Unsupported: not RSA of 2048 to 4096 bits, P-256 or P-384.
    """
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Malformed(_WHAT, at="SubjectPublicKeyInfo", want="a DER public key", got=str(error)) from None
    return checked(key)


def from_area(area: tpm.Public) -> AttestationKey:
    """Return the key of a public area.

    Raises:
        Malformed: numbers that are no key: a point that is not on its curve, an even exponent.
        Unsupported: as :func:`from_spki`.
    """
    try:
        if isinstance(area.key, tpm.RsaKey):
            return checked(rsa.RSAPublicNumbers(area.key.exponent, area.key.modulus).public_key())
        curve = _CURVES.get(area.key.curve)
        if curve is None:
            raise Unsupported(_WHAT, at="curve", want=", ".join(_CURVES), got=area.key.curve)
        return checked(ec.EllipticCurvePublicNumbers(area.key.x, area.key.y, curve).public_key())
    except ValueError as error:
        raise Malformed(_WHAT, at="public area", want="numbers of a key", got=str(error)) from None


def checked(key: object) -> AttestationKey:
    """Return ``key`` when it is of a kind and size that is accepted.

    Raises:
        Unsupported: it is not.
    """
    if isinstance(key, rsa.RSAPublicKey) and _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in ("secp256r1", "secp384r1"):
        return key
    size = getattr(key, "key_size", "")
    raise Unsupported(
        _WHAT, at="key", want="RSA of 2048 to 4096 bits, P-256 or P-384", got=f"{type(key).__name__} {size}"
    )


def spki(key: AttestationKey) -> bytes:
    """Return the DER SubjectPublicKeyInfo of ``key``."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def attribute_findings(area: tpm.Public) -> tuple[Finding, ...]:
    """Return why ``area`` is not an attestation key's, if it is not: it could sign what was made outside."""
    if area.attributes & _REQUIRED == _REQUIRED and not area.attributes & _FORBIDDEN:
        return ()
    return (
        Finding(
            "tpm.ak-attributes",
            "objectAttributes of the attestation key",
            f"the bits {int(_REQUIRED):08x} (restricted signing key of this TPM) and none of {int(_FORBIDDEN):08x}",
            f"{int(area.attributes):08x}",
        ),
    )


def scheme_findings(area: tpm.Public, signature: tpm.Signature) -> tuple[Finding, ...]:
    """Return why ``signature`` can not be by the key of ``area``: another scheme than its own."""
    scheme, got = area.scheme, (signature.algorithm, signature.hash_algorithm)
    if scheme.algorithm == tpm.ALG_NULL or (scheme.algorithm, scheme.hash_algorithm) == got:
        return ()
    want = f"{scheme.algorithm:04x} {scheme.hash_algorithm or 0:04x}"
    return (Finding("tpm.signature.scheme", "scheme of the signature", want, f"{got[0]:04x} {got[1]:04x}"),)


def signature_findings(key: AttestationKey, signature: tpm.Signature, message: bytes) -> tuple[Finding, ...]:
    """Return why ``signature`` over ``message`` is not by ``key``, if it is not.

    Raises:
        Unsupported: a scheme and hash that are not in the table.
    """
    curves = _SCHEMES.get((signature.algorithm, signature.hash_algorithm))
    if curves is None:
        raise Unsupported(
            "TPM signature",
            at="scheme and hash",
            want=", ".join(f"{scheme:04x} {hashed:04x}" for scheme, hashed in _SCHEMES),
            got=f"{signature.algorithm:04x} {signature.hash_algorithm:04x}",
            code="tpm.signature.unsupported",
        )
    hashed = _HASHES[signature.hash_algorithm]
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            if signature.ecdsa is None or key.curve.name not in curves:
                return _bad_signature(f"one by a key on {key.curve.name}")
            key.verify(encode_dss_signature(*signature.ecdsa), message, ec.ECDSA(hashed))
        else:
            if signature.rsa is None:
                return _bad_signature("one by an RSA key")
            key.verify(signature.rsa, message, _padding(signature.algorithm, hashed), hashed)
    except (InvalidSignature, ValueError):
        return _bad_signature("one that verifies under the attestation key")
    return ()


def _padding(scheme: int, hashed: hashes.HashAlgorithm) -> padding.AsymmetricPadding:
    """Return the padding; TPMs differ in the salt they use for PSS (Part 1, B.7), so any length is read."""
    if scheme == tpm.ALG_RSASSA:
        return padding.PKCS1v15()
    return padding.PSS(padding.MGF1(hashed), padding.PSS.AUTO)


def _bad_signature(want: str) -> tuple[Finding, ...]:
    return (Finding("tpm.signature", "signature over TPMS_ATTEST", want, "another"),)
