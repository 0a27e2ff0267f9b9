"""What the options of ``tally measure snp`` mean. Free of the command-line library: cli/quick.py uses it too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.measure.snp import SnpShape


def number(text: str, option: str) -> int:
    """Return the number that ``text`` is, in any of Python's bases."""
    try:
        return int(text, 0)
    except ValueError:
        raise Misuse(f"{option}: want a number such as 2 or 0x21, got {text[:40]}") from None


def snp_shapes(vcpus: str, vcpu_type: str, vcpu_sig: str, vmm: str, guest_features: str) -> list[SnpShape]:
    """Return every combination of the options' values: types and signatures first, then counts."""
    from tallystick.measure.snp import SnpShape, Vmm, vcpu_signature

    try:
        monitor = Vmm(vmm.lower())
    except ValueError:
        raise Misuse(f"--vmm: want qemu, ec2 or gce, got {vmm[:40]}") from None
    signatures = [vcpu_signature(name) for name in vcpu_type.split(",") if name]
    signatures += [number(value, "--vcpu-sig") for value in vcpu_sig.split(",") if value]
    if not signatures:
        if monitor is Vmm.QEMU:
            raise Misuse("--vcpu-type or --vcpu-sig: QEMU puts the vCPU's signature into the digest")
        signatures = [0]
    features = number(guest_features, "--guest-features")
    counts = [number(count, "--vcpus") for count in vcpus.split(",")]
    return [
        SnpShape(vcpus=count, vcpu_signature=signature, guest_features=features, vmm=monitor)
        for signature in signatures
        for count in counts
    ]


def snp_document(shapes: Sequence[SnpShape], values: Sequence[str]) -> dict[str, Any]:
    """Return the measurements as ``--json`` prints them: one, or a row for each shape."""
    if len(shapes) == 1:
        return {"measurement": values[0]}
    return {
        "measurements": [
            {"vcpus": s.vcpus, "vcpu_signature": s.vcpu_signature, "vmm": s.vmm.value, "measurement": value}
            for s, value in zip(shapes, values, strict=True)
        ]
    }
