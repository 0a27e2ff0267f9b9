"""EAR: attestation results as a signed JSON Web Token, in the profile that Trustee issues.

Nothing here decides whether a token is genuine.

Source: draft-ietf-rats-ear (EAR), draft-ietf-rats-ar4si (trustworthiness vector and tiers), RFC 7515 (compact
serialization), RFC 7518 §3.4 (ES256 signatures are r || s); Trustee,
attestation-service/src/ear_token/broker.rs and docs/example.token.json (the claims that the profile carries).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported

PROFILE = "tag:github.com,2024:confidential-containers/Trustee"
ALGORITHM = "ES256"
ANNOTATED = "ear.veraison.annotated-evidence"
SIGNATURE_BYTES = 64  # RFC 7518 §3.4: two 32-byte integers
MAX_TOKEN_BYTES = 128 << 10  # Trustee's cap on a header that carries one

# AR4SI §2.3; the order is Trustee's.
VECTOR = (
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
)


class Tier(Enum):
    """AR4SI §2.3.1: what a trustworthiness value amounts to, from best to worst."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"

    @classmethod
    def of(cls, value: int) -> Tier:
        """Return the tier of a trustworthiness value.

        Raises:
            Malformed: outside a signed byte.
        """
        if not -128 <= value <= 127:
            raise Malformed("EAR", at="trustworthiness value", want="-128 to 127", got=f"{value}")
        if -1 <= value <= 1:
            return cls.NONE
        if -32 <= value <= 31:
            return cls.AFFIRMING
        return cls.WARNING if -96 <= value <= 95 else cls.CONTRAINDICATED


_WORSE = list(Tier)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submod:
    """The appraisal of one attester: ``cpu0``, ``gpu0``."""

    status: Tier
    vector: tuple[tuple[str, int], ...]  # every name of VECTOR, in its order
    policy: str  # ear.appraisal-policy-id
    annotated: Mapping[str, Any]  # the claims that were appraised, in Trustee's names


@dataclass(frozen=True, slots=True, kw_only=True)
class Ear:
    """The claims of one attestation result."""

    profile: str
    issuer: str
    developer: str
    build: str
    issued_at: int  # seconds since 1970-01-01T00:00:00Z
    expires_at: int
    submods: tuple[tuple[str, Submod], ...]  # sorted by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A parsed token: what it says, and what a signature check needs. Not verified."""

    header: Mapping[str, Any]
    ear: Ear
    signed: bytes
    signature: bytes  # r || s


def submod(vector: Mapping[str, int], *, policy: str, annotated: Mapping[str, Any]) -> Submod:
    """Return an appraisal whose status is the worst tier in ``vector``; names left out count as 0, "none".

    As in Trustee, an entry of tier "none" does not lower the status, and a vector of nothing else has status
    "none".
    """
    unknown = sorted(set(vector) - set(VECTOR))
    if unknown:
        raise ValueError(f"not in the trustworthiness vector: {unknown}")
    values = tuple((name, vector.get(name, 0)) for name in VECTOR)
    return Submod(status=worst(values), vector=values, policy=policy, annotated=annotated)


def worst(vector: tuple[tuple[str, int], ...]) -> Tier:
    """Return the worst tier in ``vector``."""
    return max((Tier.of(value) for _, value in vector), key=_WORSE.index, default=Tier.NONE)


def signing_input(ear: Ear, jwk: Mapping[str, str]) -> bytes:
    """Return the bytes that the issuer's ES256 signature covers; ``jwk`` is its public key."""
    header = {"typ": "JWT", "alg": ALGORITHM, "jwk": dict(jwk)}
    return _encode(_compact(header)) + b"." + _encode(_compact(_claims(ear)))


