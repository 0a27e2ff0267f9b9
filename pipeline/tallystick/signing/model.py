"""Signatures over models (OpenSSF Model Signing): a manifest in a Sigstore bundle, by any of the three methods.

What comes back is the manifest that was signed; whether the model is that one is for :mod:`tallystick.measure.model`.

Source: ossf/model-signing-spec, spec/v1.0.md (4.1 signing methods, 8.2 signature verification) and
algorithm-registry.md ("Signing Key Types").
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import dsse, intoto, oms, sigstore_bundle
from tallystick.formats.oms import Manifest
from tallystick.formats.sigstore_bundle import Bundle
from tallystick.signing import certificate as certificates
from tallystick.signing import managed
from tallystick.signing.artifact import Artifact
from tallystick.signing.records import Identity
from tallystick.signing.refusals import refusal
from tallystick.signing.verify import Verifier

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_MAX_CHAIN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedModel:
    """A manifest whose signature held, and whose it is."""

    manifest: Manifest
    method: str  # "sigstore", "key" or "certificate"
    signer: Identity | None  # of "sigstore"
    subject: str | None  # of "certificate": its RFC 4514 name
    signed_at: datetime | None  # None: no log says when


def with_key(statement: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the bundle over ``statement`` by a bare key (the method ``key``), as RFC 8785 bytes.

    Raises:
        Unsupported: a curve that the registry does not have.
    """
    import rfc8785

    if key.curve.name not in _HASHES:
        raise Unsupported("private key", at="curve", want=", ".join(_HASHES), got=key.curve.name)
    pae = dsse.pae(intoto.PAYLOAD_TYPE, statement)
    signature = key.sign(pae, ec.ECDSA(_HASHES[key.curve.name]))
    envelope = dsse.Envelope(
        payload_type=intoto.PAYLOAD_TYPE,
        payload=statement,
        signatures=(dsse.Signature(sig=signature, keyid=None),),
    )
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    document: dict[str, Any] = {
        "mediaType": sigstore_bundle.MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hashlib.sha256(pem).hexdigest()}, "tlogEntries": []},
        "dsseEnvelope": dsse.to_json(envelope),
    }
    return rfc8785.dumps(document)


def by_sigstore(data: bytes, root: bytes, signer: Identity, now: datetime, what: str) -> SignedModel:
    """Return the manifest that ``signer`` signed with a Sigstore of the trusted root ``root``.

    Raises:
        NotGenuine, Malformed, Unsupported: as :meth:`tallystick.signing.verify.Verifier.artifact`, and as
            :func:`tallystick.formats.oms.from_file`.
    """
    manifest = oms.from_file(data, what)
    about = Artifact(sha256=manifest.root)
    found = Verifier(root).artifact(data, artifact=about, signer=signer, now=now, what=what)
    return SignedModel(
        manifest=manifest, method="sigstore", signer=found.signer, subject=None, signed_at=found.signed_at
    )


def by_key(data: bytes, pem: bytes, now: datetime, what: str) -> SignedModel:
    """Return the manifest that the key ``pem`` signed.

    Raises:
        NotGenuine: ``bundle.key`` when the hint is of another key, or as :func:`tallystick.signing.managed.verify`.
        Malformed, Unsupported: as there, and as :func:`tallystick.formats.oms.from_file`.
    """
    manifest = oms.from_file(data, what)
    managed.verify(data, pem, artifact=Artifact(sha256=manifest.root), root=None, now=now, what=what)
    hint, own = sigstore_bundle.parse(data, what).key_hint, _fingerprints(pem)
    if hint and hint not in own:
        raise refusal(what, "bundle.key", "hint", own[0], hint)
    return SignedModel(manifest=manifest, method="key", signer=None, subject=None, signed_at=None)


def by_certificate(data: bytes, roots: bytes, now: datetime, what: str) -> SignedModel:
    """Return the manifest that the bundle's certificate signed, whose chain ends in one of ``roots``.

    Args:
        roots: PEM certificates of the authorities that are believed.
        now: every certificate of the chain must be valid at this instant; no log says when it was signed.

    Raises:
        NotGenuine: ``bundle.certificate`` or ``bundle.signature``.
        Malformed, Unsupported: not such a bundle, or a key of another kind.
    """
    manifest = oms.from_file(data, what)
    bundle = sigstore_bundle.parse(data, what)
    if "x509CertificateChain" not in bundle.document["verificationMaterial"]:
        raise refusal(what, "bundle.certificate", "signer", "a certificate chain", "another signing method")
    leaf = _leaf(bundle, _authorities(roots), now, what)
    _check_signature(bundle, leaf, what)
    name = leaf.subject.rfc4514_string()
    return SignedModel(manifest=manifest, method="certificate", signer=None, subject=name, signed_at=None)


