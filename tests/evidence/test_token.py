"""Attestation services' tokens: real ones at their own time, and what must never be accepted."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from support_corpus import corpus

from tallystick.core.errors import Malformed, Misuse, NotGenuine, Unsupported
from tallystick.evidence import kinds, token

AT = datetime(2026, 3, 1, tzinfo=UTC)
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def jwk(key, **fields):
    numbers = key.public_key().public_numbers()
    if isinstance(key, rsa.RSAPrivateKey):
        made = {
            "kty": "RSA",
            "n": b64(numbers.n.to_bytes(256, "big")),
            "e": b64(numbers.e.to_bytes(3, "big")),
        }
    else:
        made = {
            "kty": "EC",
            "crv": "P-256",
            "x": b64(numbers.x.to_bytes(32, "big")),
            "y": b64(numbers.y.to_bytes(32, "big")),
        }
    text = {name: value.decode() if isinstance(value, bytes) else value for name, value in made.items()}
    return json.dumps({"keys": [text | fields]}).encode()


def sign(claims, key=RSA, alg="RS256", **header):
    covered = b".".join(
        b64(json.dumps(part).encode()) for part in ({"alg": alg, "typ": "JWT"} | header, claims)
    )
    if alg.startswith("HS"):
        signature = hmac.new(key, covered, hashlib.sha256).digest()
    elif alg == "none":
        signature = b""
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(covered, ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    elif alg.startswith("PS"):
        signature = key.sign(covered, padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA384())
    else:
        signature = key.sign(covered, padding.PKCS1v15(), hashes.SHA256())
    return covered + b"." + b64(signature)


def azure(**fields):
    start = int(AT.timestamp())
    return {
        "iss": "https://sharedweu.weu.attest.azure.net",
        "iat": start - 10,
        "nbf": start - 10,
        "exp": start + 10,
        "x-ms-runtime": {"client-payload": {"nonce": base64.b64encode(b"nonce").decode()}},
    } | fields


def verify(data, keys=(), kind="azure-maa-token", nonce=None, at=AT):
    return token.verify(kind, data, keys, nonce=nonce, at=at)


def codes(error):
    return [finding.code for finding in error.value.findings]


def test_a_token_says_what_it_says_and_who_signed():
    claims = verify(sign(azure()), [jwk(RSA)], nonce=b"nonce")
    assert (claims.values["signed_by"], claims.roots) == ("provider", ("azure-attestation",))
    assert claims.valid_until == AT + timedelta(seconds=10)


def test_the_audience_is_compared_when_it_is_given():
    for said in ("us", ["them", "us"]):
        data = sign(azure(aud=said))
        claims = token.verify("azure-maa-token", data, [jwk(RSA)], nonce=None, at=AT, audience="us")
        assert claims.notes == ()
        with pytest.raises(NotGenuine) as refused:
            token.verify("azure-maa-token", data, [jwk(RSA)], nonce=None, at=AT, audience="u")
        assert codes(refused) == ["token.audience.mismatch"]
        assert [note.code for note in verify(data, [jwk(RSA)]).notes] == ["token.audience.not-given"]
    with pytest.raises(NotGenuine):
        token.verify("azure-maa-token", sign(azure()), [jwk(RSA)], nonce=None, at=AT, audience="us")
    with pytest.raises(Misuse, match="only tokens have"):
        kinds.verify("snp-report", b"", [], nonce=None, at=AT, audience="us")


PEM = RSA.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (sign(azure(), key=PEM, alg="HS256"), [PEM]),  # the public key as an HMAC secret
        (sign(azure(), alg="none"), [jwk(RSA)]),
        (sign(azure(), key=EC, alg="ES256"), [jwk(EC)]),  # sound, and not what this service uses
        (sign(azure(), alg="PS384"), [jwk(RSA)]),
        (sign(azure(), alg="rs256"), [jwk(RSA)]),
    ],
)
def test_algorithm_confusion_fails(data, keys):
    with pytest.raises(NotGenuine, match="does not use") as refused:
        verify(data, keys)
    assert codes(refused) == ["token.algorithm"]


OTHER = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    ("data", "keys", "want"),
    [
        (sign(azure()), [jwk(OTHER)], ["token.signature"]),
        (sign(azure()), [], ["token.signature"]),
        (sign(azure(), kid="a"), [jwk(RSA, kid="b")], ["token.signature"]),
        (sign(azure()), [jwk(RSA, alg="RS512")], ["token.signature"]),
        (sign(azure(iss="https://attest.azure.net.example.org")), [jwk(RSA)], ["token.issuer"]),
        (sign(azure(iss="https://evil.example/.attest.azure.net")), [jwk(RSA)], ["token.issuer"]),
        (sign(azure(exp=int(AT.timestamp()))), [jwk(RSA)], ["token.expired"]),
        (sign(azure(nbf=int(AT.timestamp()) + 1)), [jwk(RSA)], ["token.not-yet-valid"]),
        (sign(azure(exp="tomorrow")), [jwk(RSA)], ["token.time"]),
        (sign({k: v for k, v in azure().items() if k != "exp"}), [jwk(RSA)], ["token.time"]),
        (sign(azure(**{"x-ms-runtime": {}})), [jwk(RSA)], ["token.nonce.mismatch"]),
    ],
)
def test_what_does_not_hold_is_named(data, keys, want):
    with pytest.raises(NotGenuine, match="not genuine") as refused:
        verify(data, keys, nonce=b"nonce")
    assert codes(refused) == want


def test_a_key_from_the_token_itself_is_not_believed():
    own = json.loads(jwk(RSA))["keys"][0]
    with pytest.raises(NotGenuine, match="not genuine"):
        verify(sign(azure(), jwk=own, jku="https://evil.example/keys"), [])


def test_every_flipped_character_is_refused():
    data = sign(azure())
    for at in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[at] = ord("A") if damaged[at] != ord("A") else ord("B")
        with pytest.raises((NotGenuine, Malformed, Unsupported)):
            verify(bytes(damaged), [jwk(RSA)])


def test_unused_bits_of_base64_are_refused():
    data = bytearray(sign(azure()))
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    data[-1] = alphabet[alphabet.index(data[-1]) ^ 1]
    with pytest.raises(Malformed, match="unused bits"):
        verify(bytes(data), [jwk(RSA)])


def test_critical_extensions_and_duplicate_claims_are_refused():
    with pytest.raises(Unsupported, match="crit"):
        verify(sign(azure(), crit=["exp"]), [jwk(RSA)])
    covered = b64(b'{"alg":"RS256"}') + b"." + b64(b'{"iss":"a","iss":"b"}')
    signature = RSA.sign(covered, padding.PKCS1v15(), hashes.SHA256())
    with pytest.raises(Malformed, match="duplicate key"):
        verify(covered + b"." + b64(signature), [jwk(RSA)])


def test_an_ear_needs_no_expiry_and_refuses_hmac():
    ear = {"eat_profile": "tag:github.com,2023:veraison/ear", "iat": int(AT.timestamp()), "eat_nonce": "00ff"}
    claims = verify(sign(ear, key=EC, alg="ES256"), [jwk(EC)], kind="ear", nonce=b"\x00\xff")
    assert claims.values["signed_by"] == "verifier"
    with pytest.raises(NotGenuine, match="does not use"):
        verify(sign(ear, key=b"secret", alg="HS256"), [jwk(EC)], kind="ear")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.sampled_from(token.KINDS))
def test_no_bytes_crash_the_verifier(data, kind):
    with suppress(Malformed, Unsupported, NotGenuine):
        verify(data, [data], kind=kind)


@pytest.mark.parametrize(
    ("container", "said"),
    [({}, []), ({"cmd_override": ["sh"]}, ["sh"]), ({"cmd_override": None}, None), (None, None)],
)
def test_what_google_leaves_out_when_nothing_is_overridden_is_an_empty_list(container, said):
    start = int(AT.timestamp())
    claims = {"iss": "https://confidentialcomputing.googleapis.com", "iat": start - 10, "exp": start + 10}
    if container is not None:
        claims["submods"] = {"container": container}
    found = verify(sign(claims), [jwk(RSA)], kind="gcp-token")
    assert found.at("submods.container.cmd_override") == said
    other = verify(sign(azure(submods={"container": {}})), [jwk(RSA)], kind="azure-maa-token")
    assert other.at("submods.container") == {}


TOKENS = "evidence/tokens"


@pytest.mark.corpus
def test_a_real_google_token():
    data = corpus(f"{TOKENS}/gcp_cs_pki_tdx_2025-09.jwt").read_bytes()
    at = datetime.fromtimestamp(1757060260, UTC)
    claims = verify(data, kind="gcp-token", at=at)
    assert (claims.values["dbgstat"], claims.values["hwmodel"]) == ("disabled-since-boot", "GCP_INTEL_TDX")
    assert b"cmd_override" not in base64.urlsafe_b64decode(data.split(b".")[1] + b"==")
    assert claims.at("submods.container.cmd_override") == []
    with pytest.raises(NotGenuine, match="not genuine") as refused:
        verify(data, kind="gcp-token", at=AT)
    assert codes(refused) == ["token.certificate.expired", "token.expired"]


@pytest.mark.corpus
def test_a_real_intel_token_and_a_broken_chain():
    data = corpus(f"{TOKENS}/ita_sgx_2023.jwt").read_bytes()
    good = corpus(f"{TOKENS}/ita_jwks_validJwks.json").read_bytes()
    bad = corpus(f"{TOKENS}/ita_jwks_intermediateVerificationFailureJWKS.json").read_bytes()
    at = datetime.fromtimestamp(
        json.loads(base64.urlsafe_b64decode(data.split(b".")[1] + b"=="))["exp"] - 1, UTC
    )
    assert verify(data, [good], kind="ita-token", at=at).values["sgx_is_debuggable"] is False
    with pytest.raises(NotGenuine, match="do not chain"):
        verify(data, [bad], kind="ita-token", at=at)


@pytest.mark.corpus
def test_real_ears():
    document = json.loads(corpus(f"{TOKENS}/ear_jwts.json").read_text())
    key = json.dumps(document["public_key_default"]).encode()
    genuine = []
    for text in document["tokens"]:
        data = (text["jwt"] if isinstance(text, dict) else text).encode()
        with suppress(NotGenuine, Malformed):
            genuine.append(verify(data, [key], kind="ear"))
    assert len(genuine) >= 4
    assert len(genuine) < len(document["tokens"])
