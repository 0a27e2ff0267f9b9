"""Shares: enough of them open the secret, fewer say nothing, and a wrong one is named."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shamir_mnemonic import shamir

from tallystick.core.errors import Malformed, Misuse, NotGenuine, Unsupported
from tallystick.handshake import shares
from tallystick.handshake.shares import Share, SharedKey

KEY = "acme/shared/v1"
SECRET = b"CANARY-a key of another length than 32 bytes"
SHARED, PARTS = shares.split(KEY, SECRET, threshold=2, count=3)


@given(st.binary(min_size=1, max_size=80), st.integers(2, 6), st.integers(0, 3), st.randoms())
@settings(deadline=None, max_examples=50)
def test_any_enough_shares_open_the_secret(secret, threshold, more, order):
    shared, parts = shares.split(KEY, secret, threshold=threshold, count=threshold + more)
    chosen = order.sample(parts, threshold)
    assert shares.combine(SharedKey.parse(shared.encode()), chosen) == secret
    with pytest.raises(Misuse) as caught:
        shares.combine(shared, chosen[1:])
    assert caught.value.code == "shares.few"


def test_every_pair_opens_it_and_one_share_twice_does_not():
    for pair in itertools.permutations(PARTS, 2):
        assert shares.combine(SHARED, pair) == SECRET
    with pytest.raises(Misuse, match="got 1"):
        shares.combine(SHARED, (PARTS[0], PARTS[0]))
    assert shares.combine(SHARED, PARTS) == SECRET


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=8), st.randoms())
@settings(deadline=None, max_examples=50)
def test_the_field_is_the_one_of_slip_39(values, order):
    """The reference implementation of SLIP-0039 interpolates the same value at 0."""
    numbers = order.sample(range(1, 17), len(values))
    theirs = [shamir.RawShare(x, value) for x, value in zip(numbers, values, strict=True)]
    assert shares.interpolated(dict(zip(numbers, values, strict=True))) == shamir._interpolate(theirs, 0)


def test_fewer_shares_fit_every_secret():
    """Whatever the shared key might be, there is another share that makes it so: one share says nothing."""
    known = PARTS[0]
    for guess in (bytes(32), b"\xff" * 32, bytes(range(32))):
        other = bytes(
            a ^ b ^ g
            for a, b, g in zip(
                shares.interpolated({1: known.value, 2: bytes(32)}), bytes(32), guess, strict=True
            )
        )
        # the share at 2 that would make it so: its weight at 0 is 1 / (1 xor 2) = 1/3
        second = bytes(shares._times(one, shares._inverse(shares._inverse(3))) for one in other)
        assert shares.interpolated({1: known.value, 2: second}) == guess


def test_no_share_and_no_document_holds_the_secret_and_no_repr_a_share():
    for data in (SHARED.encode(), *(part.encode() for part in PARTS)):
        assert SECRET not in data
    assert repr(PARTS[0]) == "Share(1, 2 needed)"
    assert PARTS[0].value.hex() not in repr(PARTS[0])


def test_a_share_of_another_sharing_or_with_another_number_is_named():
    _, others = shares.split(KEY, SECRET, threshold=2, count=4)
    for wrong in (*others, Share(sharing=SHARED.sharing, threshold=2, number=1, value=PARTS[1].value)):
        with pytest.raises(NotGenuine, match=f"share {wrong.number} is not") as caught:
            shares.accepted(SHARED, wrong.encode())
        assert caught.value.code == "share.wrong"
        with pytest.raises(NotGenuine):
            shares.combine(SHARED, (wrong, PARTS[2]))


@given(st.integers(0, len(PARTS[0].encode()) - 1), st.integers(1, 255))
def test_one_changed_byte_of_a_share_is_noticed(at, by):
    data = bytearray(PARTS[0].encode())
    data[at] ^= by
    with pytest.raises((NotGenuine, Malformed, Unsupported)):
        shares.accepted(SHARED, bytes(data))


@given(st.binary(max_size=100) | st.binary(max_size=80).map(lambda data: b"TALLYSHR\x01" + data))
def test_any_bytes_are_refused_by_name(data):
    with pytest.raises((NotGenuine, Malformed, Unsupported)):
        shares.accepted(SHARED, data)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"schema": "tallystick/shared-key/v2"}, Unsupported),
        ({"more": 1}, Malformed),
        ({"key": "a/b"}, Malformed),
        ({"threshold": 1}, Malformed),
        ({"threshold": True}, Malformed),
        ({"threshold": 4}, Malformed),
        ({"shares": []}, Malformed),
        ({"shares": ["00"] * 2}, Malformed),
        ({"shares": [1, 2]}, Malformed),
        ({"sharing": "00"}, Malformed),
        ({"sharing": "AA" * 16}, Malformed),
        ({"nonce": "AAAA"}, Malformed),
        ({"sealed": "*"}, Malformed),
    ],
)
def test_another_document_is_refused_by_name(change, error):
    with pytest.raises(error):
        SharedKey.parse(json.dumps({**json.loads(SHARED.encode()), **change}).encode())


@given(
    st.dictionaries(
        st.sampled_from(["key", "sharing", "threshold", "shares", "nonce", "sealed"]),
        st.none() | st.integers() | st.text(max_size=8) | st.lists(st.text(max_size=4), max_size=4),
        min_size=1,
    )
)
@settings(deadline=None)
def test_any_document_is_read_or_refused_by_name(change):
    with pytest.raises((Malformed, Unsupported)):
        SharedKey.parse(json.dumps({**json.loads(SHARED.encode()), **change}).encode())


@pytest.mark.parametrize("change", [{"key": "acme/other/v1"}, {"sealed": "AAAAAAAAAAAAAAAAAAAAAAAAAAAA"}])
def test_a_document_that_was_changed_opens_nothing(change):
    altered = SharedKey.parse(json.dumps({**json.loads(SHARED.encode()), **change}).encode())
    with pytest.raises(NotGenuine) as caught:
        shares.combine(altered, PARTS)
    assert caught.value.code == "shared.altered"


@pytest.mark.parametrize(("threshold", "count"), [(1, 3), (0, 0), (3, 2), (2, 17)])
def test_numbers_that_make_no_sharing(threshold, count):
    with pytest.raises(Misuse, match="shares: want"):
        shares.split(KEY, SECRET, threshold=threshold, count=count)


@pytest.mark.parametrize("secret", [b"", bytes(shares.MAX_SECRET_BYTES + 1)])
def test_a_secret_has_a_size(secret):
    with pytest.raises(Malformed):
        shares.split(KEY, secret, threshold=2, count=2)