def _fingerprints(pem: bytes) -> tuple[str, ...]:
    """Return what a hint may be (4.1, "a hex-encoded key fingerprint"): of the PEM, as model-signing has it, or DER."""
    key = load_pem_public_key(pem)
    forms = (Encoding.PEM, Encoding.DER)
    spellings = (key.public_bytes(form, PublicFormat.SubjectPublicKeyInfo) for form in forms)
    return tuple(hashlib.sha256(spelling).hexdigest() for spelling in spellings)


def _authorities(roots: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(roots)
    except ValueError as error:
        raise Malformed("certificates", at="file", want="PEM certificates", got=str(error)) from None


def _leaf(bundle: Bundle, authorities: list[x509.Certificate], now: datetime, what: str) -> x509.Certificate:
    """Return the signing certificate, once its chain reached one of ``authorities`` (8.2)."""
    chain = [certificates.load(der, what) for der in bundle.certificates]
    if len(chain) > _MAX_CHAIN:
        raise refusal(what, "bundle.certificate", "chain", f"at most {_MAX_CHAIN}", str(len(chain)))
    leaf = chain[0]
    _check_usage(leaf, what)
    for depth, certificate in enumerate(chain):
        _check_window(certificate, now, what)
        if any(_issued(certificate, authority, depth) for authority in authorities):
            for authority in authorities:
                if _issued(certificate, authority, depth):
                    _check_window(authority, now, what)
            return leaf
        if depth + 1 < len(chain) and not _issued(certificate, chain[depth + 1], depth):
            want = "the issuer of the one before it"
            got = chain[depth + 1].subject.rfc4514_string()
            raise refusal(what, "bundle.certificate", f"certificate {depth + 1}", want, got)
    got = chain[-1].issuer.rfc4514_string()
    raise refusal(what, "bundle.certificate", "chain", "one that ends in a given authority", got)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate, depth: int) -> bool:
    """Whether ``issuer`` is an authority that signed ``certificate``, with ``depth`` authorities below it."""
    try:
        basic = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.verify_directly_issued_by(issuer)
    except (x509.ExtensionNotFound, InvalidSignature, ValueError, TypeError):
        return False
    return basic.ca and (basic.path_length is None or depth <= basic.path_length)


def _check_usage(leaf: x509.Certificate, what: str) -> None:
    """A certificate for signatures says so: digitalSignature, and code signing when it restricts its purpose."""
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        if not usage.digital_signature:
            raise refusal(what, "bundle.certificate", "key usage", "digitalSignature", "another use")
    except x509.ExtensionNotFound:
        raise refusal(what, "bundle.certificate", "key usage", "digitalSignature", "none said") from None
    try:
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if x509.oid.ExtendedKeyUsageOID.CODE_SIGNING not in purposes:
        raise refusal(what, "bundle.certificate", "extended key usage", "codeSigning", "other purposes")


def _check_window(certificate: x509.Certificate, now: datetime, what: str) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now <= end:
        where = f"validity of {certificate.subject.rfc4514_string()}"
        got = f"{begin.isoformat()} to {end.isoformat()}"
        raise refusal(what, "bundle.certificate", where, f"valid at {now.isoformat()}", got)


def _check_signature(bundle: Bundle, leaf: x509.Certificate, what: str) -> None:
    key, envelope = leaf.public_key(), bundle.content
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise Unsupported(what, at="certificate key", want=", ".join(_HASHES), got=type(key).__name__)
    if not isinstance(envelope, dsse.Envelope) or len(envelope.signatures) != 1:
        raise refusal(what, "bundle.signature", "signatures", "exactly one", "another number")
    try:
        key.verify(envelope.signatures[0].sig, envelope.signed_bytes, ec.ECDSA(_HASHES[key.curve.name]))
    except InvalidSignature:
        raise refusal(
            what, "bundle.signature", "signature", "one by this certificate", "one that does not hold"
        ) from None
