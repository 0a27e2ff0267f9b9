"""Is the machine at the other end of a TLS connection one that a policy accepts? Asked before anything is sent to it.

The peer's certificate is nobody's word but its own: what counts is evidence over a nonce of ours and the public key
that the connection itself was made with. Evidence for another key, or for another nonce, is somebody else's.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from tallystick.appraisal.appraise import appraise
from tallystick.appraisal.index import Prepared
from tallystick.appraisal.records import Decision
from tallystick.broker.proving import Backing, Proven, prove
from tallystick.broker.sessions import Session
from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine, Unreachable, Unsupported
from tallystick.core.findings import Finding
from tallystick.handshake import cmw
from tallystick.handshake.fields import b64, b64url
from tallystick.handshake.kbs import Attestation
from tallystick.handshake.teekey import TeePublicKey

if TYPE_CHECKING:
    from cryptography import x509

_NONCE_BYTES = 32
_MOST_BYTES = 4 << 20
_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a peer showed over one connection."""

    nonce: bytes
    certificate: bytes  # DER, of that very connection
    record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A peer whose evidence holds, and what a policy says of it."""

    spki: Digest  # sha256 of the certificate's SubjectPublicKeyInfo: what a client pins
    tee: str
    proven: Proven
    decisions: tuple[Decision, ...]


def ask(host: str, port: int, *, path: str = cmw.PATH) -> Shown:
    """Return what the peer at ``host`` and ``port`` shows for a new nonce.

    No authority vouches for its certificate, and none is asked: the evidence does.

    Raises:
        Unreachable: nobody answers, or not with evidence (``peer.unreachable``).
    """
    import http.client
    import ssl

    nonce = secrets.token_bytes(_NONCE_BYTES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # judged below, by the evidence
    connection = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=context)
    try:
        connection.connect()
        certificate = connection.sock.getpeercert(binary_form=True)
        connection.request("GET", f"{path}?nonce={b64url(nonce)}", headers={"Accept": cmw.MEDIA_TYPE})
        answer = connection.getresponse()
        body = answer.read(_MOST_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(
            f"{host}:{port}: {type(error).__name__}: {error}", code="peer.unreachable"
        ) from None
    finally:
        connection.close()
    if answer.status != 200 or len(body) > _MOST_BYTES or not certificate:
        said = body[:120].decode("utf-8", "replace")
        message = f"{host}:{port} shows no evidence at {path}: HTTP {answer.status} {said}"
        raise Unreachable(message, code="peer.no-evidence")
    return Shown(nonce=nonce, certificate=certificate, record=body)


def verify(
    shown: Shown,
    policy: Prepared,
    keys: Sequence[str],
    backing: Backing,
    *,
    asked_at: datetime,
    now: datetime,
) -> Verified:
    """Return what ``policy`` says of the peer, for each of ``keys``, once its evidence has held.

    Args:
        asked_at: when the nonce was sent, which the age of the evidence is counted from.

    Raises:
        NotGenuine: evidence of another key (``peer.key``), for another nonce (``attestation.nonce``), or none.
        Malformed, Unsupported: as the wrapper and the evidence say.
    """
    certificate = _certificate(shown.certificate)
    own = _public(certificate)
    tee, data = cmw.unwrap(shown.record)
    message = Attestation.parse(data)
    if message.tee_pubkey != own:
        want, got = own.thumbprint(), message.tee_pubkey.thumbprint()
        finding = Finding("peer.key", "key that the evidence is bound to", f"the connection's ({want})", got)
        raise NotGenuine(f"peer: {finding.message}", findings=[finding])
    session = Session(tee=tee, nonce=b64(shown.nonce), issued_at=asked_at, expires_at=now, name=b"")
    proven = prove(session, message, backing, now=now)
    decisions = tuple(appraise(proven.claims, policy, key, proven.challenge, now) for key in keys)
    return Verified(spki=_spki(certificate), tee=tee, proven=proven, decisions=decisions)


def _certificate(der: bytes) -> x509.Certificate:
    from tallystick.evidence.chain import load_certificate

    return load_certificate(der, "certificate of the peer")


def _public(certificate: x509.Certificate) -> TeePublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) or (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    ):
        return TeePublicKey.of(key)
    want = "RSA or P-256, which evidence can be bound to"
    raise Unsupported("certificate of the peer", at="key", want=want, got=type(key).__name__)


def _spki(certificate: x509.Certificate) -> Digest:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return Digest.of(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
