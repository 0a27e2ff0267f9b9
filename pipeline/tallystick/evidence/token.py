"""Tokens of attestation services: Google, Microsoft Azure, Intel Trust Authority, and EAR from any verifier.

A service looked at the evidence and signed what it saw: its word is taken, so the claims say ``signed_by: provider``
(or ``verifier``). Keys come from the token's own chain to an embedded root, or from endorsements; a URL in a header is
never followed.

Source: RFC 7519 and RFC 8725; Google Cloud, "Confidential Space token claims"; Microsoft, "Azure Attestation token
claims"; Intel Trust Authority, "Attestation tokens"; draft-ietf-rats-ear.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine
from tallystick.core.findings import Finding
from tallystick.evidence import dump, roots
from tallystick.evidence.chain import Chain, build_chain, load_certificate, load_certificates, quiet
from tallystick.evidence.claims import Claims
from tallystick.formats import jws
from tallystick.formats.jws import Token

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_JWK_CURVES: dict[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_MIN_RSA_BITS = 2048

Key = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class _Profile:
    """What one service's tokens must look like."""

    kind: str
    algorithms: frozenset[str]
    issuer: re.Pattern[str] | None  # None: the profile names no issuer
    nonces: Callable[[dict[str, Any]], Iterator[bytes]]
    signed_by: str
    root_label: str
    embedded_root: str | None = None
    expires: bool = True  # exp is mandatory


def _eat_nonces(claims: dict[str, Any]) -> Iterator[bytes]:
    value = claims.get("eat_nonce", claims.get("nonce"))
    yield from _forms(value)


def _azure_nonces(claims: dict[str, Any]) -> Iterator[bytes]:
    runtime = claims.get("x-ms-runtime")
    payload = runtime.get("client-payload") if isinstance(runtime, dict) else None
    for holder in (claims, runtime, payload):
        if isinstance(holder, dict):
            yield from _forms(holder.get("nonce"))
    yield from _forms(claims.get("x-ms-sevsnpvm-reportdata"))


def _intel_nonces(claims: dict[str, Any]) -> Iterator[bytes]:
    for name in ("tdx_report_data", "sgx_report_data"):
        yield from _forms(claims.get(name))
    nonce = claims.get("verifier_nonce")
    yield from _forms(nonce.get("val") if isinstance(nonce, dict) else None)


def _forms(value: Any) -> Iterator[bytes]:
    """Return the byte strings that a nonce claim may stand for: its text, and what the text encodes."""
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str) or not text:
            continue
        yield text.encode()
        if re.fullmatch(r"(?:[0-9a-f]{2})+", text):
            yield bytes.fromhex(text)
        if re.fullmatch(r"[A-Za-z0-9+/_-]+={0,2}", text):
            padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
            try:
                yield base64.b64decode(padded.replace("-", "+").replace("_", "/"))
            except ValueError:
                continue


