"""TDX registers: known answers, and a real quote whose MRTD and RTMR0-3 follow from published inputs."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import uuid
from contextlib import suppress

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_corpus import corpus

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import ovmf
from tallystick.measure import tdx

PAGE = 4096


def firmware_with(sections, body_pages=4):
    """An OVMF-shaped file whose TDVF descriptor lists ``sections``: (offset, raw, gpa, size, kind, attributes)."""
    descriptor = b"TDVF" + struct.pack("<III", 16 + 32 * len(sections), 1, len(sections))
    descriptor += b"".join(struct.pack("<IIQQII", *s) for s in sections)
    size = body_pages * PAGE
    at = size - 1024
    entry = struct.pack("<I", size - at) + struct.pack("<H", 22) + uuid.UUID(ovmf.TDX_METADATA).bytes_le
    footer = struct.pack("<H", len(entry) + 18) + uuid.UUID(ovmf.FOOTER).bytes_le
    data = bytearray((b"firmware byte %d" * 9999)[:size])
    data[at : at + len(descriptor)] = descriptor
    table = entry + footer
    data[size - 32 - len(table) : size - 32] = table
    return ovmf.parse(bytes(data))


def test_mrtd_is_the_stream_that_the_module_hashes():
    """Written out again by hand from the ABI, for one extended page, one added page and one augmented page."""
    whole = firmware_with(
        [
            (0, PAGE, 0xFFFFF000, PAGE, 0, 1),
            (0, 0, 0x809000, PAGE, 2, 0),
            (0, 0, 0x100000, 8 * PAGE, 4, 2),
        ]
    )
    stream = hashlib.sha384()
    stream.update(struct.pack("<16sQ104x", b"MEM.PAGE.ADD", 0xFFFFF000))
    for chunk in range(16):
        stream.update(struct.pack("<16sQ104x", b"MR.EXTEND", 0xFFFFF000 + 256 * chunk))
        stream.update(whole.data[256 * chunk : 256 * (chunk + 1)])
    stream.update(struct.pack("<16sQ104x", b"MEM.PAGE.ADD", 0x809000))
    found = tdx.mrtd(whole)
    assert found.one_pass.value == found.two_pass.value == stream.digest()


def test_the_two_orders_differ_from_two_pages_on():
    found = tdx.mrtd(firmware_with([(0, 2 * PAGE, 0xFFFFE000, 2 * PAGE, 0, 1)]))
    assert found.one_pass != found.two_pass


@pytest.mark.corpus
def test_half_a_firmware_is_refused():
    """This file is OVMF's code without its variable store, so its TDVF offsets point past its end.

    Whoever slices it all the same gets a plausible digest that no machine can show; the corpus has one.
    """
    with pytest.raises(
        Malformed, match=r"section 0 .*want bytes inside the file, got 0x37c000 bytes at 0x84000"
    ):
        tdx.mrtd(ovmf.parse(corpus("evidence/snp/measure/svsm_ovmf.fd").read_bytes()))


def varints(data):
    values, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            values.append(value)
            value = shift = 0
    return values


@pytest.mark.corpus
def test_a_real_quote_follows_from_published_inputs():
    """MRTD and RTMR0-3 of a dstack machine, from its firmware's witness, kernel, command line, initrd and events."""
    document = json.loads(corpus("evidence/tdx/dstack/tdx-lite-getquote.json").read_text())
    shape = json.loads(document["vm_config"])
    inputs = cbor2.loads(base64.b64decode(shape["tdx_measurement"]["measurement"]))
    events = json.loads(document["event_log"])
    body = bytes.fromhex(document["quote"])[48:]
    register = {f"rtmr{i}": body[328 + 48 * i : 376 + 48 * i] for i in range(4)}
    assert body[136:184] in inputs["tdvf"]["mrtd"].values()

    base, hob, count, *rest = varints(inputs["tdvf"]["td_hob"])
    accepted = [((base + rest[2 * i]) * PAGE, rest[2 * i + 1] * PAGE) for i in range(count)]
    acpi = {e["event"]: bytes.fromhex(e["digest"]) for e in events if e["event"].startswith("acpi")}
    by_kind = [bytes.fromhex(e["digest"]) for e in events if e["imr"] == 0]
    platform = tdx.Platform(
        td_hob=tdx.td_hob(shape["memory_size"], accepted, (base + hob) * PAGE),
        configuration_volume=by_kind[1],
        acpi_loader=acpi["acpi-loader"],
        acpi_rsdp=acpi["acpi-rsdp"],
        acpi_tables=acpi["acpi-tables"],
        boot_option=by_kind[-1],
    )
    image = inputs["image"]
    assert tdx.replay(tdx.rtmr0_events(platform)).value == register["rtmr0"]
    assert tdx.replay(tdx.rtmr1_events(image["kernel_authenticode"])).value == register["rtmr1"]
    assert tdx.replay([image["cmdline_sha384"], image["initrd_sha384"]]).value == register["rtmr2"]
    runtime = [
        tdx.rtmr3_event(e["event_type"], e["event"], bytes.fromhex(e["event_payload"]))
        for e in events
        if e["imr"] == 3
    ]
    assert tdx.replay(runtime).value == register["rtmr3"]


