"""The attester's ephemeral key pair: made for one session, its public half bound into the evidence."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tallystick.core.errors import Malformed, Unsupported
from tallystick.handshake.fields import Fields, b64url

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

ECDH_ES_A256KW = "ECDH-ES+A256KW"  # RFC 7518, section 4.6
RSA_OAEP_256 = "RSA-OAEP-256"  # RFC 7518, section 4.3

P256 = "P-256"  # what guest-components makes by default, and the only one that signs here
_COORDINATE_BYTES = {
    P256: 32,
    "P-521": 66,
}  # RFC 7518, section 6.2.1.2; the curves of Trustee, kbs/src/jwe/mod.rs
_RSA_BITS = (2048, 4096)  # NIST SP 800-57: no less; and no more than a handshake should cost
_WHAT = "tee-pubkey"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeePublicKey:
    """A JWK in the members that KBS defines, and no others.

    Members that another implementation added are dropped on reading, as Trustee does: the binding covers the
    typed key, so both sides must compute it over the same members.

    Source: kbs_attestation_protocol.md, "Key Format"; kbs-types, TeePubKey.
    """

    alg: str
    members: tuple[tuple[str, str], ...]  # (("kty", …), …) sorted by name, ``alg`` included

    def document(self) -> dict[str, str]:
        """Return the key as the JWK object that is sent and hashed."""
        return dict(self.members)

    @classmethod
    def parse(cls, value: Any) -> TeePublicKey:
        """Return the key in a JWK object, with its point or modulus checked.

        Raises:
            Malformed: a member is missing or not base64url, or the point is not on the curve.
            Unsupported: another key type, curve or algorithm.
        """
        fields = Fields(value, _WHAT)
        alg = fields.text("alg", max_characters=40)
        match fields.text("kty", max_characters=40), alg:
            case "EC", "ECDH-ES+A256KW":
                names: tuple[str, ...] = ("alg", "crv", "kty", "x", "y")
            case "RSA", "RSA-OAEP-256":
                names = ("alg", "e", "kty", "n")
            case kty, _:
                want = f"EC with {ECDH_ES_A256KW} or RSA with {RSA_OAEP_256}"
                raise Unsupported(_WHAT, at="alg", want=want, got=f"{kty} with {alg}")
        key = cls(alg=alg, members=tuple((name, fields.text(name, max_characters=1024)) for name in names))
        key.public_key()
        return key

    def thumbprint(self) -> str:
        """Return the key's JWK thumbprint with SHA-256: a name for the key, whatever it is used for.

        Source: RFC 7638, section 3: the required members alone, in order, without white space.
        """
        required = {name: value for name, value in self.members if name != "alg"}
        text = json.dumps(required, sort_keys=True, separators=(",", ":"))
        return b64url(hashlib.sha256(text.encode()).digest())

    def public_key(self) -> EllipticCurvePublicKey | RSAPublicKey:
        """Return the key in the form that cryptography computes with."""
        fields = Fields(self.document(), _WHAT)
        return _ec(fields) if self.alg == ECDH_ES_A256KW else _rsa(fields)

    @classmethod
    def of(cls, key: EllipticCurvePublicKey | RSAPublicKey) -> TeePublicKey:
        """Return the JWK of a P-256, P-521 or RSA public key."""
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

        if isinstance(key, RSAPublicKey):
            rsa = key.public_numbers()
            members = {"alg": RSA_OAEP_256, "kty": "RSA", "n": _minimal(rsa.n), "e": _minimal(rsa.e)}
        else:
            point = key.public_numbers()
            curve = {"secp256r1": P256, "secp521r1": "P-521"}[key.curve.name]
            x, y = (b64url(n.to_bytes(_COORDINATE_BYTES[curve], "big")) for n in (point.x, point.y))
            members = {"alg": ECDH_ES_A256KW, "kty": "EC", "crv": curve, "x": x, "y": y}
        return cls(alg=members["alg"], members=tuple(sorted(members.items())))


def _minimal(number: int) -> str:
    return b64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _ec(fields: Fields) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    curve = fields.text("crv")
    if curve not in _COORDINATE_BYTES:
        raise Unsupported(_WHAT, at="crv", want=" or ".join(_COORDINATE_BYTES), got=curve)
    size = _COORDINATE_BYTES[curve]
    x, y = fields.base64url("x", max_bytes=128), fields.base64url("y", max_bytes=128)
    for name, value in (("x", x), ("y", y)):
        if len(value) != size:
            raise fields.bad(name, want=f"{size} bytes", got=f"{len(value)}")
    try:
        made = ec.SECP256R1() if curve == P256 else ec.SECP521R1()
        return ec.EllipticCurvePublicKey.from_encoded_point(made, b"\x04" + x + y)
    except ValueError:
        raise fields.bad("x, y", want=f"a point on {curve}", got="a point that is not") from None


def _rsa(fields: Fields) -> RSAPublicKey:
    from cryptography.hazmat.primitives.asymmetric import rsa

    n = int.from_bytes(fields.base64url("n", max_bytes=1024), "big")
    e = int.from_bytes(fields.base64url("e", max_bytes=8), "big")
    if not _RSA_BITS[0] <= n.bit_length() <= _RSA_BITS[1]:
        raise Malformed(_WHAT, at="n", want=f"{_RSA_BITS[0]} to {_RSA_BITS[1]} bits", got=f"{n.bit_length()}")
    try:
        return rsa.RSAPublicNumbers(e, n).public_key()
    except ValueError:
        raise Malformed(_WHAT, at="n, e", want="an RSA public key", got="numbers that are none") from None
