"""How a measurement register grows, and the registers that a list of events leaves behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from tallystick.core.digests import Algorithm, Digest
from tallystick.measure.records import Event

PCR_COUNT = 16  # PCR 0 to 15: what a boot extends; 16 to 23 are for debuggers and late launch


def extend(register: Digest, event: Digest) -> Digest:
    """Return ``register`` after one extend: ``H(register || event)``.

    Source: TPM 2.0 Library, Part 3, TPM2_PCR_Extend. A TDX RTMR grows the same way, with SHA-384.

    Args:
        register: the value before this event.
        event: digest of the event's data, made with the register's own algorithm.

    Raises:
        ValueError: the algorithms differ. A caller's bug, so not a TallystickError.
    """
    if register.algorithm is not event.algorithm:
        raise ValueError(f"cannot extend {register.algorithm.label} by {event.algorithm.label}")
    return Digest.of(register.value + event.value, register.algorithm)


def initial(algorithm: Algorithm = Algorithm.SHA256) -> Digest:
    """Return what PCR 0 to 15 hold before their first event: zeros."""
    return Digest(algorithm, bytes(algorithm.size_bytes))


def replay(
    events: Iterable[Event], count: int = PCR_COUNT, algorithm: Algorithm = Algorithm.SHA256
) -> Mapping[int, Digest]:
    """Return the first ``count`` registers, numbered from 0, after ``events``."""
    registers = dict.fromkeys(range(count), initial(algorithm))
    for event in events:
        registers[event.register] = extend(registers[event.register], event.digest)
    return MappingProxyType(registers)