_PROFILES = {
    profile.kind: profile
    for profile in (
        _Profile(
            kind="gcp-token",
            algorithms=frozenset({"RS256"}),
            issuer=re.compile(r"https://confidentialcomputing\.googleapis\.com"),
            nonces=_eat_nonces,
            signed_by="provider",
            root_label="google-confidential-space",
            embedded_root="Google-Confidential-Space-Root",
        ),
        _Profile(
            kind="azure-maa-token",
            algorithms=frozenset({"RS256"}),
            issuer=re.compile(r"https://[a-z0-9][a-z0-9-]*(\.[a-z0-9-]+)*\.attest\.azure\.(net|us|cn)"),
            nonces=_azure_nonces,
            signed_by="provider",
            root_label="azure-attestation",
        ),
        _Profile(
            kind="ita-token",
            algorithms=frozenset({"PS384", "RS256"}),
            issuer=re.compile(r"Intel Trust Authority|https://portal(\.eu)?\.trustauthority\.intel\.com"),
            nonces=_intel_nonces,
            signed_by="verifier",
            root_label="intel-trust-authority",
        ),
        _Profile(
            kind="ear",
            algorithms=frozenset({"ES256", "ES384", "ES512", "PS256", "PS384", "PS512"}),
            issuer=None,
            nonces=_eat_nonces,
            signed_by="verifier",
            root_label="ear-verifier",
            expires=False,
        ),
    )
}
KINDS = tuple(_PROFILES)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A key that may have signed, what it is called, and the chain that vouches for it, if any."""

    key: Key
    kid: str | None
    chain: Chain | None


def verify(
    kind: str,
    data: bytes,
    endorsements: Sequence[bytes],
    *,
    nonce: bytes | None,
    at: datetime,
    audience: str | None = None,
) -> Claims:
    """Return the claims of a token that is genuine at ``at``.

    Args:
        audience: what ``aud`` must be or hold; None when the caller compares it, which is a note.
        endorsements: the service's keys (JWK, JWKS or PEM) and, where a JWKS carries chains, the roots these end in.
        nonce: what one of the token's nonces must be; None when the caller compares it.

    Raises:
        Malformed, Unsupported: bytes that are no token.
        NotGenuine: an algorithm, key, signature, issuer, time or nonce that does not hold, each named.
    """
    profile = _PROFILES[kind]
    token = jws.parse(data)
    findings: list[Finding] = []
    if token.algorithm not in profile.algorithms:
        want = ", ".join(sorted(profile.algorithms))
        raise NotGenuine(
            "the token is signed in a way its service does not use",
            findings=[Finding("token.algorithm", "alg", want, token.algorithm)],
        )
    with quiet():
        candidates = _candidates(profile, token, endorsements)
    signer = next((c for c in candidates if _holds(token, c.key)), None)
    if signer is None:
        got = f"none of {len(candidates)} keys" if candidates else "no key was given"
        findings.append(Finding("token.signature", "signature", "a signature by a known key", got))
    elif signer.chain is not None:
        findings += signer.chain.expiry("token.certificate", at)
    findings += _times(profile, token.claims, at)
    issuer = token.claims.get("iss")
    if profile.issuer is not None and not (isinstance(issuer, str) and profile.issuer.fullmatch(issuer)):
        findings.append(Finding("token.issuer", "iss", profile.issuer.pattern, str(issuer)))
    if nonce is not None and nonce not in set(profile.nonces(token.claims)):
        findings.append(Finding("token.nonce.mismatch", "nonce", nonce.hex(), "another, or none"))
    findings += _audience(token.claims, audience)
    if findings or signer is None:
        raise NotGenuine(f"the {kind} is not genuine", findings=findings)
    window = (signer.chain.not_before, signer.chain.not_after) if signer.chain else (None, None)
    expiry = _instant(token.claims.get("exp"))
    return Claims(
        kind=kind,
        values={**_spoken_out(kind, token.claims), "signed_by": profile.signed_by},
        roots=(profile.root_label,),
        report_data=next(profile.nonces(token.claims), b""),
        valid_from=window[0],
        valid_until=min((t for t in (window[1], expiry) if t is not None), default=None),
        notes=tuple(_unheard(token.claims, audience)),
    )


def _spoken_out(kind: str, claims: dict[str, Any]) -> dict[str, Any]:
    """Return the claims with what the issuer leaves out because it is empty.

    Source: Google, "Confidential Space token claims": ``cmd_override`` holds the CMD commands and parameters that
    override the image's; a token of a container that overrides none has no such claim.
    """
    submods = claims.get("submods")
    container = submods.get("container") if isinstance(submods, dict) else None
    if kind != "gcp-token" or not isinstance(submods, dict) or not isinstance(container, dict):
        return claims
    if "cmd_override" in container:
        return claims
    return {**claims, "submods": {**submods, "container": {**container, "cmd_override": []}}}


def _audience(claims: dict[str, Any], audience: str | None) -> Iterator[Finding]:
    """Give where the token is for somebody else (RFC 7519, 4.1.3: a text, or a list of them)."""
    said = claims.get("aud")
    if audience is not None and audience not in (said if isinstance(said, list) else [said]):
        yield Finding("token.audience.mismatch", "aud", audience, str(said))


def _unheard(claims: dict[str, Any], audience: str | None) -> Iterator[Finding]:
    if audience is None and "aud" in claims:
        yield Finding("token.audience.not-given", "aud", "compared with an audience", str(claims["aud"]))


def show(kind: str, data: bytes) -> dict[str, Any]:
    """Return the header and every claim of a token. Nothing of it is verified."""
    token = jws.parse(data)
    profile = _PROFILES[kind]
    issuer = token.claims.get("iss")
    if profile.issuer is not None and not (isinstance(issuer, str) and profile.issuer.fullmatch(issuer)):
        raise Malformed("token", at="iss", want=profile.issuer.pattern, got=str(issuer))
    if kind == "ear" and any(one.issuer and one.issuer.fullmatch(str(issuer)) for one in _PROFILES.values()):
        raise Malformed("token", at="iss", want="a verifier that issues EARs", got=str(issuer))
    shown: dict[str, Any] = {"header": dict(token.header), "token_claims": token.claims}
    chain = token.header.get("x5c")
    if isinstance(chain, list):
        shown["header"]["x5c"] = [
            one for item in chain for one in dump.certificates(base64.b64decode(str(item) + "=="), "x5c")
        ]
    return shown | {"signature": token.signature.hex()}


def _candidates(profile: _Profile, token: Token, endorsements: Sequence[bytes]) -> list[_Candidate]:
    """Return the keys that are believed: of the token's own chain to the embedded root, and of endorsements."""
    given_roots, keys = _endorsed(endorsements)
    found: list[_Candidate] = []
    if "x5c" in token.header and profile.embedded_root is not None:
        chain = _x5c(token.header["x5c"], [roots.certificate(profile.embedded_root), *given_roots])
        found.append(_Candidate(_key(chain.certificates[0].public_key()), None, chain))
    for jwk, key in keys:
        kid = jwk.get("kid") if jwk else None
        if kid is not None and "kid" in token.header and kid != token.header["kid"]:
            continue
        if jwk and jwk.get("alg") not in (None, token.algorithm):
            continue
        vouched = _vouched(jwk, key, given_roots) if jwk and jwk.get("x5c") else None
        found.append(_Candidate(key, kid, vouched))
    return found


