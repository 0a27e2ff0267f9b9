"""API tokens of attested workloads, for the services that they call: short-lived, and useless to who steals one.

A token names the attested key and is bound to a signing key of the same machine (``cnf.jkt``). A service checks it
with the broker's published keys and asks for a proof with every request.

Source: RFC 7519; RFC 9068 (``at+jwt``); RFC 7800 and RFC 9449, section 6 (``cnf.jkt``); RFC 9278 (the subject's URN).
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tallystick.core import jsondoc
from tallystick.core.errors import NotGenuine
from tallystick.core.findings import Finding
from tallystick.core.jsondoc import canonical
from tallystick.formats import jws
from tallystick.handshake import dpop
from tallystick.handshake.fields import Fields, b64url
from tallystick.handshake.teekey import TeePublicKey

TYPE = "at+jwt"
LIFE = timedelta(minutes=5)
PROOF_AGE = timedelta(seconds=60)  # RFC 9449, section 11.1: a short time
_SKEW = timedelta(seconds=5)  # between the machine's clock and the service's
_SUBJECT = "urn:ietf:params:oauth:jwk-thumbprint:sha-256:"
_MAX_AUDIENCE = 256
_MAX_BODY_BYTES = 4 << 10

Sign = Callable[[bytes], bytes]  # ES256, r || s


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a workload asks a token for."""

    key: str  # the key that it holds, under whose policy it is judged again
    audience: str
    proof_key: TeePublicKey

    @classmethod
    def parse(cls, data: bytes) -> Request:
        """Return the request in ``data``; Malformed or Unsupported when it is none."""
        what = "token request"
        fields = Fields(jsondoc.loads(data, what, max_bytes=_MAX_BODY_BYTES), what)
        audience = fields.text("audience", max_characters=_MAX_AUDIENCE)
        if not audience or not audience.isprintable():
            raise fields.bad("audience", want="the service that it is for", got=repr(audience))
        key = fields.text("key", max_characters=_MAX_AUDIENCE)
        return cls(key=key, audience=audience, proof_key=dpop.public(fields.raw("jwk")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """What a verified token says of the workload that shows it."""

    subject: str
    audience: str
    release: str
    policy: str
    attestation: str  # the broker's decision
    expires_at: datetime


def issue(
    request: Request,
    sign: Sign,
    *,
    key_id: str,
    issuer: str,
    holder: str,
    said: Mapping[str, str],
    until: datetime,
    now: datetime,
) -> str:
    """Return a token for ``request``.

    Args:
        holder: thumbprint of the attested key.
        said: names and digests that the token carries: release, policy, attestation.
        until: the end of the lease it rests on; a token never outlives it.
    """
    header = {"typ": TYPE, "alg": dpop.ALGORITHM, "kid": key_id}
    claims = {
        "iss": issuer,
        "sub": _SUBJECT + holder,
        "aud": request.audience,
        "iat": int(now.timestamp()),
        "exp": int(min(now + LIFE, until).timestamp()),
        "jti": secrets.token_hex(16),
        "cnf": {"jkt": request.proof_key.thumbprint()},
        **said,
    }
    signed = f"{b64url(canonical(header))}.{b64url(canonical(claims))}"
    return f"{signed}.{b64url(sign(signed.encode()))}"


def verify(
    token: str,
    proof: str,
    keys: Sequence[Mapping[str, Any]],
    *,
    issuer: str,
    audience: str,
    method: str,
    url: str,
    now: datetime,
    unseen: Callable[[str], bool],
) -> Granted:
    """Return what ``token`` grants to whoever sent this request with ``proof``.

    Args:
        keys: the broker's published JWKs.
        unseen: remembers a proof's identifier for ``PROOF_AGE``, and says whether it is new.

    Raises:
        NotGenuine: with the code of what does not hold. Malformed: no JWT.
    """
    shown = jws.parse(token.encode("ascii", "replace"))
    if shown.header.get("typ") != TYPE or shown.header.get("alg") != dpop.ALGORITHM:
        raise _no("token.type", "token header", f"{TYPE}, {dpop.ALGORITHM}", json.dumps(dict(shown.header)))
    signer = next((key for key in keys if key.get("kid") == shown.header.get("kid")), None)
    if signer is None or not _holds(signer, shown):
        raise _no("token.signature", "signature of the token", "one by the broker", "another")
    claims = shown.claims
    if claims.get("iss") != issuer or claims.get("aud") != audience:
        raise _no(
            "token.audience", "iss, aud", f"{issuer}, {audience}", f"{claims.get('iss')}, {claims.get('aud')}"
        )
    issued_at, expires_at = _time(claims.get("iat")), _time(claims.get("exp"))
    if not issued_at - _SKEW <= now < expires_at:
        want = f"valid at {now.isoformat()}"
        raise _no("token.expired", "token", want, f"from {issued_at.isoformat()} to {expires_at.isoformat()}")
    _check_proof(token, proof, claims, method=method, url=url, now=now, unseen=unseen)
    return Granted(
        subject=str(claims.get("sub")),
        audience=audience,
        release=str(claims.get("release")),
        policy=str(claims.get("policy")),
        attestation=str(claims.get("attestation")),
        expires_at=expires_at,
    )


def _check_proof(
    token: str,
    proof: str,
    claims: Mapping[str, Any],
    *,
    method: str,
    url: str,
    now: datetime,
    unseen: Callable[[str], bool],
) -> None:
    """Hold a proof to RFC 9449, section 4.3: its key is the token's, it is for this request, young, and new."""
    shown = jws.parse(proof.encode("ascii", "replace"))
    if shown.header.get("typ") != dpop.TYPE or shown.header.get("alg") != dpop.ALGORITHM:
        raise _no(
            "dpop.type", "proof header", f"{dpop.TYPE}, {dpop.ALGORITHM}", json.dumps(dict(shown.header))
        )
    key = dpop.public(shown.header.get("jwk"))
    bound = claims.get("cnf")
    wanted = str(bound.get("jkt")) if isinstance(bound, dict) else ""
    if not hmac.compare_digest(wanted, key.thumbprint()):
        raise _no("dpop.key", "key of the proof", f"the token's ({wanted})", key.thumbprint())
    if not _holds(key.document(), shown):
        raise _no("dpop.signature", "signature of the proof", "one by its own key", "another")
    said = shown.claims
    for name, want in (("htm", method), ("htu", url), ("ath", dpop.token_hash(token))):
        if said.get(name) != want:
            raise _no(f"dpop.{name}", f"{name} of the proof", want, str(said.get(name)))
    made_at = _time(said.get("iat"))
    if not made_at - _SKEW <= now <= made_at + PROOF_AGE:
        raise _no(
            "dpop.stale",
            "proof",
            f"made within {PROOF_AGE.seconds} s of {now.isoformat()}",
            made_at.isoformat(),
        )
    identifier = said.get("jti")
    if not isinstance(identifier, str) or not identifier or not unseen(identifier):
        raise _no("dpop.replay", "jti of the proof", "one that was not seen before", str(identifier))


def _holds(jwk: Mapping[str, Any], token: jws.Token) -> bool:
    key = dpop.public({name: jwk.get(name) for name in ("kty", "crv", "x", "y")}).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or len(token.signature) != 64:
        return False
    r, s = (int.from_bytes(token.signature[at : at + 32], "big") for at in (0, 32))
    try:
        key.verify(encode_dss_signature(r, s), token.signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _time(seconds: object) -> datetime:
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 0 <= seconds < 1 << 37:
        raise _no("token.time", "time", "seconds since 1970", repr(seconds))
    return datetime.fromtimestamp(seconds, UTC)


def _no(code: str, where: str, want: str, got: str) -> NotGenuine:
    finding = Finding(code, where, want, got[:120])
    return NotGenuine(f"API token: {finding.message}", findings=[finding])
