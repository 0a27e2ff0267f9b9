"""Predicted registers are the registers of real boots, and each thing a host may change moves what we say it moves."""

from __future__ import annotations

import pytest
from support_machine import boot, release_file
from support_pe import with_sections

from tallystick.measure import qemu
from tallystick.measure.predict import measure_release
from tallystick.measure.shapes import LaunchShape

pytestmark = pytest.mark.boot

CMDLINE = b"console=ttyS0 panic=-1"
BASE: dict[str, bytes | None] = {".cmdline": CMDLINE, ".initrd": b"no archive"}


@pytest.fixture(scope="module")
def firmware():
    return release_file("firmware/ovmf.fd")


@pytest.fixture(scope="module")
def product():
    return release_file("products/uki.efi").read_bytes()


def predicted(image: bytes, firmware, ram_mib: int = 512, vcpus: int = 1) -> tuple[str, ...]:
    shape = LaunchShape.of(qemu.PLATFORM, {"ram_mib": ram_mib, "vcpus": vcpus, "vmm": qemu.VMM})
    (one,) = measure_release(image, firmware.read_bytes(), [shape], None, "test")
    return tuple(value for _, value in qemu.pcr_claims(one.events))


def differing(want: tuple[str, ...], got: tuple[str, ...]) -> list[int]:
    return [number for number, pair in enumerate(zip(want, got, strict=True)) if pair[0] != pair[1]]


@pytest.mark.parametrize(
    ("ram_mib", "vcpus"),
    [
        (512, 1),
        (1024, 1),
        pytest.param(512, 2, marks=pytest.mark.soak),
        pytest.param(2560, 1, marks=pytest.mark.soak),
        (4096, 2),
    ],
    ids=lambda value: f"{value}",
)
def test_every_register_is_predicted_for_the_shape(product, firmware, tmp_path, ram_mib, vcpus):
    image = with_sections(product, BASE)
    path = tmp_path / "uki.efi"
    path.write_bytes(image)
    got = boot(path, firmware, tmp_path / "machine", ram_mib=ram_mib, vcpus=vcpus)
    assert differing(predicted(image, firmware, ram_mib, vcpus), got) == []


@pytest.mark.parametrize(
    "sections",
    [
        {".initrd": b"no archivf"},
        {".initrd": b"odd size"[:7]},
        {".initrd": None},
        pytest.param({".cmdline": CMDLINE + b" quiet loglevel=7 \n"}, marks=pytest.mark.soak),
        pytest.param({".osrel": b"ID=other\n"}, marks=pytest.mark.soak),
    ],
    ids=["one-byte", "odd", "no-initrd", "trailing-space", "osrel"],
)
def test_every_register_is_predicted_for_a_changed_image(product, firmware, tmp_path, sections):
    image = with_sections(product, BASE | sections)
    path = tmp_path / "uki.efi"
    path.write_bytes(image)
    got = boot(path, firmware, tmp_path / "machine")
    assert differing(predicted(image, firmware), got) == []


DISK = ("-drive", "file={disk},format=raw,if=none,id=d0", "-device", "virtio-blk-pci,drive=d0,bootindex=1")
HOST = {
    "data-disk": (DISK, []),
    "network": (("-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-pci,netdev=n0,romfile="), []),
    "option-rom": (("-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-pci,netdev=n0"), [2, 10]),
    "command-line": (("-append", "console=ttyS0 panic=-1 evil=1"), [9, 10, 12]),
    "same-command-line": (("-append", CMDLINE.decode()), [12]),
    "hot-plug-cpu": (("-smp", "1,maxcpus=2"), [0, 10]),
    "pci-window": (("-fw_cfg", "name=opt/ovmf/X-PciMmio64Mb,string=65536"), [0, 10]),
    "smbios": (("-smbios", "type=1,manufacturer=other"), []),
    "acpi-table": (("-acpitable", "sig=SSDT,data={disk}"), []),
}


RARE = {"network", "same-command-line", "smbios"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak if name in RARE else ()) for name in HOST]
)
def test_what_a_host_changes_moves_just_these_registers(product, firmware, tmp_path, name):
    """The empty lists are what this firmware does not measure (docs/decisions/0012)."""
    arguments, registers = HOST[name]
    image, disk = with_sections(product, BASE), tmp_path / "disk"
    (tmp_path / "uki.efi").write_bytes(image)
    disk.write_bytes(bytes(4096))
    more = [argument.format(disk=disk) for argument in arguments]
    got = boot(tmp_path / "uki.efi", firmware, tmp_path / "machine", more=more)
    assert differing(predicted(image, firmware), got) == registers
