"""The embedded certificate authority: certifies a key for who proved to be somebody, and logs what it issues.

Proof is one of two: a challenge signed by an enrolled key, or an OIDC token of a pinned issuer. Both are JWTs.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tallystick.core.errors import NotGenuine, Refused, Unsupported
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
        public = request.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
            raise Unsupported("certificate request", at="key", want="P-256", got=type(public).__name__)
        if not request.is_signature_valid:
            raise NotGenuine("certificate request: its signature does not hold", code="sigstore.proof")
        identity = self._prove(proof, public, now)
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
        if claims.nonce is not None and claims.nonce in self._nonces:
            self._nonces.discard(claims.nonce)  # whether it holds or not: a nonce is good for one try
            return proofs.verify_enrolled(proof, self.enrolled, claims.nonce, parts.spki(public), now)
        return proofs.verify_token(proof, self.issuers, now)


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
