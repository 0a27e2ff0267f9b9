"""CCA tokens: real ones, and a test platform's for bindings that no public sample breaks."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from datetime import UTC, datetime

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from support_corpus import corpus

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.evidence import cca_token

AT = datetime(2026, 3, 1, tzinfo=UTC)
CPAK, RAK = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
RAW_RAK = RAK.public_key().public_bytes(
    serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
)
NUMBERS = RAK.public_key().public_numbers()
COSE_RAK = cbor2.dumps({1: 2, -1: 2, -2: NUMBERS.x.to_bytes(48, "big"), -3: NUMBERS.y.to_bytes(48, "big")})
PEM = CPAK.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


def sign(claims, key):
    protected, payload = b"\xa1\x01\x38\x22", cbor2.dumps(claims)
    covered = cbor2.dumps(["Signature1", protected, b"", payload])
    r, s = decode_dss_signature(key.sign(covered, ec.ECDSA(hashes.SHA384())))
    return cbor2.dumps(
        cbor2.CBORTag(18, [protected, {}, payload, r.to_bytes(48, "big") + s.to_bytes(48, "big")])
    )


def token(rak=RAW_RAK, *, platform=None, realm=None, platform_key=CPAK, realm_key=RAK, tag=399):
    platform_claims = {10: hashlib.sha256(rak).digest(), 2395: 0x3000, 2396: b"i" * 32} | (platform or {})
    realm_claims = {10: b"c" * 64, 44237: rak, 44238: b"r" * 32, 44240: "sha-256"} | (realm or {})
    parts = {44234: sign(platform_claims, platform_key), 44241: sign(realm_claims, realm_key)}
    return cbor2.dumps(cbor2.CBORTag(tag, parts))


def verify(data, endorsements=(PEM,), nonce=None):
    return cca_token.verify(data, endorsements, nonce=nonce, at=AT)


def codes(error):
    return [finding.code for finding in error.value.findings]


@pytest.mark.parametrize("rak", [RAW_RAK, COSE_RAK])
def test_both_profiles_of_the_realm_key(rak):
    claims = verify(token(rak), nonce=b"c" * 64)
    assert claims.values["realm"]["cca_realm_initial_measurement"] == (b"r" * 32).hex()
    assert claims.values["debug"] is False


def test_a_collection_of_records_is_the_same_token():
    plain = cbor2.loads(token(tag=907)).value
    records = {name: [263, part] for name, part in plain.items()} | {"__cmwc_t": "tag:cca"}
    for parts in (dict(plain), records):
        data = cbor2.dumps(cbor2.CBORTag(907, parts))
        assert verify(data).values == verify(token()).values


def test_a_platform_that_is_not_secured_says_debug():
    assert verify(token(platform={2395: 0x2000})).values["debug"] is True


@pytest.mark.parametrize(
    ("data", "want"),
    [
        (token(platform_key=RAK), ["cca.platform.signature"]),
        (token(realm_key=CPAK), ["cca.realm.signature"]),
        (token(platform={10: b"x" * 32}), ["cca.binding"]),
        (token(realm={10: b"d" * 64}), ["cca.nonce.mismatch"]),
    ],
)
def test_what_does_not_hold_is_named(data, want):
    with pytest.raises(NotGenuine, match="not genuine") as refused:
        verify(data, nonce=b"c" * 64)
    assert codes(refused) == want


def test_without_the_platforms_key_nothing_is_genuine():
    with pytest.raises(NotGenuine, match="not genuine") as refused:
        verify(token(), endorsements=[b"not a key"])
    assert refused.value.findings[0].got == "no CPAK was given"


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (token(tag=400), Unsupported, "CBOR tag: want one of 18, 399, 907, got 400"),
        (token(platform={265: "tag:example"}), Unsupported, "profile"),
        (token(realm={44240: "md5"}), Unsupported, "sha-256, sha-384 or sha-512"),
        (token(realm={44237: b"\x04" + bytes(96)}), Malformed, "a point on the curve"),
        (cbor2.dumps({44234: b""}), Malformed, "collection"),
        (b"\xff", Malformed, "CBOR"),
    ],
)
def test_what_is_no_token_is_refused(data, error, said):
    with pytest.raises(error, match=said):
        verify(data)


def test_every_flipped_byte_is_refused():
    data = token()
    for at in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[at] ^= 0x11
        with pytest.raises((NotGenuine, Malformed, Unsupported)):
            verify(bytes(damaged))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=150))
def test_no_bytes_crash_the_verifier(data):
    with suppress(Malformed, Unsupported, NotGenuine):
        verify(data, [data, PEM])


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("tf-rmm_cca_token.cbor", "tf-rmm_cca_platform.pub"),
        ("trustee_cca-example-token.cbor", "trustee_cpak-pub.json"),
    ],
)
def test_real_tokens(name, key):
    data = corpus(f"evidence/cca/{name}").read_bytes()
    endorsement = corpus(f"evidence/cca/{key}").read_bytes()
    assert len(verify(data, [endorsement]).values["realm"]["cca_realm_initial_measurement"]) in (64, 128)
    with pytest.raises(NotGenuine, match="not genuine"):
        verify(data, [PEM])
