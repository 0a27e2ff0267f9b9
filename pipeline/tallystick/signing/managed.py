"""Bundles of a managed key: a bare public key that the caller holds, and no certificate.

sigstore-python does not take them (its issue 1244), so all of it is checked here. A key says who signed without
any log; the log is checked when there is a trusted root, and the answer says whether it was.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from tallystick.core.digests import Algorithm
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import canonical_base64, dsse, intoto, sigstore_bundle
from tallystick.formats.sigstore_bundle import Bundle, LogEntry
from tallystick.signing import entry as entries
from tallystick.signing import logged, timestamps
from tallystick.signing.artifact import Artifact
from tallystick.signing.checks import Verified, check_subject, within
from tallystick.signing.refusals import refusal
from tallystick.signing.root import TrustedRoot

_MIN_RSA_BITS = 2048
_CURVE_HASHES = {  # sigstore/architecture-docs, algorithm-registry.md
    "secp256r1": (Algorithm.SHA256, hashes.SHA256()),
    "secp384r1": (Algorithm.SHA384, hashes.SHA384()),
    "secp521r1": (Algorithm.SHA512, hashes.SHA512()),
}
_Key = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


def verify(
    data: bytes,
    pem: bytes,
    *,
    artifact: Artifact,
    root: TrustedRoot | None,
    now: datetime,
    what: str = "bundle",
) -> Verified:
    """Return what holds of the bundle ``data`` under the public key ``pem``.

    Args:
        root: whose logs and timestamp authorities are believed; None leaves them unchecked, and says so.

    Raises:
        NotGenuine: with a finding ``bundle.…``.
        Malformed, Unsupported: not a bundle, not a key, or one of a kind that is not known here.
    """
    bundle = sigstore_bundle.parse(data, what)
    key = _load(pem)
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    _check_hint(bundle, der, what)
    predicate_type = _check_signature(bundle, key, artifact, what)
    signed_at = None
    if root is not None:
        entry = entries.sole_entry(bundle, what)
        signed_at = _check_log(bundle, entry, root, now, what)
    for entry in bundle.entries:
        entries.check_inclusion(entry, what)
        logged.check(entry, bundle, der, artifact.sha256.value, what)
    return Verified(
        signer=None, signed_at=signed_at, predicate_type=predicate_type, log_checked=root is not None
    )


def _check_log(bundle: Bundle, entry: LogEntry, root: TrustedRoot, now: datetime, what: str) -> datetime:
    """Return when the log or an authority says that the signature was there, both checked."""
    times, _ = timestamps.when(bundle, entry, root, now, what)
    logs = within(entries.log_of(entry, root, what), times, what, "bundle.log-window", "transparency log")
    entries.verify(entry, logs[0], what)
    return min(times)


def _check_hint(bundle: Bundle, der: bytes, what: str) -> None:
    """Check that the bundle is one of a managed key, and not by its own word of another one."""
    if bundle.key_hint is None:
        raise refusal(what, "bundle.key", "signer", "the hint of a key", "a certificate")
    own = canonical_base64.encode(
        hashlib.sha256(der).digest()
    )  # as cosign writes it; other hints are free text
    if len(bundle.key_hint) == len(own) and bundle.key_hint.endswith("=") and bundle.key_hint != own:
        raise refusal(what, "bundle.key", "hint", own, bundle.key_hint)


def _check_signature(bundle: Bundle, key: _Key, artifact: Artifact, what: str) -> str | None:
    """Return the predicate type of the statement that ``key`` signed; None for a file's signature."""
    content = bundle.content
    try:
        if isinstance(content, dsse.Envelope):
            if len(content.signatures) != 1:
                raise refusal(
                    what, "bundle.signature", "signatures", "exactly one", f"{len(content.signatures)}"
                )
            _verify_bytes(key, content.signatures[0].sig, content.signed_bytes)
        else:
            if (
                content.digest is not None
                and content.algorithm == "SHA2_256"
                and content.digest != artifact.sha256.value
            ):
                raise refusal(
                    what, "bundle.subject", "messageDigest", artifact.sha256.hex, content.digest.hex()
                )
            _verify_file(key, content.signature, artifact)
    except InvalidSignature:
        raise refusal(
            what, "bundle.signature", "signature", "one by this key", "one that does not hold"
        ) from None
    if not isinstance(content, dsse.Envelope):
        return None
    if content.payload_type != intoto.PAYLOAD_TYPE:
        raise refusal(what, "bundle.payload-type", "payloadType", intoto.PAYLOAD_TYPE, content.payload_type)
    statement = intoto.parse(content.payload, what)
    check_subject(statement, artifact, what)
    return statement.predicate_type


def _verify_bytes(key: _Key, signature: bytes, data: bytes) -> None:
    match key:
        case ed25519.Ed25519PublicKey():
            key.verify(signature, data)
        case ec.EllipticCurvePublicKey():
            key.verify(signature, data, ec.ECDSA(_CURVE_HASHES[key.curve.name][1]))
        case rsa.RSAPublicKey():
            key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())


def _verify_file(key: _Key, signature: bytes, artifact: Artifact) -> None:
    match key:
        case ed25519.Ed25519PublicKey():
            key.verify(signature, artifact.content())
        case ec.EllipticCurvePublicKey():
            algorithm, hasher = _CURVE_HASHES[key.curve.name]
            key.verify(signature, artifact.digest(algorithm).value, ec.ECDSA(utils.Prehashed(hasher)))
        case rsa.RSAPublicKey():
            prehashed = utils.Prehashed(hashes.SHA256())
            key.verify(signature, artifact.sha256.value, padding.PKCS1v15(), prehashed)


def _load(pem: bytes) -> _Key:
    try:
        key = load_pem_public_key(pem)
    except Exception as error:
        raise Malformed("public key", at="file", want="a PEM public key", got=str(error)) from None
    match key:
        case ed25519.Ed25519PublicKey():
            return key
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVE_HASHES:
            return key
        case rsa.RSAPublicKey() if key.key_size >= _MIN_RSA_BITS:
            return key
    want = f"Ed25519, P-256, P-384, P-521, or RSA of {_MIN_RSA_BITS} bits or more"
    raise Unsupported("public key", at="file", want=want, got=type(key).__name__)
