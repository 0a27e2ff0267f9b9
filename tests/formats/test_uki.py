"""Unified kernel images: sections by name, and the stub's version."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_pe import MAGIC, kernel, pe, uki

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import uki as format_uki


def test_sections_are_views_of_the_file_in_its_order():
    parsed = format_uki.parse(uki(osrel=b"ID=x\n", cmdline=b"quiet", initrd=b"i"))
    assert list(parsed.sections) == [".text", ".sdmagic", ".osrel", ".cmdline", ".initrd", ".linux"]
    assert bytes(parsed.sections[".cmdline"]) == b"quiet"
    assert bytes(parsed.sections[".linux"]) == kernel()
    assert (parsed.stub_version, parsed.stub_release) == (252, "252.39-1~deb12u2")


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (uki(more=((".osrel", b"ID=evil\n"),)), "section .osrel: want each section once, got a second one"),
        (uki(linux=b""), "section .linux: want a kernel, got none"),
        (pe([(".linux", kernel())]), "section .sdmagic: want #### LoaderInfo"),
        (uki(version="x"), "section .sdmagic"),
        (uki(version="1234567"), "section .sdmagic"),
        (
            pe(
                [(".sdmagic", MAGIC % b"252"), (".linux", kernel()), (".initrd", b"i" * 512)],
                virtual_sizes={".initrd": 513},
            ),
            "section .initrd VirtualSize: want at most its 512 bytes in the file, got 513",
        ),
    ],
)
def test_what_is_no_unified_kernel_image_is_malformed(image, said):
    with pytest.raises(Malformed) as caught:
        format_uki.parse(image)
    assert said in str(caught.value)


def test_a_stub_section_may_be_larger_in_memory():
    image = pe(
        [(".bss", b""), (".sdmagic", MAGIC % b"252"), (".linux", kernel())], virtual_sizes={".bss": 1 << 20}
    )
    assert len(format_uki.parse(image).sections[".bss"]) == 0


@given(st.integers(0, 600), st.integers(0, 255))
def test_a_changed_byte_gives_an_image_or_a_refusal(at, value):
    raw = bytearray(uki())
    raw[at] = value
    with suppress(Malformed, Unsupported):
        format_uki.parse(bytes(raw))
