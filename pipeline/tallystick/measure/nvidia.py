"""NVIDIA GPUs and NVSwitches: reference values out of manifests (RIM files) that were verified before.

A device's measurements are not predicted: its maker measured its firmware, and signs what each index may be. A policy
therefore names the manifests by digest and asks for their result (``measres``), rather than repeating their values, of
which an index may have several.

Source: NVIDIA/attestation-sdk, src/gpu/verify.cpp, for how a driver's and a VBIOS's manifest go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse
from tallystick.formats.rim import Rim, RimMeasurement

_KINDS = {"GPU": "nvidia-gpu", "SWITCH": "nvidia-switch"}
_CLAIMS = {  # (edition, source) -> claim of the version, claim of the manifest's digest
    ("GPU", "driver"): ("x-nvidia-gpu-driver-version", "x-nvidia-gpu-driver-rim-digest"),
    ("GPU", "vbios"): ("x-nvidia-gpu-vbios-version", "x-nvidia-gpu-vbios-rim-digest"),
    ("SWITCH", "vbios"): ("x-nvidia-switch-bios-version", "x-nvidia-switch-bios-rim-digest"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceValues:
    """What one device must report."""

    kind: str  # "nvidia-gpu" or "nvidia-switch"
    measurements: tuple[RimMeasurement, ...]  # by SPDM's index, each with every value it may have
    claims: tuple[tuple[str, str], ...]  # what a policy asks for, sorted
    complete: bool  # a whole comparison needs no further manifest


def reference_values(manifests: Sequence[tuple[Rim, Digest]]) -> ReferenceValues:
    """Return what a device of these manifests must report.

    Args:
        manifests: one, or a GPU's driver and VBIOS, each with the SHA-256 of its file.

    Raises:
        Misuse: none, manifests of different products, two of one source, or an index in two of them.
    """
    if not manifests:
        raise Misuse("measure nvidia: no RIM", code="rim.none")
    editions = {(rim.edition, rim.product) for rim, _ in manifests}
    sources = [rim.source for rim, _ in manifests]
    if len(editions) > 1 or len(set(sources)) < len(sources):
        given = ", ".join(f"{rim.product} {rim.version}" for rim, _ in manifests)
        raise Misuse(f"measure nvidia: want one driver's and one VBIOS's RIM of one product, got {given}")
    edition = manifests[0][0].edition
    if any((edition, source) not in _CLAIMS for source in sources):
        raise Misuse(f"measure nvidia: a {edition} has no RIM of a {', '.join(sources)}")
    found: dict[int, RimMeasurement] = {}
    for rim, _ in manifests:
        for measurement in rim.active:
            if measurement.index in found:
                raise Misuse(f"measure nvidia: index {measurement.index} is active in both RIMs")
            found[measurement.index] = measurement
    claims = {"measres": "success"}
    for rim, digest in manifests:
        version, named = _CLAIMS[edition, rim.source]
        claims |= {version: rim.version, named: str(digest)}
    return ReferenceValues(
        kind=_KINDS[edition],
        measurements=tuple(found[index] for index in sorted(found)),
        claims=tuple(sorted(claims.items())),
        complete=len(manifests) == sum(one == edition for one, _ in _CLAIMS),
    )
