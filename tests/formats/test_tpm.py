"""TPM structures: public areas, quotes, signatures, names; made here, by swtpm, and by other people."""

from __future__ import annotations

import hashlib
import struct
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from support_corpus import corpus
from support_tpm import (
    ECDSA,
    NULL,
    RSAPSS,
    RSASSA,
    SHA1,
    SHA256,
    SHA384,
    attest,
    new_rsa,
    public,
    sign,
    sized,
    software_tpm,
)

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import tpm
from tallystick.formats.tpm import ObjectAttributes

RSA_KEY = new_rsa()
P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
PCRS = {register: bytes([register]) * 32 for register in range(24)}
RSA_AREA, QUOTE = public(RSA_KEY, scheme=RSASSA), attest(PCRS, b"n" * 32)
SIGNATURE = sign(RSA_KEY, QUOTE, RSASSA)


def test_an_rsa_public_area_is_read():
    area = tpm.parse_public(RSA_AREA)
    assert area.key == tpm.RsaKey(bits=2048, exponent=65537, modulus=RSA_KEY.public_key().public_numbers().n)
    assert area.scheme == tpm.Scheme(algorithm=RSASSA, hash_algorithm=SHA256)
    assert area.attributes == (
        ObjectAttributes.FIXED_TPM
        | ObjectAttributes.FIXED_PARENT
        | ObjectAttributes.SENSITIVE_DATA_ORIGIN
        | ObjectAttributes.USER_WITH_AUTH
        | ObjectAttributes.RESTRICTED
        | ObjectAttributes.SIGN_ENCRYPT
    )
    assert area.name == b"\0\x0b" + hashlib.sha256(RSA_AREA).digest()
    assert tpm.parse_sized_public(sized(RSA_AREA)) == area


@pytest.mark.parametrize(("key", "curve"), [(P256, "P-256"), (P384, "P-384")])
def test_an_ecc_public_area_is_read(key, curve):
    numbers = key.public_key().public_numbers()
    area = tpm.parse_public(public(key, scheme=ECDSA, hashed=SHA256))
    assert area.key == tpm.EccKey(curve=curve, x=numbers.x, y=numbers.y)


def test_a_storage_key_has_a_symmetric_scheme():
    symmetric = struct.pack(">HHH", 6, 128, 0x43)
    raw = RSA_AREA[:10] + symmetric + struct.pack(">H", NULL) + RSA_AREA[16:]
    assert tpm.parse_public(raw).symmetric == symmetric


def test_a_quote_is_read():
    quote = tpm.parse_quote(QUOTE)
    assert quote.selections == (tpm.PcrSelection(bank="sha256", registers=tuple(range(24))),)
    assert quote.pcr_digest == hashlib.sha256(b"".join(PCRS.values())).digest()
    assert (quote.extra_data, quote.clock, quote.reset_count) == (b"n" * 32, 1234, 5)
    assert (quote.restart_count, quote.safe, quote.firmware_version) == (6, True, 0x2019102300163636)


def test_signatures_are_read():
    assert tpm.parse_signature(SIGNATURE) == tpm.Signature(
        algorithm=RSASSA, hash_algorithm=SHA256, rsa=SIGNATURE[6:]
    )
    assert tpm.parse_signature(sign(RSA_KEY, QUOTE, RSAPSS)).algorithm == RSAPSS
    r, s = tpm.parse_signature(sign(P384, QUOTE, ECDSA, SHA384)).ecdsa or (0, 0)
    assert min(r, s) > 0
    assert max(r, s) < 1 << 384


def changed(raw: bytes, at: int, value: bytes) -> bytes:
    return raw[:at] + value + raw[at + len(value) :]


