"""Wrapped keys: known answers of the RFCs, an independent implementation, and every kind of damage."""

from __future__ import annotations

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.handshake import jwe
from tallystick.handshake.fields import b64url, unb64url
from tallystick.handshake.teekey import ECDH_ES_A256KW, RSA_OAEP_256, TeePublicKey

SECRET = bytes(range(32))
PAIRS = {alg: jwe.TeeKeyPair.make(alg) for alg in (ECDH_ES_A256KW, RSA_OAEP_256)}


@pytest.mark.parametrize("alg", PAIRS)
@pytest.mark.parametrize("plaintext", [b"", SECRET, bytes(100_000)], ids=len)
def test_a_key_is_opened_by_whom_it_was_wrapped_to(alg, plaintext):
    assert PAIRS[alg].decrypt(jwe.encrypt(plaintext, PAIRS[alg].public)) == plaintext


def test_concat_kdf_known_answer():
    """RFC 7518, appendix C: Z, and the key derived for A128GCM between Alice and Bob."""
    z = bytes.fromhex("9e56d91d817135d372834283bf84269cfb316ea3da806a48f6daa7798cfe90c4")
    assert b64url(jwe.concat_kdf(z, "A128GCM", 128, b"Alice", b"Bob")) == "VqqN6vgjbSBcIijNcacQGg"


def test_concat_kdf_makes_more_than_one_block():
    long = jwe.concat_kdf(SECRET, "x", 512)
    assert len(long) == 64
    assert long[:32] != long[32:]


def test_the_message_is_what_trustee_sends():
    """kbs/src/jwe/mod.rs: these members, and epk with crv, kty, x and y in the protected header."""
    message = json.loads(jwe.encrypt(SECRET, PAIRS[ECDH_ES_A256KW].public))
    assert sorted(message) == ["ciphertext", "encrypted_key", "iv", "protected", "tag"]
    header = json.loads(unb64url(message["protected"]))
    assert (header["alg"], header["enc"]) == ("ECDH-ES+A256KW", "A256GCM")
    assert sorted(header["epk"]) == ["crv", "kty", "x", "y"]


@pytest.mark.parametrize("alg", PAIRS)
def test_another_implementation_opens_ours_and_we_open_its(alg):
    """jwcrypto is code that we did not write."""
    jwk, other = pytest.importorskip("jwcrypto.jwk"), pytest.importorskip("jwcrypto.jwe")
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pair = PAIRS[alg]
    pem = pair._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    theirs = other.JWE()
    theirs.deserialize(jwe.encrypt(SECRET, pair.public).decode(), jwk.JWK.from_pem(pem))
    assert theirs.payload == SECRET
    public = jwk.JWK(**pair.public.document())
    for more in ({}, {"apu": "QWxpY2U", "apv": "Qm9i"}):
        header = json.dumps({"alg": alg, "enc": "A256GCM", **more})
        assert pair.decrypt(_flattened(other.JWE(SECRET, header, recipient=public))) == SECRET


def _flattened(message) -> bytes:
    """Every header protected, as in the compact form; KBS sends the same parts as JSON."""
    names = ("protected", "encrypted_key", "iv", "ciphertext", "tag")
    return json.dumps(dict(zip(names, message.serialize(compact=True).split("."), strict=True))).encode()


def test_additional_data_is_authenticated():
    """RFC 7516, section 5.2, step 15."""
    jwk, other = pytest.importorskip("jwcrypto.jwk"), pytest.importorskip("jwcrypto.jwe")
    pair = PAIRS[RSA_OAEP_256]
    header = json.dumps({"alg": RSA_OAEP_256, "enc": "A256GCM"})
    public = jwk.JWK(**pair.public.document())
    message = json.loads(other.JWE(SECRET, header, recipient=public, aad=b"more").serialize())
    assert pair.decrypt(json.dumps(message).encode()) == SECRET
    with pytest.raises(NotGenuine, match="does not authenticate"):
        pair.decrypt(json.dumps({**message, "aad": "bGVzcw"}).encode())


@pytest.mark.parametrize("alg", PAIRS)
def test_it_opens_for_nobody_else(alg):
    with pytest.raises(NotGenuine, match="wrapped to another key") as caught:
        jwe.TeeKeyPair.make(alg).decrypt(jwe.encrypt(SECRET, PAIRS[alg].public))
    assert caught.value.code == "jwe.not-ours"


@pytest.mark.parametrize("member", ["protected", "encrypted_key", "iv", "ciphertext", "tag"])
@pytest.mark.parametrize("alg", PAIRS)
def test_one_flipped_bit_anywhere_is_refused(alg, member):
    message = json.loads(jwe.encrypt(SECRET, PAIRS[alg].public))
    value = bytearray(unb64url(message[member]))
    value[-1] ^= 1
    message[member] = b64url(bytes(value))
    with pytest.raises((NotGenuine, Malformed, Unsupported)):
        PAIRS[alg].decrypt(json.dumps(message).encode())


