"""Wrapped data keys: for one artifact, release, policy and key of the broker, and for no other."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields, replace

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.handshake import wrapping
from tallystick.handshake.wrapping import Binding

DATA_KEY, BROKER_KEY, NONCE = bytes(range(32)), bytes(range(50, 82)), bytes(range(12))
BOUND = Binding(
    artifact=Digest.of(b"weights"),
    encryption=Digest.of(b"header"),
    key="training-run-7/checkpoint/epoch-00002",
    policy=Digest.of(b"policy"),
    release=Digest.of(b"release"),
)
WRAPPED = wrapping.wrap(DATA_KEY, BROKER_KEY, BOUND, nonce=NONCE)


def unwrap(data: bytes, wanted: Binding = BOUND, key: bytes = BROKER_KEY) -> bytes:
    return wrapping.unwrap(wrapping.parse(data), key, wanted)


def test_it_opens_for_what_it_was_made():
    assert unwrap(WRAPPED) == DATA_KEY
    assert len(WRAPPED) < 700


@pytest.mark.parametrize("name", [field.name for field in fields(Binding)])
def test_what_it_is_bound_to_is_refused_by_name_and_can_not_be_edited(name):
    other = "training-run-7/checkpoint/epoch-00003" if name == "key" else Digest.of(b"other")
    wanted = replace(BOUND, **{name: other})
    with pytest.raises(NotGenuine, match=f"wrapped key: {name}: want ") as caught:
        unwrap(WRAPPED, wanted)
    assert caught.value.code == f"wrapping.{name}"
    edited = rfc8785.dumps({**json.loads(WRAPPED), name: wanted.document()[name]})
    with pytest.raises(NotGenuine) as caught:
        unwrap(edited, wanted)
    assert caught.value.code == "wrapping.key-bytes"


def test_every_difference_is_a_finding():
    with pytest.raises(NotGenuine) as caught:
        unwrap(WRAPPED, replace(BOUND, policy=Digest.of(b"x"), release=Digest.of(b"y")))
    assert [finding.code for finding in caught.value.findings] == ["wrapping.policy", "wrapping.release"]


def test_another_epochs_key_opens_nothing():
    with pytest.raises(NotGenuine, match="epoch-00002 is not the key that it is wrapped under"):
        unwrap(WRAPPED, key=bytes(32))


def test_what_is_too_short_is_no_key():
    with pytest.raises(NotGenuine, match="want a key of 16 bytes or more, got 15"):
        unwrap(WRAPPED, key=bytes(15))
    with pytest.raises(NotGenuine):
        wrapping.wrap(DATA_KEY, b"", BOUND, nonce=NONCE)


def test_another_policy_wraps_again_and_the_data_key_stays():
    after = replace(BOUND, key="a/b/c", policy=Digest.of(b"new"), release=Digest.of(b"next"))
    again = wrapping.rewrap(
        WRAPPED, BROKER_KEY, bytes(32), key="a/b/c", policy=after.policy, release=after.release, nonce=NONCE
    )
    assert unwrap(again, after, bytes(32)) == DATA_KEY
    with pytest.raises(NotGenuine):
        wrapping.rewrap(again, BROKER_KEY, BROKER_KEY, key="a/b/c", policy=after.policy,
                        release=after.release, nonce=NONCE)  # fmt: skip


def test_sizes_are_the_callers_matter():
    for key, nonce in ((bytes(31), NONCE), (DATA_KEY, bytes(11))):
        with pytest.raises(ValueError, match="a data key has 32 bytes and a nonce 12"):
            wrapping.wrap(key, BROKER_KEY, BOUND, nonce=nonce)


def test_the_format_is_the_one_that_is_written_down():
    """docs/models.md, "Wrapped data keys", computed from its words with other code."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    document = json.loads(WRAPPED)
    nonce, wrapped = (bytes.fromhex(document.pop(name)) for name in ("nonce", "wrapped"))
    key = HKDF(hashes.SHA256(), 32, None, b"tallystick wrapped key v1").derive(BROKER_KEY)
    assert AESGCM(key).decrypt(nonce, wrapped, rfc8785.dumps(document)) == DATA_KEY


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"schema": "x/v9"}, Unsupported, "schema: want tallystick/wrapped-key/v1"),
        ({"more": 1}, Malformed, "more: want one of schema"),
        ({"nonce": "00"}, Malformed, "nonce: want 24 lower-case hex digits"),
        ({"wrapped": "00"}, Malformed, "wrapped: want 96 lower-case hex digits"),
        ({"policy": "md5:00"}, Malformed, "policy: want sha256:"),
        ({"key": "../x"}, Malformed, "key: path: want repository/type/tag"),
        ({"release": None}, Malformed, "release: want a string, got nothing"),
    ],
)
def test_what_is_no_wrapped_key_is_named(change, error, words):
    with pytest.raises(error, match=words):
        wrapping.parse(json.dumps({**json.loads(WRAPPED), **change}).encode())


@given(st.integers(0, len(WRAPPED) - 1), st.integers(0, 255))
def test_any_changed_byte_is_refused(at, byte):
    damaged = bytearray(WRAPPED)
    damaged[at] = byte
    with suppress(NotGenuine, Malformed, Unsupported):
        assert unwrap(bytes(damaged)) == DATA_KEY
        assert bytes(damaged) == WRAPPED


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_any_bytes_are_refused_by_name(data):
    with suppress(Malformed, Unsupported):
        wrapping.parse(data)
