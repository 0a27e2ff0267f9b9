"""A signing key of the attested machine, and proofs that whoever shows an API token holds it.

The attested key opens what is wrapped to it and signs nothing, so tokens are bound to a second key, which the broker
takes only inside the attested session and answers under the attested key: a token for another key opens for nobody.

Source: RFC 9449 (DPoP), sections 4.2 and 6.1; RFC 7638 (thumbprints); RFC 7518, section 3.4 (ES256).
"""

from __future__ import annotations

import hashlib
import os
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tallystick.core.errors import Malformed, Unsupported
from tallystick.handshake.fields import Fields, b64url
from tallystick.handshake.kbs import encode
from tallystick.handshake.teekey import P256, TeePublicKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

TYPE = "dpop+jwt"
ALGORITHM = "ES256"
_JTI_BYTES = 16
_INTEGER_BYTES = 32
_WHAT = "DPoP key"


class ProofKey:
    """A P-256 key that signs proofs. It never leaves this process and is never printed."""

    __slots__ = ("_private", "jwk")

    def __init__(self, private: EllipticCurvePrivateKey) -> None:
        self._private = private
        members = TeePublicKey.of(private.public_key()).document()
        self.jwk = {name: members[name] for name in ("crv", "kty", "x", "y")}

    @classmethod
    def make(cls) -> ProofKey:
        """Return a new key."""
        from cryptography.hazmat.primitives.asymmetric import ec

        return cls(ec.generate_private_key(ec.SECP256R1()))

    def proof(self, method: str, url: str, token: str, *, now: datetime) -> str:
        """Return the value of the ``DPoP`` header for one request that carries ``token``.

        Args:
            url: of the request, without query and fragment.
        """
        claims = {
            "jti": b64url(os.urandom(_JTI_BYTES)),
            "htm": method,
            "htu": url,
            "iat": int(now.timestamp()),
            "ath": token_hash(token),
        }
        return self._sign({"typ": TYPE, "alg": ALGORITHM, "jwk": self.jwk}, claims)

    def _sign(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        signed = f"{b64url(encode(header))}.{b64url(encode(claims))}"
        r, s = decode_dss_signature(self._private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{b64url(r.to_bytes(_INTEGER_BYTES, 'big') + s.to_bytes(_INTEGER_BYTES, 'big'))}"


def public(jwk: Any) -> TeePublicKey:
    """Return the P-256 key in a JWK without private members.

    Raises:
        Malformed: none, or one with its private part. Unsupported: another curve.
    """
    fields = Fields(jwk, _WHAT)
    if fields.has("d"):
        raise Malformed(_WHAT, at="d", want="a public key alone", got="a private key")
    if fields.text("kty", max_characters=40) != "EC":
        raise Malformed(_WHAT, at="kty", want="EC", got=fields.text("kty", max_characters=40))
    if fields.text("crv", max_characters=40) != P256:
        raise Unsupported(_WHAT, at="crv", want=P256, got=fields.text("crv"))
    return TeePublicKey.parse(
        {**{name: fields.text(name) for name in ("kty", "crv", "x", "y")}, "alg": "ECDH-ES+A256KW"}
    )


def token_hash(token: str) -> str:
    """Return what a proof says of its token (RFC 9449, section 4.2, ``ath``)."""
    return b64url(hashlib.sha256(token.encode("ascii", "replace")).digest())
