"""AWS Nitro Enclaves release tuples: the enclave image alone determines PCR0, 1, 2 and 8."""

from __future__ import annotations

from collections.abc import Sequence

from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse
from tallystick.formats import eif
from tallystick.measure import attestable, nitro
from tallystick.measure.records import NO_FIRMWARE, Event, Measurement
from tallystick.measure.shapes import LaunchShape

PLATFORM, EVIDENCE_KIND = "aws-nitro", "nitro"
SHAPE = (("vmm", "nitro"),)


def measure(
    image: bytes,
    firmware: bytes,
    shapes: Sequence[LaunchShape],
    init_data: Digest | None,
    calculator: str,
) -> tuple[Measurement, ...]:
    """Return one tuple for each shape. Init-data has no register here: an enclave is bound to none by its launch.

    Raises:
        Unsupported: an image that could not attest in an enclave. Malformed: the image breaks its format.
        Misuse: a shape with other names, or a firmware.
    """
    if firmware:
        raise Misuse("an enclave starts without firmware", code="shape.firmware")
    for shape in shapes:
        if shape.values != SHAPE:
            raise Misuse(f"launch shape of {PLATFORM}: want vmm nitro alone", code="shape.names")
    parsed = eif.parse(image)
    attestable.check_eif(parsed)
    found = nitro.pcrs(parsed)
    values = {"pcr0": found.pcr0, "pcr1": found.pcr1, "pcr2": found.pcr2, "pcr8": found.pcr8}
    return tuple(
        Measurement(
            platform=PLATFORM,
            evidence_kind=EVIDENCE_KIND,
            image=Digest.of(image),
            firmware=NO_FIRMWARE,
            shape=shape.values,
            values=tuple((name, value.hex) for name, value in sorted(values.items())),
            waived=(),
            events=tuple(
                Event(
                    register=int(name[3:]),
                    digest=value,
                    what="extended once: `tally measure nitro --explain`",
                )
                for name, value in sorted(values.items())
            ),
            calculator=calculator,
        )
        for shape in shapes
    )
