"""The messages of the handshake: what is sent, what is taken, and what is refused by name."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.handshake import kbs
from tallystick.handshake.jwe import TeeKeyPair
from tallystick.handshake.teekey import RSA_OAEP_256, TeePublicKey

PAIR = TeeKeyPair.make()
# kbs_attestation_protocol.md, "Attestation", with a real key
ATTESTATION = {
    "init-data": {"format": "toml", "body": 'version = "0.1.0"\n'},
    "runtime-data": {"nonce": "bm9uY2U=", "tee-pubkey": PAIR.public.document()},
    "tee-evidence": {"primary_evidence": {"quote": 1}, "additional_evidence": ""},
}
MESSAGES = (
    kbs.Request(tee="tpm"),
    kbs.Request(tee="snp", hash_algorithms=("sha384",)),
    kbs.Challenge(nonce="bm9uY2U=", hash_algorithm="sha256"),
    kbs.Challenge(nonce="bm9uY2U="),
    kbs.Attestation(nonce="n", tee_pubkey=PAIR.public, primary_evidence={"a": [1]}, init_data="x = 1"),
    kbs.Attestation(nonce="n", tee_pubkey=PAIR.public, primary_evidence="s", additional_evidence="{}"),
    kbs.Token(token="a.b.c"),
    kbs.ErrorDocument(kind="PolicyDeny", detail="no"),
    kbs.ErrorDocument(
        kind="PolicyDeny", detail="no", code="c", decision="d", findings=(Finding("c", "PCR 4", "aa", "bb"),)
    ),
    kbs.Enrolment(ek_certificate=b"ek", ak_public_area=b"ak"),
    kbs.EnrolmentChallenge(credential_blob=b"b", encrypted_secret=b"s", session="1"),
    kbs.Activation(session="1", secret=b"s"),
    kbs.AkCertificate(ak_certificate=b"der"),
)
PARSERS = sorted({type(message) for message in MESSAGES}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_sent_is_read_back(message):
    assert type(message).parse(kbs.encode(message.document())) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_fields_of_other_implementations_are_left_alone(message):
    document = {**message.document(), "something-of-theirs": {"deep": [1, None]}}
    assert type(message).parse(kbs.encode(document)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_no_field_of_ours_may_be_missing_or_of_another_type(message):
    optional = {"extra-params", "init-data", "code", "decision", "findings"}
    for name in message.document().keys() - optional:
        for damaged in ({**message.document(), name: 7}, {**message.document(), name: None}):
            with pytest.raises(Malformed, match=r"want (a string|an object)"):
                type(message).parse(kbs.encode(damaged))


def test_a_request_is_the_documented_json():
    assert kbs.Request(tee="tpm").document() == {
        "version": "0.4.0",
        "tee": "tpm",
        "extra-params": {"supported-hash-algorithms": ["sha256", "sha384", "sha512"]},
    }


@pytest.mark.parametrize("version", ["0.1.1", "0.4.1", "0.4", "1.0.0", ""])
def test_only_the_one_protocol_version_is_taken(version):
    with pytest.raises(Unsupported, match=r"KBS request: version: want 0\.4\.0"):
        kbs.Request.parse(kbs.encode({"version": version, "tee": "tpm", "extra-params": ""}))


@pytest.mark.parametrize("extra", ["", {}, None])
def test_a_request_without_hashes_offers_none(extra):
    body = kbs.encode({"version": "0.4.0", "tee": "tpm", "extra-params": extra})
    assert kbs.Request.parse(body).hash_algorithms == ()


@pytest.mark.parametrize("names", ["sha256", [1], {"sha256": 1}])
def test_hashes_must_be_names(names):
    extra = {"supported-hash-algorithms": names}
    with pytest.raises(Malformed, match="supported-hash-algorithms: want an array of strings"):
        kbs.Request.parse(kbs.encode({"version": "0.4.0", "tee": "tpm", "extra-params": extra}))


@pytest.mark.parametrize("chosen", ["md5", 7, ["sha256"]])
def test_a_hash_we_lack_is_unsupported_and_never_replaced(chosen):
    body = kbs.encode({"nonce": "n", "extra-params": {"selected-hash-algorithm": chosen}})
    with pytest.raises(Unsupported, match="selected-hash-algorithm: want one of sha256, sha384, sha512"):
        kbs.Challenge.parse(body)


def test_the_chosen_hash_is_read_in_any_case():
    body = kbs.encode({"nonce": "n", "extra-params": {"selected-hash-algorithm": "SHA384"}})
    assert kbs.Challenge.parse(body).hash_algorithm == "sha384"


def test_the_documented_attestation_is_read():
    found = kbs.Attestation.parse(kbs.encode(ATTESTATION))
    assert found.init_data == 'version = "0.1.0"\n'
    assert found.document() == ATTESTATION


def test_init_data_in_another_format_is_unsupported():
    message = {**ATTESTATION, "init-data": {"format": "json", "body": "{}"}}
    with pytest.raises(Unsupported, match="init-data: want toml, got json"):
        kbs.Attestation.parse(kbs.encode(message))


def test_an_attestation_needs_evidence():
    message = {**ATTESTATION, "tee-evidence": {"primary_evidence": None, "additional_evidence": ""}}
    with pytest.raises(Malformed, match="primary_evidence: want evidence, got nothing"):
        kbs.Attestation.parse(kbs.encode(message))


def test_members_added_to_the_public_key_are_dropped_as_trustee_drops_them():
    with_kid = {**PAIR.public.document(), "kid": "theirs"}
    assert TeePublicKey.parse(with_kid) == PAIR.public


RSA = TeeKeyPair.make(RSA_OAEP_256).public.document()
EC = PAIR.public.document()


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        ({**EC, "crv": "P-384"}, Unsupported, "crv: want P-256 or P-521, got P-384"),
        ({**EC, "crv": "P-521"}, Malformed, "x: want 66 bytes"),
        ({**EC, "alg": "ECDH-ES"}, Unsupported, "EC with ECDH-ES"),
        ({**RSA, "alg": "RSA1_5"}, Unsupported, "RSA with RSA1_5"),
        ({**EC, "kty": "OKP"}, Unsupported, "OKP"),
        ({**EC, "x": EC["y"]}, Malformed, "a point on P-256"),
        ({**EC, "x": EC["x"] + "=="}, Malformed, "base64url without padding"),
        ({**EC, "x": "AAAA"}, Malformed, "want 32 bytes, got 3"),
        ({**EC, "y": 4}, Malformed, "y: want a string, got a number"),
        ({**RSA, "n": RSA["n"][:100]}, Malformed, "2048 to 4096 bits"),
        ({**RSA, "e": "AQ"}, Malformed, "an RSA public key"),
        ([], Malformed, "want a JSON object, got an array"),
    ],
)
def test_a_public_key_that_can_not_be_used_is_refused_when_it_arrives(key, error, words):
    with pytest.raises(error, match=words):
        TeePublicKey.parse(key)


@pytest.mark.parametrize("key", ["a/b/c", "confidential-inference/weights/v1", "_x/y.z/0-1"])
def test_a_resource_path_has_three_parts(key):
    assert kbs.check_key(key) == key


@pytest.mark.parametrize(
    "key", ["", "a/b", "a/b/c/d", "../b/c", "a//c", "a/b/c?x=1", "a/b/ c", "a/b/" + "c" * 300]
)
def test_another_path_is_no_key(key):
    with pytest.raises(Malformed, match="key: path: want repository/type/tag"):
        kbs.check_key(key)


def test_an_error_document_of_trustee_is_read():
    body = b'{"type":"https://github.com/confidential-containers/kbs/errors/PolicyDeny","detail":"Access denied"}'
    assert kbs.ErrorDocument.parse(body) == kbs.ErrorDocument(kind="PolicyDeny", detail="Access denied")


def test_findings_that_miss_a_field_are_still_shown():
    body = {"type": "x", "detail": "d", "findings": [{"code": "c", "message": "m"}]}
    assert kbs.ErrorDocument.parse(kbs.encode(body)).findings == (Finding("c", "", "", ""),)


def test_base64_has_one_spelling():
    """'AB==' has stray bits: it reads as the byte of 'AA=='."""
    for text in ("AB==", "AA", "AA==\n", "AA= =", "A-==", "ÄA=="):
        with pytest.raises(Malformed, match="secret: want base64"):
            kbs.Activation.parse(kbs.encode({"session": "1", "secret": text}))
    assert kbs.Activation.parse(kbs.encode({"session": "1", "secret": "AA=="})).secret == b"\0"


def test_fields_have_a_largest_size():
    with pytest.raises(Malformed, match="secret: want at most 256 bytes, got 257"):
        kbs.Activation.parse(kbs.encode({"session": "1", "secret": kbs.b64(bytes(257))}))
    with pytest.raises(Malformed, match="session: want at most 512 characters, got 513"):
        kbs.Activation.parse(kbs.encode({"session": "s" * 513, "secret": ""}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@st.composite
def nearly(draw):
    """A good message with one field replaced, as bytes that are perhaps cut or flipped."""
    message = draw(st.sampled_from(MESSAGES))
    document = json.loads(kbs.encode(message.document()))
    place = document
    while isinstance(place, dict) and place:
        name = draw(st.sampled_from(sorted(place)))
        if draw(st.booleans()) or not isinstance(place[name], dict):
            place[name] = draw(JSON)
            break
        place = place[name]
    data = bytearray(kbs.encode(document))
    if draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return type(message), bytes(data[: draw(st.integers(len(data) - 3, len(data)))])


@given(nearly() | st.tuples(st.sampled_from(PARSERS), st.binary(max_size=200)))
def test_any_bytes_are_read_or_refused_by_name(given_message):
    kind, data = given_message
    with suppress(Malformed, Unsupported, NotGenuine):
        parsed = kind.parse(data)
        assert kind.parse(kbs.encode(parsed.document())) == parsed
