"""The measurements of a release: one tuple for each platform and shape that its recipe names."""

from __future__ import annotations

from collections.abc import Sequence

from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, Unsupported
from tallystick.formats import uki as uki_format
from tallystick.measure import qemu
from tallystick.measure.records import Measurement
from tallystick.measure.shapes import LaunchShape
from tallystick.measure.uki import image_events

PLATFORMS = (qemu.PLATFORM,)


def measure_release(
    image: bytes,
    firmware: bytes,
    platforms: Sequence[LaunchShape],
    init_data: Digest | None,
    calculator: str,
) -> tuple[Measurement, ...]:
    """Return the release tuples of the UKI ``image`` under ``firmware``, in the order of ``platforms``.

    Each byte is hashed once for each digest that holds it, however many shapes there are.

    Args:
        init_data: SHA-256 of the init-data document, or None when the guest gets none (PCR 8 stays zero).
        calculator: who says so: ``tallystick 0.1.0``.

    Raises:
        Misuse: no platform, or one twice with the same shape.
        Malformed: the image or the firmware breaks its format.
        Unsupported: a platform, stub, section or firmware that is not known.
    """
    if not platforms or len(set(platforms)) != len(platforms):
        raise Misuse("platforms: want at least one, each once", code="platforms.none-or-twice")
    for shape in platforms:
        if shape.platform not in PLATFORMS:
            raise Unsupported(
                "measure", at="platform", want="one of " + ", ".join(PLATFORMS), got=shape.platform
            )
        qemu.machine(shape)
    events = image_events(uki_format.parse(image))
    measured = qemu.MeasuredFirmware.of(firmware)
    digest = Digest.of(image)
    return tuple(
        qemu.measurement(events, digest, measured, shape, init_data, calculator) for shape in platforms
    )
