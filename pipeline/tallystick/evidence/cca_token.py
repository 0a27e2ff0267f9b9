"""Arm CCA: is this token from a genuine platform, is the realm's part bound to it, and what do they claim?

Source: Arm DEN0137 (RMM) A7.2, draft-ffm-rats-cca-token for both profiles: CBOR tag 399 (legacy) or 907 (CMW
collection) around two COSE_Sign1 tokens; the platform's challenge is the hash of the realm's attestation key (RAK).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import cbor2
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.evidence.claims import Claims
from tallystick.evidence.cose_signature import holds
from tallystick.formats.cose import Sign1, cbor_map, loads, parse_sign1

KIND = "cca-token"
_WHAT = "CCA token"
_TOKEN_TAGS = (399, 907)  # the first profile's, and a CMW collection's
_COLLECTION_TYPE = "__cmwc_t"  # draft-ietf-rats-msg-wrap, 3.3
_PLATFORM, _REALM = 44234, 44241
_HASHES = {"sha-256": "sha256", "sha-384": "sha384", "sha-512": "sha512"}
_CURVES: dict[int, ec.EllipticCurve] = {
    1: ec.SECP256R1(),
    2: ec.SECP384R1(),
    3: ec.SECP521R1(),
}  # RFC 9053, 7.1
_JWK_CURVES: dict[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_PROFILES = {
    None,
    "http://arm.com/CCA-SSD/1.0.0",
    "tag:arm.com,2023:cca_platform#1.0.0",
    "tag:arm.com,2023:realm#1.0.0",
}
_PLATFORM_CLAIMS = {
    10: "cca_platform_challenge",
    265: "cca_platform_profile",
    2396: "cca_platform_implementation_id",
    256: "cca_platform_instance_id",
    2401: "cca_platform_config",
    2395: "cca_platform_lifecycle",
    2399: "cca_platform_sw_components",
    2400: "cca_platform_service_indicator",
    2402: "cca_platform_hash_algo_id",
}
_REALM_CLAIMS = {
    10: "cca_realm_challenge",
    265: "cca_realm_profile",
    44235: "cca_realm_personalization_value",
    44236: "cca_realm_hash_algo_id",
    44237: "cca_realm_public_key",
    44238: "cca_realm_initial_measurement",
    44239: "cca_realm_extensible_measurements",
    44240: "cca_realm_public_key_hash_algo_id",
}
_COMPONENT_CLAIMS = {
    1: "component_type",
    2: "measurement_value",
    4: "version",
    5: "signer_id",
    6: "hash_algo_id",
}
_SECURED = range(0x3000, 0x3100)  # lifecycle: secured; everything else is a debug or unprovisioned state


def verify(data: bytes, endorsements: Sequence[bytes], *, nonce: bytes | None, at: datetime) -> Claims:
    """Return the claims of a CCA token that is genuine.

    Args:
        endorsements: the platform's CPAK public key (PEM, DER or JWK); CPAKs have no certificates to expire.
        nonce: the 64 bytes that the realm's challenge must be; None when the caller compares it.

    Raises:
        Malformed, Unsupported: bytes that are no CCA token.
        NotGenuine: a signature or binding that does not hold, each named.
    """
    platform, realm = _tokens(data)
    platform_claims, realm_claims = (cbor_map(t.payload, f"{_WHAT} claims") for t in (platform, realm))
    for claims in (platform_claims, realm_claims):
        if claims.get(265) not in _PROFILES:
            raise Unsupported(
                _WHAT, at="profile", want="CCA-SSD 1.0.0 or arm.com,2023", got=str(claims.get(265))
            )
    rak = _bytes(realm_claims, 44237, "realm public key")
    keys = [key for key in map(_cpak, endorsements) if key is not None]
    findings: list[Finding] = []
    if not any(holds(platform, key) for key in keys):
        got = "another" if keys else "no CPAK was given"
        findings.append(
            Finding("cca.platform.signature", "platform token", "a signature by the given CPAK", got)
        )
    if not holds(realm, _rak(rak)):
        findings.append(Finding("cca.realm.signature", "realm token", "a signature by its RAK", "another"))
    bound = _bytes(platform_claims, 10, "platform challenge")
    digest = hashlib.new(_hash_name(realm_claims.get(44240)), rak).digest()
    if not hmac.compare_digest(bound, digest):
        findings.append(
            Finding("cca.binding", "platform challenge", f"hash of the RAK {digest.hex()}", bound.hex())
        )
    challenge = _bytes(realm_claims, 10, "realm challenge")
    if nonce is not None and nonce != challenge:
        findings.append(Finding("cca.nonce.mismatch", "realm challenge", nonce.hex(), challenge.hex()))
    if findings:
        raise NotGenuine("the CCA token is not genuine", findings=findings)
    return Claims(
        kind=KIND,
        values=_claims(platform_claims, realm_claims),
        roots=("cca-cpak",),
        report_data=challenge,
        valid_from=None,
        valid_until=None,
    )


def show(data: bytes) -> dict[str, Any]:
    """Return every claim of both tokens. Nothing of it is verified."""
    platform, realm = _tokens(data)
    claims = [cbor_map(token.payload, f"{_WHAT} claims") for token in (platform, realm)]
    tokens = {"platform_token": platform, "realm_token": realm}
    return {
        name: {"cose_algorithm": token.algorithm, "signature": token.signature.hex()}
        for name, token in tokens.items()
    } | _claims(*claims)


def _tokens(data: bytes) -> tuple[Sign1, Sign1]:
    value = loads(data, _WHAT)
    if isinstance(value, cbor2.CBORTag):
        if value.tag not in _TOKEN_TAGS:
            raise Unsupported(_WHAT, at="CBOR tag", want="399 or 907", got=str(value.tag))
        value = value.value
    if not hasattr(value, "items") or set(value) - {_COLLECTION_TYPE} != {_PLATFORM, _REALM}:
        raise Malformed(
            _WHAT, at="collection", want=f"entries {_PLATFORM} and {_REALM}", got=type(value).__name__
        )
    parts = [_record(value[_PLATFORM]), _record(value[_REALM])]
    if not all(isinstance(part, bytes) for part in parts):
        raise Malformed(_WHAT, at="collection", want="two byte strings", got="other types")
    return parse_sign1(parts[0], "CCA platform token"), parse_sign1(parts[1], "CCA realm token")


def _record(value: Any) -> Any:
    """Return the token in an entry: bytes, or in a CMW collection a record [type, bytes, indicator]."""
    is_record = isinstance(value, (list, tuple)) and 2 <= len(value) <= 3
    return value[1] if is_record else value


def _bytes(claims: dict[Any, Any], key: int, name: str) -> bytes:
    value = claims.get(key)
    if not isinstance(value, bytes):
        raise Malformed(_WHAT, at=name, want="bytes", got=type(value).__name__)
    return value


def _hash_name(label: Any) -> str:
    if label not in _HASHES:
        raise Unsupported(_WHAT, at="RAK hash algorithm", want="sha-256, sha-384 or sha-512", got=str(label))
    return _HASHES[label]


def _rak(data: bytes) -> ec.EllipticCurvePublicKey:
    """Return the realm's key: a raw P-384 point in the first profile, a COSE_Key in the 2023 one."""
    try:
        if data[:1] == b"\x04" and len(data) == 97:
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), data)
        key = cbor_map(data, "CCA realm key")
        if key.get(1) != 2 or key.get(-1) not in _CURVES:
            raise Unsupported(
                _WHAT, at="realm key", want="COSE EC2 on P-256, P-384 or P-521", got=str(key.get(-1))
            )
        x, y = (int.from_bytes(_bytes(key, part, "realm key"), "big") for part in (-2, -3))
        return ec.EllipticCurvePublicNumbers(x, y, _CURVES[key[-1]]).public_key()
    except ValueError as error:
        raise Malformed(_WHAT, at="realm key", want="a point on the curve", got=str(error)) from None


