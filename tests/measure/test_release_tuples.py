"""The tuples of a release on every platform: what they pin, and which images and firmwares are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support_guest import AMDSEV, INTELTDX, enclave, guest
from support_pe import kernel, pe, uki

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Misuse, Unsupported
from tallystick.formats import intoto, ovmf
from tallystick.measure import attestable, snp, snp_boot, tdx, tdx_boot
from tallystick.measure.predict import measure_release
from tallystick.measure.records import NO_FIRMWARE
from tallystick.measure.shapes import LaunchShape
from tallystick.measure.statement import from_statement, to_statement
from tallystick.policy.platforms import platform

ROOT = Path(__file__).resolve().parents[2]
INIT_DATA = Digest.of(b"init-data")
SNP = LaunchShape.of("amd-sev-snp", {"guest_features": 1, "vcpu_type": "EPYC-v4", "vcpus": 2, "vmm": "qemu"})
TDX = LaunchShape.of("intel-tdx", {"page_order": "one-pass", "vmm": "qemu"})
ENCLAVE = LaunchShape.of("aws-nitro", {"vmm": "nitro"})


IMAGE = uki(initrd=guest(), cmdline=b"console=ttyS0 \n")


def measured(shapes: list[LaunchShape], image: bytes = IMAGE, firmware: bytes = AMDSEV, init_data=INIT_DATA):
    return measure_release(image, firmware, shapes, init_data, "test 1")


@pytest.mark.parametrize(
    ("shape", "image", "firmware"),
    [(SNP, IMAGE, AMDSEV), (TDX, IMAGE, INTELTDX), (ENCLAVE, enclave(guest()), b"")],
    ids=lambda value: value.platform if isinstance(value, LaunchShape) else "",
)
def test_a_tuple_has_every_register_of_its_platform_and_nothing_else(shape, image, firmware):
    (one,) = measured([shape], image, firmware)
    known = platform(shape.platform)
    values, waived = dict(one.values), {register.name for register in one.waived}
    assert sorted({*values, *waived}) == sorted(known.registers)
    assert not values.keys() & waived
    assert one.evidence_kind == known.evidence_kind
    for name, value in values.items():
        kind = known.claim_type(name)
        assert kind is not None
        assert kind.holds(value)
        assert value.strip("0") or name not in known.never_zero
    assert one.image == Digest.of(image)
    assert one.firmware == (Digest.of(firmware) if firmware else NO_FIRMWARE)
    decision = [register.decision for register in one.waived]
    assert all((ROOT / path).is_file() for path in decision)


def test_snp_matrix_is_what_each_shape_alone_would_be():
    """And what a second program says of the kernel's hash: tests/measure/test_snp.py compares the rest with it."""
    shapes = [
        LaunchShape.of(
            SNP.platform, dict(SNP.values) | {"vcpus": vcpus, "guest_features": features, "vcpu_type": kind}
        )
        for vcpus in (4, 1, 2)
        for features in (1, 33)
        for kind in ("EPYC-v4", "EPYC-Genoa")
    ]
    found = measured(shapes)
    assert [one.shape for one in found] == [shape.values for shape in shapes]
    assert len({dict(one.values)["measurement"] for one in found}) == len(shapes)
    launch = snp.launch_image(ovmf.parse(AMDSEV))
    hashes = snp.KernelHashes(
        kernel=hashlib.sha256(IMAGE).digest(),
        initrd=hashlib.sha256(b"").digest(),
        cmdline=hashlib.sha256(b"\0").digest(),
    )
    for shape, one in zip(shapes, found, strict=True):
        alone = snp.launch_digest(launch, snp_boot.machine(shape), hashes)
        assert dict(one.values) == {"measurement": alone.hex, "init_data": INIT_DATA.hex}


def test_a_second_program_agrees_on_the_released_firmware(tmp_path):
    guests = pytest.importorskip("sevsnpmeasure.guest")
    from sevsnpmeasure import vcpu_types, vmm_types
    from sevsnpmeasure.sev_mode import SevMode

    (tmp_path / "uki.efi").write_bytes(IMAGE)
    wanted = guests.calc_launch_digest(
        SevMode.SEV_SNP,
        2,
        vcpu_types.CPU_SIGS["EPYC-v4"],
        str(ROOT / "nix/released/ovmf-amdsev.fd"),
        str(tmp_path / "uki.efi"),
        None,
        "",
        0x1,
        vmm_type=vmm_types.VMMType.QEMU,
    )
    (one,) = measured([SNP])
    assert dict(one.values)["measurement"] == wanted.hex()


