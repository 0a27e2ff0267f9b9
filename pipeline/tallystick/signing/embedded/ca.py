"""The embedded certificate authority: certifies a key for who proved to be somebody, and logs what it issues.

Proof is one of two: a challenge signed by an enrolled key, or an OIDC token of a pinned issuer. Both are JWTs. A token
is good for one certificate: what was used is remembered in the CA's folder for as long as it would be valid.
"""

from __future__ import annotations

import fcntl
import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tallystick.core.errors import NotGenuine, Refused, Unsupported
from tallystick.core.files import write_file
from tallystick.signing.embedded import proofs
from tallystick.signing.embedded import x509parts as parts
from tallystick.signing.records import Identity
from tallystick.tlog.log import Log

_NONCE_BYTES = 32


@dataclass(slots=True, kw_only=True)
class CertificateAuthority:
    """A CA with its CT log. ``chain`` is the issuing certificate, then the root."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]
    ct_key: ec.EllipticCurvePrivateKey
    ct_folder: Path
    enrolled: tuple[proofs.Enrolled, ...]
    issuers: tuple[proofs.Issuer, ...]
    used: UsedTokens
    _nonces: set[str] = field(default_factory=set)

    def challenge(self) -> str:
        """Return a nonce that one proof may answer, once."""
        nonce = secrets.token_urlsafe(_NONCE_BYTES)
        self._nonces.add(nonce)
        return nonce

    def certify(self, request: x509.CertificateSigningRequest, proof: str, now: datetime) -> x509.Certificate:
        """Return a certificate for the key that signed ``request``, in the name that ``proof`` proves.

        Raises:
            NotGenuine: ``sigstore.proof``: the request or the proof does not hold.
            Unsupported: the key is not on P-256, which is all that every verifier takes.
            Refused: ``sigstore.clock``: ``now`` is before the last certificate.
        """
        public = _p256(request.public_key())
        if not request.is_signature_valid:
            raise NotGenuine("certificate request: its signature does not hold", code="sigstore.proof")
        return self._issue(public, self._prove(proof, public, now), now)

    def certify_key(self, public: object, possession: bytes, proof: str, now: datetime) -> x509.Certificate:
        """Return a certificate for ``public`` in the name that ``proof`` proves: Fulcio's other kind of request.

        Args:
            possession: the key's ECDSA signature, with SHA-256, over the proof's own name for its subject.

        Raises:
            NotGenuine, Unsupported, Refused: as :meth:`certify`.
        """
        key = _p256(public)
        if not any(_signed(key, possession, name) for name in proofs.peek(proof).names):
            raise NotGenuine("certificate request: no proof of possession of its key", code="sigstore.proof")
        return self._issue(key, self._prove(proof, key, now), now)

    def exchange(self, proof: str, now: datetime) -> Identity:
        """Return whose enrolled key answered a challenge of ours, asking for a token instead of a certificate.

        Raises:
            NotGenuine: ``sigstore.proof``.
        """
        nonce = proofs.peek(proof).nonce
        if nonce is None or nonce not in self._nonces:
            raise NotGenuine("proof of identity: it answers no challenge of ours", code="sigstore.proof")
        self._nonces.discard(nonce)
        return proofs.verify_enrolled(proof, self.enrolled, nonce, proofs.FOR_A_TOKEN, now)

    def _issue(
        self, public: ec.EllipticCurvePublicKey, identity: Identity, now: datetime
    ) -> x509.Certificate:
        with _ct_log(self.ct_folder, now) as log:

            def stamp(tbs: bytes) -> bytes:
                leaf = parts.tree_leaf(tbs, self.chain[0], now)
                log.append(leaf)  # first, so that there is no promise without the entry
                return parts.make_sct(leaf, self.ct_key)

            return parts.make_leaf(
                public,
                identity,
                self.chain[0],
                self.key,
                serial=x509.random_serial_number(),
                now=now,
                stamp=stamp,
            )

    def _prove(self, proof: str, public: ec.EllipticCurvePublicKey, now: datetime) -> Identity:
        claims = proofs.peek(proof)
        known = claims.nonce is not None and claims.nonce in self._nonces
        if known and claims.nonce is not None:
            self._nonces.discard(claims.nonce)  # whether it holds or not: a nonce is good for one try
            if claims.issuer not in {issuer.issuer for issuer in self.issuers if issuer.challenged}:
                return proofs.verify_enrolled(proof, self.enrolled, claims.nonce, parts.spki(public), now)
        identity, expires = proofs.verify_token(proof, self.issuers, now, answers_challenge=known)
        self.used.take(proof, expires, now)
        return identity


@dataclass(frozen=True, slots=True)
class UsedTokens:
    """The tokens that got a certificate, by digest, until they would have expired anyway. A file, so that a
    restart does not forget."""

    path: Path

    def take(self, token: str, expires: datetime, now: datetime) -> None:
        """Remember ``token``, durably.

        Raises:
            NotGenuine: ``sigstore.proof``: it was used before.
        """
        mark = hashlib.sha256(token.encode()).hexdigest()
        with _locked(self.path.with_suffix(".lock")):
            lines = self.path.read_text("ascii").split("\n") if self.path.is_file() else []
            kept = [line for line in lines if line and int(line.partition(" ")[0]) > now.timestamp()]
            if any(line.endswith(mark) for line in kept):
                raise NotGenuine("proof of identity: the token was used before", code="sigstore.proof")
            kept.append(f"{int((expires + proofs.LEEWAY).timestamp()) + 1} {mark}")
            write_file(self.path, ("\n".join(kept) + "\n").encode(), mode=0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _p256(public: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise Unsupported("certificate request", at="key", want="P-256", got=type(public).__name__)
    return public


def _signed(public: ec.EllipticCurvePublicKey, signature: bytes, name: str) -> bool:
    try:
        public.verify(signature, name.encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


@contextmanager
def _ct_log(folder: Path, now: datetime) -> Iterator[Log]:
    """Give the CT log, held while a certificate is made, if time has not run back since its last entry.

    Raises:
        Refused: ``sigstore.clock``.
    """
    with Log.open(folder) as log:
        if log.size:
            last = datetime.fromtimestamp(parts.tree_leaf_time(log.entry(log.size - 1)) / 1000, UTC)
            if now < last:
                message = f"the clock runs back: it is {now.isoformat()}, and was {last.isoformat()} before"
                raise Refused(message, code="sigstore.clock")
        yield log
