"""Whether an image could attest on a platform at all. One that could not is refused before anything is measured.

Every machine of such a release would start, be measured, and have no way to say so: the key never comes, and
nothing in the prediction shows why.

Source: Linux 6.12, drivers/virt/coco/{sev-guest,tdx-guest}, drivers/misc/nsm.c, drivers/virtio/virtio_mmio.c;
aws/aws-nitro-enclaves-sdk-bootstrap, init/init.c (the heartbeat).
"""

from __future__ import annotations

from collections.abc import Mapping

from tallystick.core.errors import Unsupported
from tallystick.formats import initramfs
from tallystick.formats.eif import Eif, Kind
from tallystick.formats.uki import Uki

MODULES = "usr/lib/modules/"
HEARTBEAT = "tallystick.attester.heartbeat"
_HEARTBEAT_FILES = tuple(f"usr/lib/tallystick/tallystick/attester/heartbeat.{end}" for end in ("py", "pyc"))
# platform -> modules that its evidence needs, by the names the kernel has for them
_DRIVERS = {
    "amd-sev-snp": ("sev_guest", "tsm"),
    "intel-tdx": ("tdx_guest", "tsm"),
    "aws-nitro": ("nsm", "virtio_mmio", "vmw_vsock_virtio_transport"),
}
# An enclave's devices are named on the kernel's command line. A virtio_mmio that reads them registers this device
# (vm_cmdline_parent, CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES).
_FROM_COMMAND_LINE = b"virtio-mmio-cmdline"

Files = Mapping[str, memoryview]


def check_uki(uki: Uki, platform: str) -> None:
    """Check that the image has the guest driver of ``platform``.

    Raises:
        Unsupported: a driver is not among the modules of the initramfs (``measure.no-guest-driver``).
        Malformed: the initramfs breaks its format.
    """
    _check_drivers(_files(uki.sections.get(".initrd", memoryview(b""))), platform)


def check_eif(image: Eif) -> None:
    """Check that the enclave image has the drivers of an enclave, finds its devices and sends the heartbeat.

    Raises:
        Unsupported: one of them is missing (``measure.no-guest-driver``, ``measure.no-heartbeat``).
        Malformed: a ramdisk breaks its format.
    """
    files: dict[str, memoryview] = {}
    for ramdisk in image.every(Kind.RAMDISK):
        files |= _files(ramdisk)
    _check_drivers(files, "aws-nitro")
    if _FROM_COMMAND_LINE not in bytes(files[f"{MODULES}virtio_mmio.ko"]):
        raise Unsupported(
            "aws-nitro image",
            at="module virtio_mmio",
            want="one that takes devices from the command line (CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES), where an"
            " enclave's are named",
            got="one that does not",
            code="measure.no-guest-driver",
        )
    init = bytes(files.get("init", files.get("sbin/init", memoryview(b""))))
    if HEARTBEAT.encode() not in init or not any(name in files for name in _HEARTBEAT_FILES):
        raise Unsupported(
            "aws-nitro image",
            at="init",
            want=f"the heartbeat on vsock ({HEARTBEAT}), without which the enclave is ended",
            got="none",
            code="measure.no-heartbeat",
        )


def _files(ramdisk: memoryview) -> dict[str, memoryview]:
    return {entry.path: entry.data for entry in initramfs.read(ramdisk).entries} if len(ramdisk) else {}


def _check_drivers(files: Files, platform: str) -> None:
    there = {path.removeprefix(MODULES).removesuffix(".ko") for path in files if path.startswith(MODULES)}
    for driver in _DRIVERS[platform]:
        if driver not in there:
            raise Unsupported(
                f"{platform} image",
                at=f"module {driver}",
                want=f"the guest driver in {MODULES} of the initramfs; without it no machine can attest",
                got="none",
                code="measure.no-guest-driver",
            )
