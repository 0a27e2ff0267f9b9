"""Predicting a measured boot: what each input does to which register, on made images and firmware."""

from __future__ import annotations

import hashlib
import json
import struct
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_corpus import corpus
from support_firmware import image as firmware_image
from support_firmware import pei_volume, platform_pei
from support_pe import kernel, pe, uki

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Misuse, Unsupported
from tallystick.formats import firmware as firmware_format
from tallystick.formats import pe as pe_format
from tallystick.formats import uki as uki_format
from tallystick.measure import firmwares, qemu
from tallystick.measure import uki as measure_uki
from tallystick.measure.predict import measure_release
from tallystick.measure.records import Event
from tallystick.measure.registers import extend, initial, replay
from tallystick.measure.shapes import LaunchShape
from tallystick.measure.uki import Boot, application_events, image_events, pcr11_events

FIRMWARE = firmware_image()
SHAPE = LaunchShape.of("qemu-vtpm", {"ram_mib": 512, "vcpus": 1, "vmm": "qemu"})
INIT_DATA = Digest.of(b"init-data")


@pytest.fixture(autouse=True)
def known_firmware(monkeypatch):
    """The made firmware stands in the table, so that everything else is the real code."""
    model = replace(firmwares._MODELS[0], name="made here", digest=Digest.of(FIRMWARE))
    monkeypatch.setattr(firmwares, "_MODELS", (model,))


def pcrs(image: bytes, shape: LaunchShape = SHAPE, init_data: Digest | None = None) -> dict[str, str]:
    (one,) = measure_release(image, FIRMWARE, [shape], init_data, "test")
    return dict(qemu.pcr_claims(one.events))


def moved(before: dict[str, str], after: dict[str, str]) -> list[int]:
    return [int(name[3:]) for name in before if before[name] != after[name]]


def chain(*data: bytes) -> str:
    value = bytes(32)
    for one in data:
        value = hashlib.sha256(value + hashlib.sha256(one).digest()).digest()
    return value.hex()


def test_every_register_of_a_boot():
    """The rules, written out a second time (facts: docs/decisions/0012)."""
    got = pcrs(uki(cmdline=b"quiet", initrd=b"ramdisk", osrel=b"ID=x\n"))
    sections = [
        (b".linux", kernel()),
        (b".osrel", b"ID=x\n"),
        (b".cmdline", b"quiet"),
        (b".initrd", b"ramdisk"),
    ]
    assert got["pcr11"] == chain(*(part for name, data in sections for part in (name + b"\0", data)))
    assert got["pcr09"] == chain("quiet\0".encode("utf-16-le"), b"ramdisk")
    separator = chain(bytes(4))
    assert [got["pcr02"], got["pcr03"], got["pcr06"]] == [separator] * 3
    assert got["pcr05"] == chain(
        bytes(4), b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success"
    )
    for register in (8, 12, 13, 14, 15):
        assert got[f"pcr{register:02}"] == "00" * 32
    aggregate = hashlib.sha256(b"".join(bytes.fromhex(got[f"pcr{n:02}"]) for n in range(10))).digest()
    entry = (
        struct.pack("<I", 40)
        + b"sha256:\0"
        + aggregate
        + struct.pack("<I", 15)
        + b"boot_aggregate\0"
        + bytes(4)
    )
    assert got["pcr10"] == chain(entry)


def test_constants_that_real_boots_showed():
    """Of Debian's ovmf 2022.11: the same on every boot, whatever the image."""
    got = pcrs(uki())
    assert got["pcr01"] == "8e9d1fe23131f12d6a523e9c32eb3223d4dc25e14eb5fd60163e7ba8de0f248c"
    assert got["pcr02"] == "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"
    assert got["pcr05"] == "a5ceb755d043f32431d63e39f5161464620a3437280494b5850dc1b47cc074e0"
    assert got["pcr07"] == "65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e534eb3068"


