"""TPM structures as bytes: checked against the reader that the verifier uses, which is other code."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import tpm as verifier
from tallystick.handshake import tpmwire

MODULUS = (1 << 2047 | 12345).to_bytes(256, "big")
AREA = tpmwire.ak_template()[:-2] + tpmwire.sized(MODULUS)


def test_the_attestation_key_asks_for_what_the_broker_demands():
    public = verifier.parse_public(AREA)
    flags = verifier.ObjectAttributes
    assert public.attributes & flags.RESTRICTED
    assert public.attributes & flags.SIGN_ENCRYPT
    assert public.attributes & flags.FIXED_TPM
    assert not public.attributes & (flags.DECRYPT | flags.X509_SIGN)
    assert (public.scheme.algorithm, public.scheme.hash_algorithm) == (
        verifier.ALG_RSASSA,
        verifier.ALG_SHA256,
    )


def test_the_endorsement_key_template_is_l_1():
    area = tpmwire.ek_template()[:-258] + tpmwire.sized(MODULUS)
    public = verifier.parse_public(area)
    assert int(public.attributes) == 0x000300B2
    assert public.symmetric.hex() == "000600800043"
    assert public.auth_policy == tpmwire.EK_POLICY


def test_both_readers_find_the_same_key():
    public = verifier.parse_public(AREA)
    assert tpmwire.rsa_key(AREA) == (public.key.modulus, public.key.exponent)


def test_an_elliptic_key_is_unsupported():
    with pytest.raises(Unsupported, match=r"type: want 0x1 \(RSA\), got 0x23"):
        tpmwire.rsa_key(b"\0\x23" + AREA[2:])


def test_bytes_left_over_are_named():
    with pytest.raises(Malformed, match="end: want no more bytes, got 1"):
        tpmwire.rsa_key(AREA + b"\0")


def test_a_selection_names_its_registers():
    assert tpmwire.pcr_selection(frozenset((0, 8, 23))).hex() == "00000001000b03010180"


def test_an_authorized_command_says_how_long_its_authorizations_are():
    made = tpmwire.authorized(0x182, tpmwire.handle(8), (tpmwire.password(),), b"xy")
    assert made.hex() == "80020000001d00000182" + "00000008" + "00000009" + "400000090000000000" + "7879"


@given(st.binary(max_size=80) | st.integers(0, len(AREA)).map(lambda end: AREA[:end]))
def test_any_bytes_are_a_key_or_refused_by_name(data):
    with suppress(Malformed, Unsupported):
        modulus, exponent = tpmwire.rsa_key(data)
        assert modulus >= 0
        assert exponent > 0