def _endorsed(
    endorsements: Sequence[bytes],
) -> tuple[list[x509.Certificate], list[tuple[dict[str, Any] | None, Key]]]:
    """Return (certificates, keys with their JWK) out of endorsement files."""
    certificates: list[x509.Certificate] = []
    keys: list[tuple[dict[str, Any] | None, Key]] = []
    for data in endorsements:
        if data.lstrip()[:1] in (b"{", b"["):
            keys += [(jwk, _from_jwk(jwk)) for jwk in _jwks(data)]
        elif b"PUBLIC KEY-----" in data:
            try:
                keys.append((None, _key(serialization.load_pem_public_key(data))))
            except ValueError as error:
                raise Malformed(
                    "endorsement", at="public key", want="a PEM public key", got=str(error)
                ) from None
        else:
            certificates += load_certificates(data, "endorsement")
    return certificates, keys


def _jwks(data: bytes) -> list[dict[str, Any]]:
    document = jsondoc.loads(data, "endorsement")
    listed = document.get("keys", [document]) if isinstance(document, dict) else document
    if not isinstance(listed, list) or not all(isinstance(jwk, dict) for jwk in listed):
        raise Malformed("endorsement", at="keys", want="JSON Web Keys", got=type(listed).__name__)
    return [jwk for jwk in listed if jwk.get("kty") in ("RSA", "EC") and jwk.get("use", "sig") == "sig"]


def _from_jwk(jwk: dict[str, Any]) -> Key:
    def number(name: str) -> int:
        value = jwk.get(name)
        if not isinstance(value, str):
            raise Malformed("endorsement", at=f"JWK {name}", want="base64url text", got=type(value).__name__)
        return int.from_bytes(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)), "big")

    try:
        if jwk["kty"] == "RSA":
            return _key(rsa.RSAPublicNumbers(number("e"), number("n")).public_key())
        curve = _JWK_CURVES.get(str(jwk.get("crv")))
        if curve is None:
            raise Malformed(
                "endorsement", at="JWK crv", want="P-256, P-384 or P-521", got=str(jwk.get("crv"))
            )
        return ec.EllipticCurvePublicNumbers(number("x"), number("y"), curve).public_key()
    except ValueError as error:
        raise Malformed("endorsement", at="JWK", want="a public key", got=str(error)) from None