@pytest.mark.parametrize(
    ("change", "registers"),
    [
        ({"initrd": b"initrd bytez"}, [4, 9, 10, 11]),
        ({"cmdline": b"console=ttyS1"}, [4, 9, 10, 11]),
        ({"osrel": b"ID=tost\n"}, [4, 10, 11]),
        ({"linux": kernel(b"colonel")}, [4, 10, 11]),
        ({"version": "252.40"}, [4, 10]),
        ({"more": ((".uname", b"6.12"),)}, [4, 10]),
    ],
)
def test_what_a_changed_image_moves(change, registers):
    assert moved(pcrs(uki()), pcrs(uki(**change))) == registers


@pytest.mark.parametrize(
    ("change", "registers"),
    [({"ram_mib": 1024}, [0, 10]), ({"vcpus": 2}, [0, 10]), ({"ram_mib": 512}, [])],
)
def test_what_another_machine_moves(change, registers):
    shape = LaunchShape.of(SHAPE.platform, dict(SHAPE.values) | change)
    assert moved(pcrs(uki()), pcrs(uki(), shape)) == registers


def test_init_data_is_register_8_by_trustees_rule():
    got = pcrs(uki(), init_data=INIT_DATA)
    assert moved(pcrs(uki()), got) == [8]
    assert got["pcr08"] == hashlib.sha256(bytes(32) + INIT_DATA.value).hexdigest()


def test_without_an_initrd_only_the_command_line_is_in_register_9():
    assert pcrs(uki(initrd=None))["pcr09"] == chain("console=ttyS0\0".encode("utf-16-le"))


def test_the_stub_takes_white_space_off_the_end_of_the_command_line():
    """Register 11 has the section as it is."""
    assert moved(pcrs(uki()), pcrs(uki(cmdline=b"console=ttyS0 \n"))) == [4, 10, 11]


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        (uki(version="257.5"), Unsupported, "systemd-stub version: want one of 252, got 257"),
        (uki(cmdline=None), Unsupported, "section .cmdline: want one"),
        (uki(cmdline=b""), Unsupported, "section .cmdline: want one"),
        (uki(cmdline=b"a\tb"), Unsupported, "section .cmdline offset 1: want printable ASCII, got 0x09"),
        (uki(cmdline="ü".encode()), Unsupported, "offset 0: want printable ASCII, got 0xc3"),
        (uki(cmdline=b"a\0"), Unsupported, "offset 1: want printable ASCII, got 0x00"),
        (uki(more=((".pcrsig", b"{}"),)), Unsupported, "section .pcrsig: want none, got 2 bytes"),
        (uki(more=((".dtb", b"d"),)), Unsupported, "section .dtb"),
        (uki(linux=b"no PE image"), Malformed, "e_magic at offset 0"),
    ],
)
def test_what_can_not_be_predicted_is_refused(image, error, said):
    with pytest.raises(error) as caught:
        pcrs(image)
    assert said in str(caught.value)


def test_the_order_of_register_4_depends_on_how_the_image_is_started():
    image = uki()
    events = image_events(uki_format.parse(image))
    outer = pe_format.authenticode(pe_format.parse(image))
    inner = pe_format.authenticode(pe_format.parse(kernel()))
    calling = Digest.of(b"Calling EFI Application from Boot Option")
    separator = Digest.of(bytes(4))
    assert [e.digest for e in application_events(events, Boot.KERNEL)] == [outer, calling, separator, inner]
    assert [e.digest for e in application_events(events, Boot.DISK)] == [calling, separator, outer, inner]


def test_a_splash_is_measured_after_the_initrd_wherever_it_lies():
    image = pe(
        [
            (".splash", b"bmp"),
            (".sdmagic", b"#### LoaderInfo: systemd-stub 252 ####"),
            (".cmdline", b"c"),
            (".linux", kernel()),
        ]
    )
    names = [event.what.split()[-1] for event in image_events(uki_format.parse(image)).sections[::2]]
    assert names == [".linux", ".cmdline", ".splash"]