def _with_header(**changes: object) -> bytes:
    message = json.loads(jwe.encrypt(SECRET, PAIRS[ECDH_ES_A256KW].public))
    header = {**json.loads(unb64url(message["protected"])), **changes}
    message["protected"] = b64url(json.dumps(header).encode())
    return json.dumps(message).encode()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"alg": "RSA1_5"}, Unsupported, r"alg: want ECDH-ES\+A256KW, got RSA1_5"),
        ({"alg": "dir"}, Unsupported, r"alg: want ECDH-ES\+A256KW, got dir"),
        ({"enc": "A128GCM"}, Unsupported, "enc: want A256GCM, got A128GCM"),
        ({"crit": ["exp"]}, Unsupported, "crit: want no such header"),
        ({"zip": "DEF"}, Unsupported, "zip: want no such header"),
        ({"epk": None}, Malformed, "epk: want an ephemeral public key, got none"),
        (
            {"epk": {"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}},
            Unsupported,
            "crv: want P-256 or P-521",
        ),
        ({"apu": "A"}, Malformed, "apu: want base64url"),
    ],
)
def test_a_header_we_do_not_do_is_named(changes, error, words):
    with pytest.raises(error, match=words):
        PAIRS[ECDH_ES_A256KW].decrypt(_with_header(**changes))


def test_iv_and_tag_have_one_size():
    message = json.loads(jwe.encrypt(SECRET, PAIRS[ECDH_ES_A256KW].public))
    message["tag"] = message["tag"][:16]
    with pytest.raises(Malformed, match="want iv of 12 bytes, tag of 16, got 12 and 12"):
        PAIRS[ECDH_ES_A256KW].decrypt(json.dumps(message).encode())


def test_a_content_key_of_another_size_is_refused():
    """A wrapped key that unwraps, and is no AES-256 key."""
    from cryptography.hazmat.primitives.asymmetric import padding

    public = PAIRS[RSA_OAEP_256].public.public_key()
    assert isinstance(jwe._oaep(), padding.OAEP)
    message = json.loads(jwe.encrypt(SECRET, PAIRS[RSA_OAEP_256].public))
    message["encrypted_key"] = b64url(public.encrypt(bytes(16), jwe._oaep()))
    with pytest.raises(NotGenuine, match="content key has the wrong size"):
        PAIRS[RSA_OAEP_256].decrypt(json.dumps(message).encode())


def test_no_key_pair_of_another_algorithm():
    with pytest.raises(Unsupported, match="ephemeral key: alg"):
        jwe.TeeKeyPair.make("RSA1_5")


@given(st.binary(max_size=300))
def test_base64url_reads_back_what_it_wrote_and_nothing_else(data):
    assert unb64url(b64url(data)) == data
    padded = base64.urlsafe_b64encode(data).decode()
    if "=" in padded:
        with pytest.raises(ValueError, match="padding"):
            unb64url(padded)


GOOD = json.loads(jwe.encrypt(SECRET, PAIRS[ECDH_ES_A256KW].public))


@given(
    st.sampled_from(sorted(GOOD)),
    st.none() | st.text(max_size=40) | st.integers() | st.binary(max_size=60).map(b64url),
)
def test_damaged_messages_are_refused_by_name(member, value):
    if value == GOOD[member]:
        return
    with pytest.raises((Malformed, Unsupported, NotGenuine)):
        PAIRS[ECDH_ES_A256KW].decrypt(json.dumps({**GOOD, member: value}).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_name(data):
    with suppress(Malformed, Unsupported, NotGenuine):
        PAIRS[RSA_OAEP_256].decrypt(data)
        raise AssertionError("random bytes opened")


def test_a_p_521_key_of_another_client_is_wrapped_to():
    """Trustee, kbs/src/jwe/mod.rs: the ephemeral key is on the client's own curve, coordinates at full length."""
    from cryptography.hazmat.primitives.asymmetric import ec

    for _ in range(8):  # a coordinate with leading zeros comes now and then
        pair = jwe.TeeKeyPair(ec.generate_private_key(ec.SECP521R1()))
        assert TeePublicKey.parse(pair.public.document()) == pair.public
        assert pair.decrypt(jwe.encrypt(b"secret", pair.public)) == b"secret"
    with pytest.raises(NotGenuine) as caught:
        pair.decrypt(jwe.encrypt(b"secret", jwe.TeeKeyPair.make().public))
    assert caught.value.code == "jwe.not-ours"