def test_rtmr2_measures_what_ovmf_appends():
    with_initrd = tdx.rtmr2_events("console=ttyS0", b"initrd")
    assert with_initrd[0] == hashlib.sha384("console=ttyS0 initrd=initrd\0".encode("utf-16-le")).digest()
    assert tdx.rtmr2_events("a", None) == (hashlib.sha384("a\0".encode("utf-16-le")).digest(),)


def kernel(protocol=0x20F):
    data = bytearray(PAGE)
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x206, protocol)
    struct.pack_into("<I", data, 0x22C, 0x7FFFFFFF)
    data[0x236] = 2
    return bytes(data)


@pytest.mark.parametrize(
    ("memory", "address"),
    [
        (512 << 20, (0x20000000 - 0x28000 - 1 - 5000) & ~0xFFF),
        (2 << 30, (0x80000000 - 0x28000 - 1 - 5000) & ~0xFFF),
        (0xA0000000, (0xA0000000 - 0x28000 - 1 - 5000) & ~0xFFF),
        (8 << 30, (0x80000000 - 0x28000 - 1 - 5000) & ~0xFFF),
    ],
)
def test_the_kernel_is_patched_as_qemu_patches_it(memory, address):
    patched = tdx.patched_kernel(kernel(), initrd_bytes=5000, memory_bytes=memory)
    assert struct.unpack_from("<II", patched, 0x218) == (address, 5000)
    assert (patched[0x210], patched[0x211]) == (0xB0, 0x80)


def test_what_is_no_kernel_is_refused():
    with pytest.raises(Malformed, match="setup header at 0x202: want HdrS"):
        tdx.patched_kernel(bytes(PAGE), initrd_bytes=0, memory_bytes=1 << 30)
    with pytest.raises(Unsupported, match=r"2\.06 or later"):
        tdx.patched_kernel(kernel(0x204), initrd_bytes=0, memory_bytes=1 << 30)
    with pytest.raises(Unsupported, match="initrd: want at most"):
        tdx.patched_kernel(kernel(), initrd_bytes=1 << 30, memory_bytes=1 << 30)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ((0, PAGE, 0xFFFFF001, PAGE, 0, 1), "section 0"),
        ((PAGE * 9, PAGE, 0xFFFFF000, PAGE, 0, 1), "bytes inside the file"),
        ((0, 2 * PAGE, 0xFFFFF000, PAGE, 0, 1), "bytes inside the file"),
        ((0, 0, 0, 1 << 31, 4, 0), "at most 1 GiB"),
    ],
)
def test_a_lying_descriptor_is_refused(section, said):
    with pytest.raises(Malformed, match=said):
        tdx.mrtd(firmware_with([section]))


def test_unknown_attributes_are_refused():
    with pytest.raises(Unsupported, match="attributes"):
        tdx.mrtd(firmware_with([(0, PAGE, 0xFFFFF000, PAGE, 0, 5)]))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(PAGE, 1 << 46),
    st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 1 << 24)), max_size=5),
)
def test_any_memory_layout_gives_a_digest_or_malformed(memory, accepted):
    with suppress(Malformed):
        assert len(tdx.td_hob(memory, accepted, 0x809000)) == 48