def _cpak(data: bytes) -> object | None:
    """Return the public key in PEM, DER or JWK; None for a file that is none of these."""
    try:
        if data.lstrip()[:1] == b"{":
            jwk = jsondoc.loads(data, "CPAK")
            curve = _JWK_CURVES.get(jwk.get("crv"))
            if jwk.get("kty") != "EC" or curve is None:
                return None
            x, y = (base64.urlsafe_b64decode(str(jwk[n]) + "=" * (-len(str(jwk[n])) % 4)) for n in ("x", "y"))
            return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve).public_key()
        if b"-----BEGIN" in data:
            return serialization.load_pem_public_key(data)
        return serialization.load_der_public_key(data)
    except (ValueError, KeyError, TypeError, UnsupportedAlgorithm):
        return None


def _claims(platform: dict[Any, Any], realm: dict[Any, Any]) -> dict[str, Any]:
    lifecycle = platform.get(2395)
    return {
        "platform": {
            name: _plain(platform[key]) for key, name in _PLATFORM_CLAIMS.items() if key in platform
        },
        "realm": {name: _plain(realm[key]) for key, name in _REALM_CLAIMS.items() if key in realm},
        "debug": not (type(lifecycle) is int and lifecycle in _SECURED),
    }


def _plain(value: Any) -> Any:
    """Return a claim as JSON carries it: bytes as hex, software components by name."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "items"):
        return {_COMPONENT_CLAIMS.get(key, str(key)): _plain(item) for key, item in value.items()}
    return value if isinstance(value, (bool, int, str)) else str(value)
