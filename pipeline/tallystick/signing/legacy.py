"""Bundles whose log entry is ``intoto/0.0.2``, the form of 2022 and 2023, which sigstore-python does not take.

All of it is checked here, by the steps of sigstore-python's verifier and with the same library for the chain.
"""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store

from tallystick.formats import dsse, intoto
from tallystick.formats.sigstore_bundle import Bundle
from tallystick.signing import certificate as certificates
from tallystick.signing import entry as entries
from tallystick.signing import logged, timestamps
from tallystick.signing.artifact import Artifact
from tallystick.signing.checks import Verified, check_signer, check_subject, within
from tallystick.signing.embedded.x509parts import tree_leaf
from tallystick.signing.records import Identity
from tallystick.signing.refusals import refusal
from tallystick.signing.root import Authority, LogKey, TrustedRoot


def verify(
    root: TrustedRoot, bundle: Bundle, *, artifact: Artifact, signer: Identity, now: datetime, what: str
) -> Verified:
    """Return what holds of ``bundle``.

    Raises:
        NotGenuine: with a finding ``bundle.…``.
        Malformed, Unsupported: the payload is no statement.
    """
    envelope = bundle.content
    if not isinstance(envelope, dsse.Envelope) or len(envelope.signatures) != 1:
        raise refusal(
            what, "bundle.signature", "content", "an envelope with one signature", "another content"
        )
    certificate = certificates.load(bundle.certificates[0], what)
    entry = entries.sole_entry(bundle, what)
    signature = envelope.signatures[0].sig
    times, _ = timestamps.when(bundle, entry, root, now, what)
    logs = within(entries.log_of(entry, root, what), times, what, "bundle.log-window", "transparency log")
    entries.verify(entry, logs[0], what)
    issuing = certificates.issuing(certificate, root.authorities, what)
    issuing = within(issuing, times, what, "bundle.ca-window", "certificate authority")
    for at in times:
        issuer = _verify_chain(certificate, issuing, at, what)
    _verify_sct(certificate, issuer, root.ct_logs, times, what)
    _check_usage(certificate, what)
    check_signer(certificates.identity(certificate, what), (signer,), what)
    key = certificate.public_key()
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        key.verify(signature, envelope.signed_bytes, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise refusal(
            what, "bundle.signature", "signature", "one by the certificate's key", "another"
        ) from None
    logged.check(entry, bundle, bundle.certificates[0], b"", what)
    if envelope.payload_type != intoto.PAYLOAD_TYPE:
        raise refusal(what, "bundle.payload-type", "payloadType", intoto.PAYLOAD_TYPE, envelope.payload_type)
    statement = intoto.parse(envelope.payload, what)
    check_subject(statement, artifact, what)
    return Verified(
        signer=signer, signed_at=min(times), predicate_type=statement.predicate_type, log_checked=True
    )


def _verify_chain(
    certificate: x509.Certificate, authorities: tuple[Authority, ...], at: datetime, what: str
) -> x509.Certificate:
    """Return the issuer, after building a chain that holds at ``at``; every certificate of a CA is an anchor."""
    anchors = [
        x509.load_der_x509_certificate(der) for authority in authorities for der in authority.certificates
    ]
    usage = (x509.ExtendedKeyUsage, Criticality.NON_CRITICAL, None)
    verifier = (
        PolicyBuilder()
        .store(Store(anchors))
        .time(at)
        .extension_policies(
            ca_policy=ExtensionPolicy.webpki_defaults_ca().may_be_present(*usage),
            ee_policy=ExtensionPolicy.webpki_defaults_ee().may_be_present(*usage),
        )
        .build_client_verifier()
    )
    try:
        return verifier.verify(certificate, []).chain[1]
    except Exception as error:
        raise refusal(
            what, "bundle.certificate", f"chain at {at.isoformat()}", "one that holds", str(error)
        ) from None


def _verify_sct(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    ct_logs: tuple[LogKey, ...],
    times: tuple[datetime, ...],
    what: str,
) -> None:
    """Check the one SCT against the CT log that it names, at a time for which that is trusted."""
    log_id, stamped = certificates.sct(certificate, what)
    named = tuple(log for log in ct_logs if log.log_id == log_id)
    if not named:
        raise refusal(
            what, "bundle.ct-unknown", "SCT log ID", "a CT log of the trusted root", log_id.hex()[:16]
        )
    within(named, (*times, stamped), what, "bundle.ct-window", "CT log")
    listed = certificate.extensions.get_extension_for_class(
        x509.PrecertificateSignedCertificateTimestamps
    ).value
    try:
        key = load_der_public_key(named[0].spki)
        if not isinstance(key, ec.EllipticCurvePublicKey) or listed[0].extension_bytes:
            raise ValueError("a key or extensions of a kind that is not known here")
        signed = tree_leaf(certificate.tbs_precertificate_bytes, issuer, stamped)
        key.verify(listed[0].signature, signed, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError) as error:
        raise refusal(what, "bundle.sct", "SCT", "one that holds", type(error).__name__) from None


def _check_usage(certificate: x509.Certificate, what: str) -> None:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise refusal(what, "bundle.certificate", "key usage", "code signing", str(error)) from None
    if not usage.digital_signature or ExtendedKeyUsageOID.CODE_SIGNING not in extended:
        raise refusal(what, "bundle.certificate", "key usage", "digital signatures of code", "another")
