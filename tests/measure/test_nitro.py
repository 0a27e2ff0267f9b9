"""Nitro PCRs: the format's own rules, recomputed by hand; parsing of nearly right files."""

from __future__ import annotations

import datetime
import hashlib
import struct
import zlib
from contextlib import suppress

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import eif
from tallystick.measure import nitro

PARTS = [(1, b"kernel"), (2, b"cmdline"), (5, b"{}"), (3, b"bootstrap"), (3, b"app one"), (3, b"app two")]


def image(parts=PARTS, *, version=4, flags=0, crc=None):
    body, offsets, sizes, at = b"", [], [], 548
    for kind, data in parts:
        offsets.append(at)
        sizes.append(len(data))
        body += struct.pack(">HHQ", kind, 0, len(data)) + data
        at += 12 + len(data)
    table = [*offsets, *[0] * (32 - len(parts)), *sizes, *[0] * (32 - len(parts))]
    header = struct.pack(">4sHHQQHH64QI", b".eif", version, flags, 0, 0, 0, len(parts), *table, 0)
    checksum = zlib.crc32(body, zlib.crc32(header)) if crc is None else crc
    return header + struct.pack(">I", checksum) + body


def extended(*parts):
    return hashlib.sha384(bytes(48) + hashlib.sha384(b"".join(parts)).digest()).hexdigest()


def test_pcrs_are_what_the_format_says():
    found = nitro.pcrs(eif.parse(image()))
    assert found.pcr0.hex == extended(b"kernel", b"cmdline", b"bootstrap", b"app one", b"app two")
    assert found.pcr1.hex == extended(b"kernel", b"cmdline", b"bootstrap")
    assert found.pcr2.hex == extended(b"app one", b"app two")
    assert found.pcr8.hex == "00" * 48


def test_metadata_is_not_measured():
    other = [(k, b'{"BuildTime":"now"}' if k == 5 else d) for k, d in PARTS]
    assert nitro.pcrs(eif.parse(image(other))) == nitro.pcrs(eif.parse(image()))


def certificate():
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return x509.CertificateBuilder(
        name, name, key.public_key(), 1, start, start + datetime.timedelta(days=1)
    ).sign(key, hashes.SHA384())


@pytest.mark.parametrize("as_list", [True, False])
def test_pcr8_is_the_signing_certificate(as_list):
    """Serde writes a byte vector as a list of numbers; newer writers use a byte string."""
    signer = certificate()
    pem = signer.public_bytes(serialization.Encoding.PEM)
    section = cbor2.dumps([{"signing_certificate": list(pem) if as_list else pem, "signature": b""}])
    found = nitro.pcrs(eif.parse(image([*PARTS, (4, section)])))
    assert found.pcr8.hex == extended(signer.public_bytes(serialization.Encoding.DER))


def test_a_signature_without_a_certificate_is_refused():
    with pytest.raises(Malformed, match="signature section: want a list with a PEM certificate"):
        nitro.pcrs(eif.parse(image([*PARTS, (4, b"\x80")])))


def test_an_image_with_one_ramdisk_has_nothing_in_pcr2():
    """The value is what aws-nitro-enclaves-image-format 0.8.1 says of such an image (docs/decisions/0088)."""
    found = nitro.pcrs(eif.parse(image(PARTS[:4])))
    assert found.pcr0 == found.pcr1
    assert found.pcr2.hex == (
        "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
    )


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (image()[:500], Malformed, "header at offset 0: want 548 bytes"),
        (b"elf." + image()[4:], Malformed, "magic at offset 0"),
        (image(version=9), Unsupported, "version at offset 4: want 3 or 4, got 9"),
        (image(flags=2), Unsupported, "flags at offset 6"),
        (image(crc=1), Malformed, "CRC at offset 544"),
        (image()[:-1], Malformed, "CRC at offset 544"),
        (image(PARTS[1:]), Malformed, "kernel sections: want 1 to 1, got 0"),
        (image([*PARTS, (7, b"")]), Unsupported, "type of section 6 at offset"),
    ],
)
def test_a_damaged_image_is_refused_with_field_and_offset(data, error, said):
    with pytest.raises(error, match=said):
        eif.parse(data)


@pytest.mark.parametrize("field", ["offset", "size", "header size"])
def test_a_lying_section_table_is_refused(field):
    data = bytearray(image())
    at = {"offset": 28 + 8, "size": 28 + 256 + 8, "header size": 548 + 4}[field]
    value = int.from_bytes(data[at : at + 8], "big")
    data[at : at + 8] = (value + 1).to_bytes(8, "big")
    struct.pack_into(">I", data, 544, zlib.crc32(data[548:], zlib.crc32(data[:544])))
    with pytest.raises(Malformed, match="section"):
        eif.parse(bytes(data))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_image_crashes_the_parser(data):
    raw = bytearray(image())
    for _ in range(data.draw(st.integers(1, 5))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        struct.pack_into(">I", raw, 544, zlib.crc32(raw[548:], zlib.crc32(raw[:544])))
    with suppress(Malformed, Unsupported):
        nitro.pcrs(eif.parse(bytes(raw)))
