"""The measurements of a release: one tuple for each platform and shape that its recipe names."""

from __future__ import annotations

from collections.abc import Sequence

from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, Unsupported
from tallystick.measure import enclave, qemu, snp_boot, tdx_boot
from tallystick.measure.records import Measurement
from tallystick.measure.shapes import LaunchShape

_MEASURES = {
    qemu.PLATFORM: qemu.measure,
    snp_boot.PLATFORM: snp_boot.measure,
    tdx_boot.PLATFORM: tdx_boot.measure,
    enclave.PLATFORM: enclave.measure,
}
PLATFORMS = tuple(_MEASURES)


def measure_release(
    image: bytes,
    firmware: bytes,
    platforms: Sequence[LaunchShape],
    init_data: Digest | None,
    calculator: str,
) -> tuple[Measurement, ...]:
    """Return the release tuples of ``image`` under ``firmware``, in the order of ``platforms``.

    Each byte is hashed once for each digest that holds it, however many shapes there are.

    Args:
        image: the file that the platforms start: a unified kernel image, or an EIF.
        firmware: of the machine; empty where the platform needs none.
        platforms: of one platform each, or of several that start the same image under the same firmware.
        init_data: SHA-256 of the init-data document, or None when the guest gets none.
        calculator: who says so: ``tallystick 0.1.0``.

    Raises:
        Misuse: no platform, or one twice with the same shape.
        Malformed: the image or the firmware breaks its format.
        Unsupported: a platform, stub, section or firmware that is not known, a firmware that does not measure the
            image, or an image that could not attest there.
    """
    if not platforms or len(set(platforms)) != len(platforms):
        raise Misuse("platforms: want at least one, each once", code="platforms.none-or-twice")
    by_platform: dict[str, list[LaunchShape]] = {}
    for shape in platforms:
        if shape.platform not in _MEASURES:
            raise Unsupported(
                "measure", at="platform", want="one of " + ", ".join(PLATFORMS), got=shape.platform
            )
        by_platform.setdefault(shape.platform, []).append(shape)
    found = {
        (one.platform, one.shape): one
        for name, shapes in by_platform.items()
        for one in _MEASURES[name](image, firmware, shapes, init_data, calculator)
    }
    return tuple(found[shape.platform, shape.values] for shape in platforms)
