"""SPDM reports, their opaque data, and the firmware identity in a device's certificate."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
import support_nvidia as made
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import dice, nvidia_opaque, spdm


def signed(**fields) -> bytes:
    return made.unsigned(**fields) + b"s" * 96


def test_every_field_of_a_report():
    report = spdm.parse(signed())
    assert report.nonce == made.NONCE
    assert (report.operation, report.slot) == (0xFF, 0)
    assert report.response_nonce == b"r" * 32
    assert report.measurements == {number: made.digest(number) for number in range(1, 65)}
    assert report.signed == made.unsigned()
    assert report.signature == b"s" * 96


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\3\0\1", "want DataType and DataSize, got 3 bytes"),
        (b"\3\0\2\0x", "type 3: want 2 bytes, got 1 left"),
    ],
)
def test_opaque_data_that_ends_early(data, message):
    whole = made.unsigned(fields=[])
    with pytest.raises(Malformed, match=message):
        spdm.parse(whole[:-2] + struct.pack("<H", len(data)) + data + bytes(96))


def test_zeros_after_the_signature_are_some_attesters_terminator():
    assert spdm.parse(signed() + b"\0").signature == b"s" * 96


@pytest.mark.parametrize("rest", [b"\1", bytes(17), b"\0\1"])
def test_anything_else_after_the_signature_is_refused(rest):
    with pytest.raises(Malformed, match="end: want no more bytes"):
        spdm.parse(signed() + rest)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 0x12}, "SPDMVersion: want 0x11"),
        ({"specification": 2}, "want DMTF measurements"),
    ],
)
def test_other_versions_are_unsupported(fields, message):
    with pytest.raises(Unsupported, match=message):
        spdm.parse(signed(**fields) if "version" in fields else damaged_specification())


def damaged_specification() -> bytes:
    data = bytearray(signed(measurements={1: b"m" * 48}))
    data[37 + 8 + 1] = 2
    return bytes(data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"request": 0xE1}, "request RequestResponseCode"),
        ({"response": 0x61}, "response RequestResponseCode"),
        ({"param1": 0}, "want a request for a signature"),
        ({"measurements": {0: b"m" * 48}}, "offset 0: want an Index of 1 to 254, each once, got 0"),
        ({"measurements": {255: b"m" * 48}}, "want an Index of 1 to 254, each once, got 255"),
        ({"blocks": 63}, "MeasurementRecord: offset 3465: want no more bytes, got 55 bytes"),
        ({"blocks": 65}, "offset 3520: want a measurement block, got 0 bytes left"),
        ({"fields": [(3, b"1"), (3, b"2")]}, "want each DataType once, got 3"),
    ],
)
def test_what_can_not_be_is_malformed(fields, message):
    with pytest.raises(Malformed, match=message):
        spdm.parse(signed(**fields))


def test_an_index_comes_once():
    block = struct.pack("<BBHBH", 7, 1, 4, 1, 1) + b"m"
    data = made.unsigned(measurements={})
    at = 37 + 4
    data = (
        data[:at]
        + bytes([2])
        + (len(block) * 2).to_bytes(3, "little")
        + block * 2
        + data[at + 4 :]
        + bytes(96)
    )
    with pytest.raises(Malformed, match="each once, got 7"):
        spdm.parse(data)


def test_a_report_of_any_size_is_not_read():
    with pytest.raises(Malformed, match="size: want at most"):
        spdm.parse(b"\x11\xe0" + bytes(spdm.MAX_BYTES))


def test_every_truncation_is_malformed():
    whole = signed(measurements={1: b"m" * 48, 2: b"n" * 48})
    for size in range(len(whole)):
        with pytest.raises(Malformed):
            spdm.parse(whole[:size])


@given(st.binary(max_size=300))
def test_bytes_are_parsed_or_refused_by_name(data):
    with suppress(Malformed, Unsupported):
        spdm.parse(data)
    with suppress(Malformed, Unsupported):
        spdm.parse(made.unsigned(measurements={1: b"m" * 48})[:60] + data)


@settings(max_examples=200)
@given(st.data())
def test_damaged_reports_are_parsed_or_refused_by_name(data):
    whole = bytearray(signed(measurements={1: b"m" * 48, 36: b"n" * 48}))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(Malformed, Unsupported):
        report = spdm.parse(bytes(whole))
        nvidia_opaque.gpu_fields(report.opaque)
        nvidia_opaque.switch_fields(report.opaque)


def test_what_a_gpu_says():
    fields = nvidia_opaque.gpu_fields(spdm.parse(signed()).opaque)
    assert fields["vbios_version"] == "96.00.a5.00.01"
    assert fields["driver_version"] == "590.12"
    assert fields["nvdec0_status"] is False
    assert fields["protected_pcie_status"] is False
    assert fields["feature_flag"] == "SPT"
    assert fields["measurement_count"] == {"1": 1, "2": 0}
    assert fields["switch_pdi"] == ["0001020304050607"] * 2
    assert fields["fwid"] == (b"f" * 48).hex()


def test_what_a_switch_says():
    fields = nvidia_opaque.switch_fields(spdm.parse(signed(fields=made.switch_opaque())).opaque)
    assert fields["vbios_version"] == "96.10.55.00.01"
    assert fields["device_pdi"] == "0001020304050607"
    assert len(fields["switch_gpu_pdis"]) == 8
    assert fields["switch_ports"] == [0, 1]
    assert fields["disabled_ports"] == "ec00"


@pytest.mark.parametrize(
    ("field", "value"),
    [((36, b"\1"), "MPT"), ((36, b"\2\0"), "PPCIE"), ((36, b"\7"), "unknown"), ((11, b"\xaa"), True)],
)
def test_modes(field, value):
    (found,) = nvidia_opaque.gpu_fields((field,)).values()
    assert found == value


def test_a_type_that_nobody_knows_is_kept():
    assert nvidia_opaque.gpu_fields(((99, b"\1\2"),)) == {"type_99": "0102"}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ((6, b"\0" * 7), "vbios_version: want 8 bytes"),
        ((3, b"\xff"), "driver_version: want printable ASCII"),
        ((3, b"5\n"), "driver_version: want printable ASCII"),
        ((12, b"123"), "measurement_count: want 32-bit numbers"),
        ((22, b"123"), "switch_pdi: want 8-byte identifiers"),
        ((11, b"\x54"), "nvdec0_status: want 0xaa"),
        ((21, b""), "protected_pcie_status: want 0xaa"),
        ((36, bytes(9)), "feature_flag: want at most 8 bytes"),
    ],
)
def test_fields_that_can_not_be(field, message):
    with pytest.raises(Malformed, match=message):
        nvidia_opaque.gpu_fields((field,))


def test_a_switch_without_its_gpus():
    with pytest.raises(Malformed, match="switch_gpu_pdis: want at least 64 bytes"):
        nvidia_opaque.switch_fields(((26, bytes(63)),))


def test_opaque_data_of_a_later_version_may_mean_other_things():
    with pytest.raises(Unsupported, match="opaque_data_version: want at most 1, got 2"):
        nvidia_opaque.gpu_fields(((34, b"\2"),))


def test_the_firmware_identity_of_both_extensions():
    key = made.new_key().public_key()
    assert dice.fwid(*made.composite_device_id(key, b"a" * 48)) == b"a" * 48
    assert dice.fwid(*made.tcb_info(b"a" * 48, bytes(48))) == b"a" * 48


FWID = made.der(0x30, made.SHA384_OID, made.der(4, b"f" * 48))
SHA256_FWID = made.der(0x30, made.der(6, bytes.fromhex("608648016503040201")), made.der(4, bytes(32)))


@pytest.mark.parametrize(
    ("oid", "value", "message"),
    [
        (dice.TCB_INFO, b"", "DER tags: want 0x30, got none"),
        (dice.TCB_INFO, made.der(0x30), "fwids: want one list, got 0"),
        (dice.TCB_INFO, made.der(0x30, made.der(0xA6, FWID), made.der(0xA6, FWID)), "want one list, got 2"),
        (dice.TCB_INFO, made.der(0x30, made.der(0xA6)), "at least one FWID"),
        (dice.TCB_INFO, made.der(0x30, made.der(0xA6, made.der(4))), "at least one FWID"),
        (dice.TCB_INFO, made.der(0x30, made.der(0xA6, made.der(0x30, made.SHA384_OID))), "DER tags"),
        (
            dice.TCB_INFO,
            made.der(0x30, made.der(0xA6, made.der(0x30, made.SHA384_OID, made.der(4, b"x")))),
            "digest: want 48 bytes, got 1",
        ),
        (dice.COMPOSITE_DEVICE_ID, made.der(0x30, FWID), "DER tags: want 0x02 0x30 0x30"),
        (dice.TCB_INFO, b"\x30\x81\x05\0\0\0\0\0", "want a shortest length"),
        (dice.TCB_INFO, b"\x30\x82\x00\x05\0\0\0\0\0", "want a shortest length"),
        (dice.TCB_INFO, b"\x30\x80", "want a shortest length"),
        (dice.TCB_INFO, b"\x30\x05\x00", "want 5 bytes, got 1 left"),
        (dice.TCB_INFO, b"\x30", "want a tag and a length"),
    ],
)
def test_extensions_that_are_none(oid, value, message):
    with pytest.raises(Malformed, match=message):
        dice.fwid(oid, value)


def test_other_hashes_and_extensions_are_unsupported():
    with pytest.raises(Unsupported, match="hashAlg: want SHA-384"):
        dice.fwid(dice.TCB_INFO, made.der(0x30, made.der(0xA6, SHA256_FWID)))
    with pytest.raises(Unsupported, match="want a DICE extension"):
        dice.fwid("2.23.133.5.4.5", FWID)


@given(st.sampled_from([dice.TCB_INFO, dice.COMPOSITE_DEVICE_ID]), st.binary(max_size=200))
def test_any_extension_is_read_or_refused_by_name(oid, value):
    with suppress(Malformed, Unsupported):
        assert len(dice.fwid(oid, value)) == 48
    with suppress(Malformed, Unsupported):
        dice.fwid(oid, made.der(0x30, made.der(0xA6, value)))