def _key(key: object) -> Key:
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key
    raise Malformed(
        "endorsement", at="public key", want="RSA of 2048 bits or more, or EC", got=type(key).__name__
    )


def _x5c(value: Any, anchors: Sequence[x509.Certificate]) -> Chain:
    """Return the chain in an ``x5c`` list (RFC 7515, 4.1.6: standard base64 DER, leaf first)."""
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise Malformed("token", at="x5c", want="a list of certificates", got=type(value).__name__)
    try:
        certificates = [
            load_certificate(base64.b64decode(item, validate=True), "token x5c") for item in value
        ]
        chain = build_chain(certificates[0], certificates[1:], anchors)
    except ValueError:
        raise Malformed("token", at="x5c", want="base64", got="other characters") from None
    except Malformed:
        chain = None  # an entry that is no certificate vouches for nothing
    if chain is None:
        raise NotGenuine(
            "the token's certificates do not chain to its issuer's root",
            findings=[
                Finding("token.certificate.chain", "x5c", "a chain to a known root", "none that holds")
            ],
        )
    return chain


def _vouched(jwk: dict[str, Any], key: Key, anchors: Sequence[x509.Certificate]) -> Chain:
    """Return the chain of a JWKS key: it must hold by itself, belong to the key, and end in a given root if any is."""
    own = jwk["x5c"]
    chain = _x5c(own, anchors or _self_signed_end(own))
    if _key(chain.certificates[0].public_key()) != key:
        raise NotGenuine(
            "the key set contradicts itself",
            findings=[
                Finding("token.certificate.key", "x5c", "the certificate of this key", "of another key")
            ],
        )
    return chain


def _self_signed_end(value: Any) -> list[x509.Certificate]:
    """Return the root at the end of a key set's own chain: the set was given as an endorsement, chain and all."""
    try:
        return [load_certificate(base64.b64decode(value[-1], validate=True), "JWKS x5c")]
    except (ValueError, TypeError, IndexError, KeyError, Malformed):
        return []


def _holds(token: Token, key: Key) -> bool:
    family, digest = token.algorithm[:2], _HASHES[token.algorithm[2:]]
    try:
        if family == "ES":
            if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != _CURVES[token.algorithm]:
                return False
            half = (key.key_size + 7) // 8
            if len(token.signature) != 2 * half:
                return False
            r, s = (int.from_bytes(part, "big") for part in (token.signature[:half], token.signature[half:]))
            key.verify(encode_dss_signature(r, s), token.signed, ec.ECDSA(digest))
        elif not isinstance(key, rsa.RSAPublicKey):
            return False
        elif family == "PS":
            key.verify(
                token.signature, token.signed, padding.PSS(padding.MGF1(digest), digest.digest_size), digest
            )
        else:
            key.verify(token.signature, token.signed, padding.PKCS1v15(), digest)
    except (InvalidSignature, ValueError):
        return False
    return True


def _times(profile: _Profile, claims: dict[str, Any], at: datetime) -> Iterator[Finding]:
    expiry = _instant(claims.get("exp"))
    if expiry is None and (profile.expires or "exp" in claims):
        yield Finding("token.time", "exp", "a time", str(claims.get("exp")))
    elif expiry is not None and at >= expiry:
        yield Finding("token.expired", "exp", f"after {at.isoformat()}", expiry.isoformat())
    for name in ("nbf", "iat"):
        start = _instant(claims.get(name))
        if name in claims and start is None:
            yield Finding("token.time", name, "a time", str(claims[name]))
        elif start is not None and at < start:
            yield Finding("token.not-yet-valid", name, f"at or before {at.isoformat()}", start.isoformat())


def _instant(value: Any) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1 << 38:
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError):
        return None