def test_tdx_registers_are_the_events_written_out_a_second_time():
    (one,) = measured([TDX], firmware=INTELTDX)

    def chain(*digests: bytes) -> str:
        value = bytes(48)
        for digest in digests:
            value = hashlib.sha384(value + digest).digest()
        return value.hex()

    def sha(data: bytes) -> bytes:
        return hashlib.sha384(data).digest()

    values = dict(one.values)
    whole, inner = (one.events[0].digest.value, one.events[3].digest.value)
    assert values["quote.body.rtmr_1"] == chain(
        whole,
        sha(b"Calling EFI Application from Boot Option"),
        sha(bytes(4)),
        inner,
        sha(b"Exit Boot Services Invocation"),
        sha(b"Exit Boot Services Returned with Success"),
    )
    assert values["quote.body.rtmr_2"] == chain(sha("console=ttyS0\0".encode("utf-16-le")), sha(guest()))
    assert values["quote.body.rtmr_3"] == "0" * 96
    assert values["quote.body.mr_config_id"] == INIT_DATA.hex + "0" * 32
    assert values["quote.body.mr_td"] == tdx.mrtd(ovmf.parse(INTELTDX)).one_pass.hex
    assert whole != inner


def test_tdx_page_orders_differ_in_mrtd_alone():
    other = LaunchShape.of(TDX.platform, dict(TDX.values) | {"page_order": "two-pass"})
    first, second = (dict(one.values) for one in measured([TDX, other], firmware=INTELTDX))
    assert {name for name in first if first[name] != second[name]} == {"quote.body.mr_td"}


def test_without_init_data_the_hosts_field_is_zero():
    (one,) = measured([SNP], init_data=None)
    assert dict(one.values)["init_data"] == "0" * 64
    (one,) = measured([TDX], firmware=INTELTDX, init_data=None)
    assert dict(one.values)["quote.body.mr_config_id"] == "0" * 96


@pytest.mark.parametrize(
    ("shape", "firmware", "code", "message"),
    [
        (TDX, AMDSEV, "measure.firmware-extends-nothing", "TdTcg2Dxe"),
        (SNP, INTELTDX, None, "firmware SEV metadata"),
    ],
)
def test_firmware_that_does_not_measure_the_image_is_refused(shape, firmware, code, message):
    with pytest.raises((Unsupported, Malformed), match=message) as caught:
        measured([shape], firmware=firmware)
    assert code is None or caught.value.code == code


def test_snp_firmware_without_a_place_for_the_hashes_is_refused():
    at = AMDSEV.index(b"ASEV")
    changed = bytearray(AMDSEV)
    ranges = [at + 16 + 12 * index for index in range(7)]
    (place,) = [one for one in ranges if changed[one + 8 : one + 12] == (0x10).to_bytes(4, "little")]
    changed[place + 8 : place + 12] = (1).to_bytes(4, "little")
    with pytest.raises(Unsupported, match="want a kernel-hashes section, since a kernel is given, got none"):
        measured([SNP], firmware=bytes(changed))


@pytest.mark.parametrize(
    ("shape", "firmware", "module"),
    [
        (SNP, AMDSEV, "sev_guest"),
        (SNP, AMDSEV, "tsm"),
        (TDX, INTELTDX, "tdx_guest"),
        (TDX, INTELTDX, "tsm"),
    ],
)
def test_an_image_without_the_guest_driver_is_refused(shape, firmware, module):
    image = uki(initrd=guest(without=f"{module}.ko"))
    with pytest.raises(Unsupported, match=f"{shape.platform} image: module {module}") as caught:
        measured([shape], image, firmware)
    assert caught.value.code == "measure.no-guest-driver"


def test_an_image_without_an_initramfs_is_refused():
    with pytest.raises(Unsupported, match="module sev_guest"):
        measured([SNP], uki(initrd=None))


