"""OVMF images: the two volumes inside the LZMA section, found by structure and never by luck."""

from __future__ import annotations

import struct
import uuid
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_firmware import (
    DXE_CORE,
    PEI_CORE,
    PEIM,
    VOLUME_FILE,
    file,
    image,
    packed,
    pei_volume,
    section,
    sections,
    volume,
)

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import firmware


def test_the_two_volumes_come_out_as_they_were_packed():
    dxe = volume(file(DXE_CORE, b"core"), file(7, b"driver"), size=4096)
    found = firmware.parse(image(pei_volume(), dxe))
    assert (bytes(found.pei), bytes(found.dxe)) == (pei_volume(), dxe)


def test_their_order_does_not_matter():
    dxe = volume(file(DXE_CORE, b"core"))
    found = firmware.parse(image(dxe, pei_volume()))
    assert (bytes(found.pei), bytes(found.dxe)) == (pei_volume(), dxe)


def test_files_are_listed_without_padding_and_up_to_erased_flash():
    guid = uuid.uuid4()
    content = memoryview(
        volume(
            file(0xF0, b"padding"),
            file(PEIM, b"a" * 9, guid),
            file(PEIM, b"b", large=True),
            size=512,
            extended=True,
        )
    )
    listed = list(firmware.files(content))
    assert [(one.kind, bytes(one.content)) for one in listed] == [(PEIM, b"a" * 9), (PEIM, b"b")]
    assert listed[0].guid == guid
    assert bytes(content[listed[0].offset :][:9]) == b"a" * 9


def test_sections_of_other_kinds_are_passed_over():
    inner = sections(section(0x17, pei_volume()), section(0x17, volume(file(DXE_CORE, b"core"))))
    wrapped = sections(section(0x19, b"raw"), section(0x02, bytes(20)), packed(inner))
    assert bytes(firmware.parse(image(wrap=wrapped)).pei) == pei_volume()


def test_a_large_section_is_read():
    inner = sections(
        section(0x17, pei_volume(), extended=True), section(0x17, volume(file(DXE_CORE, b"core")))
    )
    assert bytes(firmware.parse(image(wrap=packed(inner))).pei) == pei_volume()


REFUSED = [
    (b"", Unsupported, "LZMA sections: want one, got 0"),
    (volume(file(PEIM, b"no volume file"), size=512), Unsupported, "LZMA sections: want one, got 0"),
    (image(wrap=section(0x02, bytes(20))), Unsupported, "LZMA sections: want one, got 0"),
    (image(wrap=sections(packed(b""), packed(b""))), Unsupported, "LZMA sections: want one, got 2"),
    (image(wrap=packed(sections(section(0x17, pei_volume())))), Unsupported, "got 1 and 0"),
    (image(pei_volume(), None, pei_volume()), Unsupported, "got 2 and 1"),
    (b"\xff" * 4096, Malformed, "volume Signature at offset 40: want _FVH"),
    (image(wrap=packed(b"", data_offset=3)), Malformed, "DataOffset: want 20 to"),
    (image(wrap=packed(b"", data_offset=60000)), Malformed, "DataOffset: want 20 to"),
    (image(wrap=packed(b"\0\0\0\x17")), Malformed, "section Size at offset 0: want 4 to 4, got 0"),
    (image(wrap=packed(b"\xff\xff\xff\x17\xff\xff\xff\x7f")), Malformed, "section Size at offset 0"),
]


@pytest.mark.parametrize(("data", "error", "said"), REFUSED)
def test_what_is_no_such_firmware_is_refused(data, error, said):
    with pytest.raises(error) as caught:
        firmware.parse(data)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("claim", "said"),
    [(1 << 40, "LZMA uncompressed size at offset 5: want at most"), (10, "the LZMA section")],
)
def test_a_lying_size_is_refused(claim, said):
    wrapped = bytearray(packed(b"x" * 1000))
    wrapped[24 + 5 : 24 + 13] = struct.pack("<Q", claim)
    with pytest.raises((Malformed, Unsupported)) as caught:
        firmware.parse(image(wrap=bytes(wrapped)))
    assert said in str(caught.value)


def test_a_broken_stream_is_malformed():
    wrapped = bytearray(packed(b"x" * 1000))
    wrapped[24:37] = b"\xff" * 5 + struct.pack("<Q", 1000)
    with pytest.raises(Malformed, match="want an LZMA stream"):
        firmware.parse(image(wrap=bytes(wrapped)))


def test_a_stream_that_ends_early_is_malformed():
    wrapped = packed(bytes(range(256)) * 40)
    with pytest.raises(Malformed, match="the LZMA section"):
        firmware.parse(image(wrap=section(0x02, wrapped[4:-200])))


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (32, b"\xff" * 8, "FvLength at offset 32"),
        (48, b"\x10\0", "FvLength at offset 32: want HeaderLength (16)"),
        (72 + 20, b"\x01\0\0", "file Size at offset 72: want 24 to"),
        (72 + 20, b"\xff\xff\x7f", "file Size at offset 72: want 24 to"),
    ],
)
def test_a_broken_volume_is_named(at, value, said):
    data = bytearray(volume(file(VOLUME_FILE, packed(b"")), size=2048))
    data[at : at + len(value)] = value
    with pytest.raises(Malformed) as caught:
        firmware.parse(bytes(data))
    assert said in str(caught.value)


def test_too_large_an_image_is_not_read():
    with pytest.raises(Malformed, match="size: want at most"):
        firmware.parse(bytes(firmware.MAX_IMAGE_BYTES + 1))


@settings(max_examples=200)
@given(st.data())
def test_nearly_right_bytes_give_volumes_or_a_refusal(data):
    raw = bytearray(image())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, 1400))] = data.draw(st.integers(0, 255))
    with suppress(Malformed, Unsupported):
        firmware.parse(bytes(raw))


@given(st.data())
def test_nearly_right_volumes_give_files_or_a_refusal(data):
    raw = bytearray(volume(file(PEI_CORE, b"core"), file(PEIM, b"b", large=True), size=256, extended=True))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(Malformed):
        list(firmware.files(memoryview(bytes(raw))))