def test_the_platform_information_is_found_by_the_code_that_uses_it():
    volume = pei_volume(b"\x90" * 11 + platform_pei())
    parsed = firmware_format.parse(firmware_image(volume))
    at = firmwares.platform_info_offset(parsed.pei)
    start = bytes(parsed.pei).index(b"\x90" * 11)
    assert at == start + 11 + 13 + 19 + 24
    measured = firmwares.pei_volume_as_measured(
        parsed.pei, firmwares.known(FIRMWARE), firmwares.Machine(ram_mib=512, vcpus=1)
    )
    assert next(i for i, (a, b) in enumerate(zip(measured, parsed.pei, strict=True)) if a != b) == at
    assert measured[at : at + 2] == b"\xc0\x29"
    assert measured[at + 114 : at + 116] == b"\1\1"
    assert measured[:at] + measured[at + 116 :] == bytes(parsed.pei[:at]) + bytes(parsed.pei[at + 116 :])


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (b"no code", "uses of mPlatformInfoHob in PlatformPei: want one, got 0"),
        (platform_pei(uses=2), "want one, got 2"),
        (platform_pei(distance=1 << 20), "want one, got 0"),
        (platform_pei(distance=-(1 << 20)), "want one, got 0"),
        (platform_pei(filled=b"\1"), "want zeros, got other bytes"),
    ],
)
def test_a_firmware_whose_global_can_not_be_found_is_unsupported(module, said):
    parsed = firmware_format.parse(firmware_image(pei_volume(module)))
    with pytest.raises(Unsupported) as caught:
        firmwares.pei_volume_as_measured(
            parsed.pei, firmwares.known(FIRMWARE), firmwares.Machine(ram_mib=512, vcpus=1)
        )
    assert said in str(caught.value)


# (ram_mib, vcpus) -> u32 fields from PcdCpuBootLogicalProcessorNumber on, FirstNonAddress in GiB, Uc32Base:
# written down from edk2's source; tests/measure/test_boot.py checks the same against real boots.
GIB = 1 << 30
SHAPES = {
    (512, 1): (0x1FF78000, 64, 0x80000000),
    (2048, 1): (0x7FF78000, 64, 0x80000000),
    (2560, 1): (0x9FF78000, 64, 0xB0000000),
    (2816, 1): (0x7FF78000, 64, 0x80000000),
    (40960, 8): (0x7FF40000, 96, 0x80000000),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_platform_information_follows_ram_and_cpus(shape):
    base, first, uncached = SHAPES[shape]
    raw = firmwares._platform_info(firmwares.Machine(ram_mib=shape[0], vcpus=shape[1]))
    assert len(raw) == 114
    size = 0x80000 + 0x8000 * shape[1]
    assert struct.unpack_from("<IIIII", raw, 0x5E) == (shape[1], shape[1], 64, base, size)
    assert struct.unpack_from("<QBI", raw, 0x14) == (first * GIB, 40, uncached)


def test_an_unknown_firmware_is_unsupported_and_the_known_are_named():
    with pytest.raises(Unsupported, match="made here") as caught:
        measure_release(uki(), FIRMWARE + b"\0", [SHAPE], None, "test")
    assert caught.value.code == "firmware.unknown"


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"ram_mib": 512, "vcpus": 1}, "shape.names"),
        ({"ram_mib": 512, "vcpus": 1, "vmm": "qemu", "cpu": "max"}, "shape.names"),
        ({"ram_mib": 512, "vcpus": 1, "vmm": "firecracker"}, "unsupported"),
        ({"ram_mib": True, "vcpus": 1, "vmm": "qemu"}, "shape.type"),
        ({"ram_mib": "512", "vcpus": 1, "vmm": "qemu"}, "shape.type"),
        ({"ram_mib": 64, "vcpus": 1, "vmm": "qemu"}, "shape.ram-mib"),
        ({"ram_mib": 1 << 20, "vcpus": 1, "vmm": "qemu"}, "shape.ram-mib"),
        ({"ram_mib": 512, "vcpus": 0, "vmm": "qemu"}, "shape.vcpus"),
        ({"ram_mib": 512, "vcpus": 65, "vmm": "qemu"}, "shape.vcpus"),
    ],
)
def test_a_shape_that_can_not_be_is_refused(values, code):
    with pytest.raises((Misuse, Unsupported)) as caught:
        measure_release(uki(), FIRMWARE, [LaunchShape.of("qemu-vtpm", values)], None, "test")
    assert caught.value.code == code


