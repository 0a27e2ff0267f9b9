"""AMD SEV-SNP release tuples: QEMU boots a unified kernel image directly, and the launch digest covers its hash.

``-kernel uki.efi`` with ``kernel-hashes=on`` and no ``-append``: the image holds initramfs and command line, so its
hash covers both; the other two hashes are of nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, Unsupported
from tallystick.formats import ovmf
from tallystick.formats import uki as uki_format
from tallystick.measure import attestable, snp
from tallystick.measure.records import Event, Measurement
from tallystick.measure.shapes import LaunchShape

PLATFORM, EVIDENCE_KIND = "amd-sev-snp", "snp-report"
SHAPE_NAMES = ("guest_features", "vcpu_type", "vcpus", "vmm")


def measure(
    image: bytes,
    firmware: bytes,
    shapes: Sequence[LaunchShape],
    init_data: Digest | None,
    calculator: str,
) -> tuple[Measurement, ...]:
    """Return one tuple for each shape. Firmware pages and shorter chains of vCPUs are hashed once for all.

    Args:
        image: the unified kernel image.
        init_data: SHA-256 of the init-data, which the host gives as HOST_DATA; without one HOST_DATA is zero.

    Raises:
        Unsupported: a firmware that does not measure the kernel's hash, an image without the guest driver, a VMM
            that does not start an image directly, or an unknown vCPU type.
        Malformed: firmware, image or shape breaks its format.
        Misuse: a shape with other names.
    """
    attestable.check_uki(uki_format.parse(image), PLATFORM)
    wanted = [machine(shape) for shape in shapes]
    launch = snp.launch_image(ovmf.parse(firmware))
    digests = snp.launch_digests(launch, wanted, snp.KernelHashes.of(image, b"", ""))
    measured, firmware_digest = Digest.of(image), Digest.of(firmware)
    host_data = "0" * 64 if init_data is None else init_data.hex
    return tuple(
        Measurement(
            platform=PLATFORM,
            evidence_kind=EVIDENCE_KIND,
            image=measured,
            firmware=firmware_digest,
            shape=shape.values,
            values=(("init_data", host_data), ("measurement", digest.hex)),
            waived=(),
            events=(Event(register=0, digest=digest, what="launch digest; `tally measure snp --explain`"),),
            calculator=calculator,
        )
        for shape, digest in zip(shapes, digests, strict=True)
    )


def machine(shape: LaunchShape) -> snp.SnpShape:
    """Return what ``shape`` says of the launch.

    Raises:
        Misuse: a name is missing or unknown, or a value of another type.
        Malformed, Unsupported: as :class:`snp.SnpShape` and :func:`snp.vcpu_signature`, or another VMM.
    """
    values = dict(shape.values)
    if sorted(values) != sorted(SHAPE_NAMES):
        raise Misuse(
            f"launch shape of {PLATFORM}: want {', '.join(SHAPE_NAMES)}, got {', '.join(sorted(values))}",
            code="shape.names",
        )
    if values["vmm"] != "qemu":
        raise Unsupported(
            "launch shape",
            at="vmm",
            want="qemu: elsewhere the launch digest covers the firmware and not the image",
            got=str(values["vmm"]),
        )
    vcpus, features = values["vcpus"], values["guest_features"]
    if type(vcpus) is not int or type(features) is not int:
        raise Misuse(
            f"launch shape of {PLATFORM}: vcpus and guest_features are whole numbers", code="shape.type"
        )
    return snp.SnpShape(
        vcpus=vcpus, vcpu_signature=snp.vcpu_signature(str(values["vcpu_type"])), guest_features=features
    )