def compact(signed: bytes, signature: bytes) -> str:
    """Return the token: ``signed`` and its signature (``r || s``)."""
    if len(signature) != SIGNATURE_BYTES:
        raise ValueError(f"an {ALGORITHM} signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    return (signed + b"." + _encode(signature)).decode("ascii")


def parse(token: str) -> Token:
    """Return what ``token`` says, unverified.

    Raises:
        Malformed: not a compact JWS of an EAR, or a status better than its own vector.
        Unsupported: another algorithm than ES256, or another profile.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise Malformed("EAR", at="size", want=f"at most {MAX_TOKEN_BYTES} bytes", got=f"{len(token)}")
    parts = token.split(".")
    if len(parts) != 3:
        raise Malformed("EAR", at="token", want="header.claims.signature", got=f"{len(parts)} parts")
    header = _object(jsondoc.loads(_decode(parts[0], "header"), "EAR header"), "header")
    algorithm = header.get("alg")
    if algorithm != ALGORITHM:
        raise Unsupported("EAR", at="alg", want=ALGORITHM, got=str(algorithm))
    if "crit" in header:
        raise Unsupported("EAR", at="crit", want="no critical extensions", got=str(header["crit"]))
    claims = _object(jsondoc.loads(_decode(parts[1], "claims"), "EAR claims"), "claims")
    signature = _decode(parts[2], "signature")
    if len(signature) != SIGNATURE_BYTES:
        raise Malformed("EAR", at="signature", want=f"{SIGNATURE_BYTES} bytes", got=f"{len(signature)}")
    signed = f"{parts[0]}.{parts[1]}".encode("ascii")
    return Token(header=header, ear=_ear(claims), signed=signed, signature=signature)


def _claims(ear: Ear) -> dict[str, Any]:
    return {
        "eat_profile": ear.profile,
        "iss": ear.issuer,
        "iat": ear.issued_at,
        "exp": ear.expires_at,
        "ear.verifier-id": {"developer": ear.developer, "build": ear.build},
        "submods": {
            name: {
                "ear.status": part.status.value,
                "ear.trustworthiness-vector": dict(part.vector),
                "ear.appraisal-policy-id": part.policy,
                ANNOTATED: part.annotated,
            }
            for name, part in ear.submods
        },
    }


def _ear(claims: dict[str, Any]) -> Ear:
    profile = _text(claims, "eat_profile")
    if profile != PROFILE:
        raise Unsupported("EAR", at="eat_profile", want=PROFILE, got=profile)
    verifier = _object(claims.get("ear.verifier-id"), "ear.verifier-id")
    submods = _object(claims.get("submods"), "submods")
    return Ear(
        profile=profile,
        issuer=_text(claims, "iss"),
        developer=_text(verifier, "developer"),
        build=_text(verifier, "build"),
        issued_at=_integer(claims, "iat"),
        expires_at=_integer(claims, "exp"),
        submods=tuple((name, _submod(name, submods[name])) for name in sorted(submods)),
    )


def _submod(name: str, value: Any) -> Submod:
    found = _object(value, name)
    vector = _object(found.get("ear.trustworthiness-vector"), f"{name}.ear.trustworthiness-vector")
    unknown = sorted(set(vector) - set(VECTOR))
    if unknown:
        raise Malformed("EAR", at=name, want="names of AR4SI", got=unknown[0])
    values = tuple((entry, _integer(vector, entry) if entry in vector else 0) for entry in VECTOR)
    status = _status(_text(found, "ear.status"), at=f"{name}.ear.status")
    if _WORSE.index(status) < _WORSE.index(worst(values)):
        want = f"{worst(values).value}, the worst tier of its vector, or worse"
        raise Malformed("EAR", at=f"{name}.ear.status", want=want, got=status.value)
    return Submod(
        status=status,
        vector=values,
        policy=_text(found, "ear.appraisal-policy-id"),
        annotated=_object(found.get(ANNOTATED, {}), ANNOTATED),
    )


def _status(text: str, at: str) -> Tier:
    for tier in Tier:
        if tier.value == text:
            return tier
    raise Malformed("EAR", at=at, want="one of " + ", ".join(tier.value for tier in Tier), got=text)


def _object(value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed("EAR", at=at, want="an object", got=type(value).__name__)
    return value


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str):
        raise Malformed("EAR", at=name, want="a string", got=type(value).__name__)
    return value


def _integer(found: Mapping[str, Any], name: str) -> int:
    value = found.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Malformed("EAR", at=name, want="an integer", got=type(value).__name__)
    return value


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(text: str, at: str) -> bytes:
    """Return the bytes of unpadded base64url (RFC 7515 §2); no second spelling of the same bytes."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("EAR", at=at, want="base64url without padding", got=text[:16]) from None
    if _encode(data).decode("ascii") != text:
        raise Malformed("EAR", at=at, want="base64url without padding", got=text[-16:])
    return data
