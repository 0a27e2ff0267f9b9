"""Who asks for a certificate: a challenge signed by an enrolled key, or a token of a pinned OIDC issuer."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tallystick.core.errors import NotGenuine
from tallystick.signing.records import Identity

AUDIENCE = "sigstore"  # what Fulcio asks of every token
_PROOF_LIFETIME = timedelta(minutes=5)
LEEWAY = timedelta(seconds=60)  # between an issuer's clock and ours
_LATEST = 1 << 33  # seconds since 1970: a token that claims to hold longer is remembered until 2242
_ALGORITHMS = ["RS256", "ES256", "EdDSA"]  # asymmetric alone: an issuer's public key is no shared secret
_COORDINATE_BYTES = 32
FOR_A_TOKEN = b"a token"  # stands where a request's key is, in a proof that asks for a token: never DER


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """An identity, and the one public key that may speak for it."""

    identity: Identity
    public_key: str  # PEM, P-256


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An OIDC issuer whose keys are pinned, and the claim that names a person there."""

    issuer: str
    jwks: dict[str, Any]
    claim: str  # "email" (which has to be verified) or "sub"
    challenged: bool = False  # whether its tokens have to carry a nonce that the CA gave


@dataclass(frozen=True, slots=True, kw_only=True)
class Unverified:
    """What a proof says about itself, before anything is checked."""

    nonce: str | None
    issuer: str | None
    key_id: str | None
    names: tuple[str, ...]  # e-mail address and subject: what a client signs to show that it has its key


def prove(identity: Identity, key: ec.EllipticCurvePrivateKey, nonce: str, spki: bytes, now: datetime) -> str:
    """Return the proof that who holds ``key`` asks, in answer to ``nonce``, for a certificate of ``spki``."""
    claims = {
        "iss": identity.issuer,
        "sub": identity.san,
        "aud": AUDIENCE,
        "iat": int(now.timestamp()),
        "exp": int((now + _PROOF_LIFETIME).timestamp()),
        "nonce": nonce,
        "spki": hashlib.sha256(spki).hexdigest(),
    }
    return signed_jwt(claims, key)


def signed_jwt(claims: dict[str, Any], key: ec.EllipticCurvePrivateKey) -> str:
    """Return ``claims`` as a JWT that the P-256 key ``key`` signed (RFC 7515, ES256)."""
    signed = f"{_part({'alg': 'ES256', 'typ': 'JWT'})}.{_part(claims)}"
    r, s = utils.decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def peek(proof: str) -> Unverified:
    """Return what ``proof`` says about itself, to choose how to verify it.

    Raises:
        NotGenuine: ``sigstore.proof``: it is no JWT.
    """
    import jwt

    try:
        header = jwt.get_unverified_header(proof)
        claims = jwt.decode(proof, options={"verify_signature": False})
    except Exception:
        raise _refuse("it is no token") from None

    def text(value: object) -> str | None:
        return value if isinstance(value, str) else None

    names = (text(claims.get(name)) for name in ("email", "sub"))
    return Unverified(
        nonce=text(claims.get("nonce")),
        issuer=text(claims.get("iss")),
        key_id=text(header.get("kid")),
        names=tuple(name for name in names if name),
    )


def verify_enrolled(
    proof: str, enrolled: tuple[Enrolled, ...], nonce: str, spki: bytes, now: datetime
) -> Identity:
    """Return whose enrolled key answered ``nonce`` with ``proof``, for the key ``spki`` and no other.

    Raises:
        NotGenuine: ``sigstore.proof``.
    """
    for one in enrolled:
        claims = _claims(proof, load_pem_public_key(one.public_key.encode()), ["ES256"])
        if claims is None:
            continue
        _check_claims(claims, now)
        if claims.get("nonce") != nonce:
            raise _refuse("it answers another challenge")
        if (claims.get("iss"), claims.get("sub")) != (one.identity.issuer, one.identity.san):
            raise _refuse("the key that signed it is enrolled for somebody else")
        if claims.get("spki") != hashlib.sha256(spki).hexdigest():
            raise _refuse("it is for another key than the request")
        return one.identity
    raise _refuse("no enrolled key signed it")


def verify_token(
    proof: str, issuers: tuple[Issuer, ...], now: datetime, *, answers_challenge: bool
) -> tuple[Identity, datetime]:
    """Return whom the OIDC token ``proof`` names, and its end, if an issuer with pinned keys signed it.

    Args:
        answers_challenge: whether its nonce is one that the CA gave and nobody used.

    Raises:
        NotGenuine: ``sigstore.proof``.
    """
    import jwt

    said = peek(proof)
    for issuer in issuers:
        if issuer.issuer != said.issuer:
            continue
        if issuer.challenged and not answers_challenge:
            raise _refuse("it answers no challenge of ours, as its issuer's tokens have to")
        for key in jwt.PyJWKSet.from_dict(issuer.jwks).keys:
            if said.key_id is not None and key.key_id != said.key_id:
                continue
            claims = _claims(proof, key.key, _ALGORITHMS)
            if claims is not None:
                _check_claims(claims, now)
                expires = datetime.fromtimestamp(min(claims["exp"], _LATEST), UTC)
                return Identity(san=_subject(claims, issuer), issuer=issuer.issuer), expires
    raise _refuse("it answers no challenge of ours, and no pinned issuer signed it")


def _subject(claims: dict[str, Any], issuer: Issuer) -> str:
    value = claims.get(issuer.claim)
    if not isinstance(value, str) or not value:
        raise _refuse(f"it has no {issuer.claim}")
    if issuer.claim == "email" and claims.get("email_verified") is not True:
        raise _refuse("its issuer has not verified the e-mail address")
    return value


def _claims(proof: str, key: Any, algorithms: list[str]) -> dict[str, Any] | None:
    """Return the claims if ``key`` signed them. Times are checked against our ``now``, not PyJWT's clock."""
    import jwt

    times = ("exp", "iat", "nbf")
    options: Any = {
        "require": ["aud", "sub", "iat", "exp", "iss"],
        **{f"verify_{name}": False for name in times},
    }
    try:
        claims: dict[str, Any] = jwt.decode(
            proof, key, algorithms=algorithms, audience=AUDIENCE, options=options
        )
    except Exception:
        return None
    return claims


def _check_claims(claims: dict[str, Any], now: datetime) -> None:
    at = now.timestamp()
    leeway = LEEWAY.total_seconds()
    issued, expires, begins = (claims.get(name) for name in ("iat", "exp", "nbf"))
    for name, value in (("iat", issued), ("exp", expires), ("nbf", begins)):
        if name == "nbf" and value is None:
            continue
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise _refuse(f"its {name} is no time")
    if not issued - leeway <= at < expires + leeway or (begins is not None and at < begins - leeway):  # type: ignore[operator]
        raise _refuse("it is not valid now")


def _part(value: dict[str, Any]) -> str:
    text = json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def _refuse(why: str) -> NotGenuine:
    return NotGenuine(f"proof of identity: {why}", code="sigstore.proof")