@pytest.mark.parametrize(
    ("ramdisk", "code"),
    [
        (guest(without="nsm.ko"), "measure.no-guest-driver"),
        (guest(without="vmw_vsock_virtio_transport.ko"), "measure.no-guest-driver"),
        (guest(virtio=b"no devices from the command line"), "measure.no-guest-driver"),
        (guest(init=b"#!/bin/sh\nexec workload\n"), "measure.no-heartbeat"),
        (guest(without="heartbeat.pyc"), "measure.no-heartbeat"),
    ],
)
def test_an_enclave_that_could_not_attest_is_refused(ramdisk, code):
    with pytest.raises(Unsupported, match="aws-nitro image: ") as caught:
        measured([ENCLAVE], enclave(ramdisk), b"")
    assert caught.value.code == code


def test_a_stub_that_also_extends_runtime_registers_is_refused():
    guid = tdx_boot._CC_MEASUREMENT_PROTOCOL.bytes_le
    with pytest.raises(Unsupported, match="stub: want one that measures into a TPM alone"):
        measured([TDX], uki(initrd=guest(), more=((".rdata", b"x" + guid),)), INTELTDX)
    linux = pe(
        [(".text", b"kernel" * 50), (".data", guid)]
    )  # a kernel knows the protocol, and its use is known
    measured([TDX], uki(initrd=guest(), linux=linux), INTELTDX)


@pytest.mark.parametrize(
    ("shape", "change", "error", "message"),
    [
        (SNP, {"vmm": "ec2"}, Unsupported, "the launch digest covers the firmware and not the image"),
        (SNP, {"vmm": "gce"}, Unsupported, "the launch digest covers the firmware and not the image"),
        (SNP, {"vcpu_type": "Skylake"}, Unsupported, "vCPU type: name"),
        (SNP, {"vcpus": 0}, Malformed, "vcpus: want 1 to 512, got 0"),
        (SNP, {"vcpus": "2"}, Misuse, "whole numbers"),
        (SNP, {"guest_features": 2}, Malformed, "want bit 0"),
        (SNP, {"ram_mib": 512}, Misuse, "launch shape of amd-sev-snp"),
        (TDX, {"page_order": "three"}, Unsupported, "want one-pass or two-pass, got three"),
        (TDX, {"vmm": "ec2"}, Unsupported, "vmm: want qemu"),
        (TDX, {"vcpus": 1}, Misuse, "launch shape of intel-tdx"),
        (ENCLAVE, {"vcpus": 1}, Misuse, "launch shape of aws-nitro"),
    ],
)
def test_shapes_that_no_tuple_can_be_of(shape, change, error, message):
    wrong = LaunchShape.of(shape.platform, dict(shape.values) | change)
    image, firmware = {
        "amd-sev-snp": (IMAGE, AMDSEV),
        "intel-tdx": (IMAGE, INTELTDX),
        "aws-nitro": (enclave(guest()), b""),
    }[shape.platform]
    with pytest.raises(error, match=message):
        measured([wrong], image, firmware)


def test_an_enclave_has_no_firmware():
    with pytest.raises(Misuse, match="an enclave starts without firmware"):
        measured([ENCLAVE], enclave(guest()), AMDSEV)


def test_tuples_of_all_platforms_are_written_and_read_back():
    image = enclave(guest())
    found = [*measured([SNP]), *measured([TDX], firmware=INTELTDX), *measured([ENCLAVE], image, b"")]
    data = to_statement(found, {Digest.of(IMAGE): "products/uki.efi", Digest.of(image): "products/image.eif"})
    read = from_statement(intoto.parse(data))
    assert [(one.platform, one.values, one.firmware, one.waived) for one in read] == [
        (one.platform, one.values, one.firmware, one.waived) for one in found
    ]


def test_the_guests_init_sends_the_heartbeat_that_is_looked_for():
    init = (ROOT / "nix/images/guest/init").read_text()
    assert attestable.HEARTBEAT in init
    assert (ROOT / "pipeline/tallystick/attester/heartbeat.py").is_file()
    assert init.index("insmod") < init.index(attestable.HEARTBEAT) < init.index("tallystick.attester.guest")


def test_the_kernel_of_the_made_image_is_not_the_image():
    assert kernel() in IMAGE