def test_platforms_are_known_and_named_once():
    with pytest.raises(
        Unsupported, match="platform: want one of qemu-vtpm, amd-sev-snp, intel-tdx, aws-nitro, got sgx-9000"
    ):
        measure_release(uki(), FIRMWARE, [replace(SHAPE, platform="sgx-9000")], None, "test")
    for platforms in ([], [SHAPE, SHAPE]):
        with pytest.raises(Misuse, match="want at least one, each once"):
            measure_release(uki(), FIRMWARE, platforms, None, "test")


def test_a_tuple_pins_every_register_but_the_waived_one():
    image = uki()
    (one,) = measure_release(image, FIRMWARE, [SHAPE], INIT_DATA, "tallystick 0")
    assert [name for name, _ in one.values] == [f"pcr{n:02}" for n in range(16) if n != 10]
    assert [register.name for register in one.waived] == ["pcr10"]
    assert (one.platform, one.evidence_kind, one.calculator) == ("qemu-vtpm", "tpm-quote", "tallystick 0")
    assert (one.image, one.firmware) == (Digest.of(image), Digest.of(FIRMWARE))
    assert one.shape == SHAPE.values
    assert dict(one.values) == {k: v for k, v in qemu.pcr_claims(one.events) if k != "pcr10"}


def test_a_register_grows_by_its_own_hash_only():
    with pytest.raises(ValueError, match="cannot extend sha256 by sha384"):
        extend(initial(), initial(Algorithm.SHA384))
    event = Event(register=3, digest=Digest.of(b"x"), what="x")
    assert replay([event, event])[3] == extend(extend(initial(), event.digest), event.digest)


@given(st.dictionaries(st.sampled_from(measure_uki._STUB_ORDER[252]), st.binary(max_size=40)))
def test_register_11_takes_sections_in_the_stubs_order_whatever_the_files(given_sections):
    shuffled = dict(sorted(given_sections.items(), reverse=True))
    assert pcr11_events(given_sections.items(), 252) == pcr11_events(shuffled.items(), 252)


@pytest.mark.corpus
def test_register_11_equals_systemd_measure():
    """The known answers are systemd-measure's own, at its phases (PCR 11 after the word of each phase)."""
    case = json.loads(corpus("evidence/tpm/uki_pcr11_systemd252.json").read_text())
    inputs = {
        ".linux": b"K" * 100000,
        ".osrel": case["inputs"]["osrel"].encode(),
        ".cmdline": case["inputs"]["cmdline"].encode(),
        ".initrd": b"".join(hashlib.sha256(i.to_bytes(4, "big")).digest() for i in range(1600)),
    }
    value = replay(pcr11_events(inputs.items(), 252))[11]
    for phases, want in case["sha256"].items():
        after = value
        for phase in phases.split(":"):
            after = extend(after, Digest.of(phase.encode()))
        assert after.hex == want


def test_a_large_image_is_predicted_in_far_less_than_a_second():
    """Twenty megabytes, the size the demo's image may have; the firmware here is small, the real one adds 0.15 s."""
    image = uki(linux=pe([(".text", bytes(12 << 20))]), initrd=bytes(8 << 20))
    start = time.perf_counter()
    pcrs(image)
    assert time.perf_counter() - start < 1.0
