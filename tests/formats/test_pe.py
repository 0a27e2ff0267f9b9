"""PE images: what firmware hashes of them, and what is refused by field and offset."""

from __future__ import annotations

import hashlib
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_pe import pe

from tallystick.core.digests import Algorithm
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import pe as format_pe

SECTIONS = [(".text", b"code" * 200), (".data", b"data")]
OPTIONAL = 64 + 24  # file offset of the optional header
CHECKSUM, SECURITY = OPTIONAL + 64, OPTIONAL + 112 + 8 * 4


def digest(data: bytes) -> str:
    return format_pe.authenticode(format_pe.parse(data)).hex


def test_the_digest_covers_all_but_checksum_certificate_entry_and_certificates():
    data = pe(SECTIONS)
    want = hashlib.sha256(data[:CHECKSUM] + data[CHECKSUM + 4 : SECURITY] + data[SECURITY + 8 :]).hexdigest()
    assert digest(data) == want
    assert digest(pe(SECTIONS, checksum=7)) == want
    assert digest(pe(SECTIONS, certificate=b"signature" * 8)) == want


def test_other_hashes_take_the_same_walk():
    data = pe(SECTIONS)
    want = hashlib.sha384(data[:CHECKSUM] + data[CHECKSUM + 4 : SECURITY] + data[SECURITY + 8 :]).hexdigest()
    assert format_pe.authenticode(format_pe.parse(data), Algorithm.SHA384).hex == want


@pytest.mark.parametrize("size", [1, 7, 8, 513])
def test_data_after_the_sections_is_hashed_and_never_padded(size):
    """Signing tools pad to 8 bytes, edk2 does not."""
    data = pe(SECTIONS, trailer=b"t" * size)
    assert (
        digest(data)
        == hashlib.sha256(data[:CHECKSUM] + data[CHECKSUM + 4 : SECURITY] + data[SECURITY + 8 :]).hexdigest()
    )
    assert digest(data) == digest(pe(SECTIONS, trailer=b"t" * size, certificate=b"c" * 16))


def test_an_image_without_a_certificate_entry_is_hashed_whole():
    data = pe(SECTIONS, directories=4)
    assert digest(data) == hashlib.sha256(data[:CHECKSUM] + data[CHECKSUM + 4 :]).hexdigest()


def test_pe32_has_its_entry_elsewhere():
    data, entry = pe(SECTIONS, plus=False), OPTIONAL + 96 + 8 * 4
    assert (
        digest(data)
        == hashlib.sha256(data[:CHECKSUM] + data[CHECKSUM + 4 : entry] + data[entry + 8 :]).hexdigest()
    )


def test_sections_are_hashed_in_the_order_of_the_file():
    data = bytearray(pe([(".a", b"a" * 512), (".b", b"b" * 512)]))
    table = OPTIONAL + 112 + 8 * 16
    first, second = bytes(data[table : table + 40]), bytes(data[table + 40 : table + 80])
    data[table : table + 80] = second + first
    assert (
        digest(bytes(data))
        == hashlib.sha256(data[:CHECKSUM] + data[CHECKSUM + 4 : SECURITY] + data[SECURITY + 8 :]).hexdigest()
    )
    assert [section.name for section in format_pe.parse(bytes(data)).sections] == [".b", ".a"]


def test_a_gap_shifts_what_counts_as_trailing_data():
    """edk2 takes the trailing data from the sum of what it hashed, not from where the last section ends."""
    data = bytearray(pe([(".a", b"a" * 512)], trailer=b"gap" * 100))
    headers, table = 0x200, OPTIONAL + 112 + 8 * 16
    struct.pack_into("<I", data, table + 20, headers + 300)  # PointerToRawData: 300 bytes later
    start = bytes(data[:CHECKSUM] + data[CHECKSUM + 4 : SECURITY] + data[SECURITY + 8 : headers])
    want = hashlib.sha256(start + data[headers + 300 : headers + 812] + data[headers + 512 :]).hexdigest()
    assert digest(bytes(data)) == want


def test_content_is_what_memory_holds():
    image = format_pe.parse(pe([(".short", b"x" * 100), (".long", b"y")], virtual_sizes={".long": 4096}))
    assert [bytes(image.content(section)) for section in image.sections] == [
        b"x" * 100,
        b"y".ljust(512, b"\0"),
    ]


BREAKS = [
    (0, b"ZM", "e_magic at offset 0: want MZ"),
    (60, b"\xff\xff\xff\x7f", "e_lfanew at offset 60"),
    (64, b"NE\0\0", "Signature at offset 64: want 50450000"),
    (70, b"\0\0", "NumberOfSections at offset 70: want 1 to 96, got 0"),
    (70, b"\xff\0", "NumberOfSections at offset 70: want 1 to 96, got 255"),
    (84, b"\xff\xff", "SizeOfHeaders"),
    (84, b"\x20\0", "want 58 bytes, got 30 left"),
    (OPTIONAL + 60, b"\0\0\0\0", f"SizeOfHeaders at offset {OPTIONAL + 60}"),
    (OPTIONAL + 60, b"\xff\xff\xff\xff", f"SizeOfHeaders at offset {OPTIONAL + 60}"),
    (OPTIONAL + 108, b"\x11\0\0\0", "NumberOfRvaAndSizes at offset 196: want at most 16, got 17"),
    (SECURITY, struct.pack("<II", 0x400, 8), f"Certificate Table at offset {SECURITY}"),
    (SECURITY, struct.pack("<II", 8, 0x800 - 8), "Certificate Table"),
    (OPTIONAL + 240, b"\x80abc", "section 0 Name"),
    (OPTIONAL + 240 + 16, b"\xff\xff\xff\x0f", "section .text SizeOfRawData"),
    (OPTIONAL + 240 + 20, b"\0\0\0\0", "section .text PointerToRawData: want at least"),
    (OPTIONAL + 280 + 20, struct.pack("<I", 0x400), "where the bytes of .text end"),
]


@pytest.mark.parametrize(("at", "value", "said"), BREAKS)
def test_a_broken_field_is_named(at, value, said):
    data = bytearray(pe(SECTIONS))
    data[at : at + len(value)] = value
    with pytest.raises(Malformed) as caught:
        format_pe.parse(bytes(data))
    assert said in str(caught.value)


def test_an_unknown_optional_header_is_unsupported():
    data = bytearray(pe(SECTIONS))
    data[OPTIONAL : OPTIONAL + 2] = b"\x07\x01"
    with pytest.raises(Unsupported, match="Magic at offset 88: want 10b or 20b, got 107"):
        format_pe.parse(bytes(data))


def test_a_view_is_parsed_like_bytes_and_nothing_is_copied():
    data = pe(SECTIONS)
    image = format_pe.parse(memoryview(b"before" + data)[6:])
    assert format_pe.authenticode(image).hex == digest(data)
    assert image.data.readonly


@given(st.data())
def test_nearly_right_bytes_give_an_image_or_a_refusal(data):
    raw = bytearray(pe(SECTIONS, certificate=b"c" * 8))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    with suppress(Malformed, Unsupported):
        image = format_pe.parse(bytes(raw[:cut] if data.draw(st.booleans()) else raw))
        format_pe.authenticode(image)
        assert all(len(image.content(section)) <= section.raw_size for section in image.sections)


@given(st.binary(max_size=300))
def test_any_bytes_give_an_image_or_a_refusal(raw):
    with suppress(Malformed, Unsupported):
        format_pe.parse(raw)
