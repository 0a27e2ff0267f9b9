"""A predicted launch measurement: the Reference Values of one image on one platform and launch shape."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tallystick.core.digests import Digest

# What a tuple names where the platform starts the image itself: the digest of no bytes at all.
NO_FIRMWARE = Digest.of(b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One step of a measured boot: what was extended into which register."""

    register: int  # PCR or RTMR number
    digest: Digest
    what: str  # for people: "EV_S_CRTM_VERSION (empty)"


@dataclass(frozen=True, slots=True, kw_only=True)
class WaivedRegister:
    """A register that is deliberately not pinned, and whose decision that is."""

    name: str  # "pcr10"
    decision: str  # "docs/decisions/0005-pcr-10.md"
    decided_by: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One release tuple: all Reference Values of one image on one platform and shape, kept together."""

    platform: str  # "qemu-vtpm"; names the module that predicts and the evidence kind that must match
    evidence_kind: str  # "tpm-quote"
    image: Digest  # sha256 of the measured image file
    firmware: Digest  # sha256 of the firmware file, or NO_FIRMWARE
    shape: tuple[tuple[str, int | str], ...]  # sorted: (("ram_mib", 512), ("vcpus", 1), ("vmm", "qemu"))
    values: tuple[tuple[str, str], ...]  # claim name -> lower-case hex, sorted: (("pcr00", "…"), …)
    waived: tuple[WaivedRegister, ...]
    events: tuple[Event, ...]  # how the values came to be; not part of the signed tuple
    calculator: str  # "tallystick 0.1.0"