BROKEN = [
    (tpm.parse_public, RSA_AREA[:-1], Malformed, "unique at offset"),
    (tpm.parse_public, RSA_AREA + b"\0", Malformed, "end at offset"),
    (
        tpm.parse_public,
        changed(RSA_AREA, 4, b"\x80"),
        Malformed,
        "objectAttributes at offset 8: want reserved bits 0",
    ),
    (
        tpm.parse_public,
        changed(RSA_AREA, 8, b"\x01\0"),
        Malformed,
        "authPolicy.size at offset 10: want at most 64",
    ),
    (tpm.parse_public, changed(RSA_AREA, 16, b"\x0c\0"), Malformed, "want a modulus of keyBits (3072) bits"),
    (tpm.parse_public, changed(RSA_AREA, 24, b"\0"), Malformed, "want a modulus of keyBits (2048) bits"),
    (
        tpm.parse_public,
        changed(RSA_AREA, 0, b"\0\x08"),
        Unsupported,
        "type at offset 2: want an algorithm we know, got 0008",
    ),
    (tpm.parse_public, changed(RSA_AREA, 2, b"\0\x12"), Unsupported, "nameAlg"),
    (tpm.parse_public, changed(RSA_AREA, 10, b"\0\x26"), Unsupported, "symmetric.algorithm"),
    (tpm.parse_public, changed(RSA_AREA, 12, b"\0\x1a"), Unsupported, "scheme.scheme"),
    (tpm.parse_public, changed(RSA_AREA, 14, b"\0\x12"), Unsupported, "scheme.hashAlg"),
    (tpm.parse_public, changed(public(P256), 14, b"\0\x10"), Unsupported, "curveID"),
    (tpm.parse_public, changed(public(P256), 16, b"\0\x20"), Unsupported, "kdf.scheme"),
    (tpm.parse_sized_public, RSA_AREA, Malformed, "end at offset"),
    (tpm.parse_sized_public, sized(RSA_AREA)[:-1], Malformed, "publicArea"),
    (
        tpm.parse_quote,
        attest(PCRS, b"", magic=0),
        Malformed,
        "magic at offset 4: want ff544347, got 00000000",
    ),
    (tpm.parse_quote, attest(PCRS, b"", kind=0x8017), Unsupported, "type: want 8018, a quote, got 8017"),
    (
        tpm.parse_quote,
        attest(PCRS, b"", safe=2),
        Malformed,
        "clockInfo.safe at offset 61: want 0 or 1, got 2",
    ),
    (tpm.parse_quote, attest(PCRS, b"x" * 65), Malformed, "extraData.size"),
    (tpm.parse_quote, attest(PCRS, b"", bank=SHA1)[:-1], Malformed, "pcrDigest"),
    (tpm.parse_quote, QUOTE + b"\0", Malformed, "end at offset"),
    (tpm.parse_quote, changed(QUOTE, 101, b"\0\0\0\x09"), Malformed, "pcrSelect.count"),
    (tpm.parse_quote, changed(QUOTE, 105, b"\0\x27"), Unsupported, "pcrSelect.hash"),
    (
        tpm.parse_quote,
        changed(QUOTE, 107, b"\x05"),
        Malformed,
        "pcrSelect.sizeofSelect at offset 108: want at most 4, got 5",
    ),
    (tpm.parse_signature, SIGNATURE + b"\0", Malformed, "end at offset"),
    (tpm.parse_signature, changed(SIGNATURE, 0, b"\0\x05"), Unsupported, "sigAlg"),
    (tpm.parse_signature, changed(SIGNATURE, 2, b"\0\x10"), Unsupported, "hash at offset"),
    (tpm.parse_signature, changed(SIGNATURE, 4, b"\x7f"), Malformed, "sig.size"),
]


@pytest.mark.parametrize(("read", "data", "error", "said"), BROKEN)
def test_what_breaks_the_format_is_named(read, data, error, said):
    with pytest.raises(error) as caught:
        read(data)
    assert said in str(caught.value)


def test_one_bank_twice_is_malformed():
    head = QUOTE[:101] + struct.pack(">I", 2) + QUOTE[105:111] * 2 + QUOTE[111:]
    with pytest.raises(Malformed, match="each bank once, got sha256"):
        tpm.parse_quote(head)


def test_a_name_of_an_unknown_hash_has_no_qualified_name():
    with pytest.raises(Malformed, match="nameAlg"):
        tpm.qualified_name(b"", b"\0\x99")


@pytest.mark.parametrize(
    ("read", "good"),
    [
        (tpm.parse_public, RSA_AREA),
        (tpm.parse_public, public(P384)),
        (tpm.parse_quote, QUOTE),
        (tpm.parse_signature, SIGNATURE),
    ],
)
@given(data=st.data())
def test_nearly_right_bytes_give_a_structure_or_a_refusal(read, good, data):
    raw = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw), 130) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    with suppress(Malformed, Unsupported):
        read(bytes(raw[:cut] if data.draw(st.booleans()) else raw))


@given(st.binary(max_size=120))
def test_any_bytes_give_a_structure_or_a_refusal(raw):
    for read in (tpm.parse_public, tpm.parse_sized_public, tpm.parse_quote, tpm.parse_signature):
        with suppress(Malformed, Unsupported):
            read(raw)
    with suppress(Malformed, Unsupported):
        tpm.parse_quote(struct.pack(">IH", 0xFF544347, 0x8018) + raw)


def test_what_a_software_tpm_makes_is_read(tmp_path):
    """The qualified name ties the key to its place: child of the endorsement key, in the endorsement hierarchy."""
    with software_tpm(tmp_path / "tpm") as machine:
        parent, _ = machine.endorsement_key()
        with machine.attestation_key(parent) as key:
            made = machine.quote(key, b"n" * 32)
    quote = tpm.parse_quote(made.message)
    assert quote.extra_data == b"n" * 32
    assert quote.pcr_digest == hashlib.sha256(b"".join(made.pcrs)).digest()
    assert tpm.parse_signature(made.signature).algorithm == RSASSA
    above = tpm.qualified_name(tpm.RH_ENDORSEMENT.to_bytes(4, "big"), tpm.parse_public(parent.area).name)
    assert quote.qualified_signer == tpm.qualified_name(above, tpm.parse_public(key.area).name)


@pytest.mark.corpus
def test_other_peoples_structures_are_read():
    folder = corpus("evidence/tpm/keylime")
    key = tpm.parse_sized_public((folder / "ak.pub").read_bytes())
    assert key.attributes & ObjectAttributes.RESTRICTED
    assert tpm.parse_sized_public((folder / "ek.pub").read_bytes()).attributes & ObjectAttributes.DECRYPT
    quote = tpm.parse_quote((folder / "quote.out").read_bytes())
    assert quote.selections[0].bank == "sha256"
    assert tpm.parse_signature((folder / "quotesig.out").read_bytes()).hash_algorithm == SHA256
