"""dstack's attestation container: a SCALE-encoded enum around the hardware's own evidence.

Source: Dstack-TEE/dstack, dstack-attest, VersionedAttestation::V0; SCALE compact lengths as Substrate defines them.
"""

from __future__ import annotations

_VERSION = 0


def unwrapped(data: bytes) -> bytes:
    """Return the evidence inside a V0 container, or ``data`` itself when it is no container.

    What follows the evidence (the machine's own configuration) is not signed by hardware and is left behind.
    """
    if len(data) < 4 or data[0] != _VERSION or data[1] > 4 or data[2] & 3 != 1:
        return data
    size = int.from_bytes(data[2:4], "little") >> 2  # compact mode 1: 14 bits in two bytes
    return data[4 : 4 + size] if 64 <= size <= len(data) - 4 else data
