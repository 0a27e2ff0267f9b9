"""Why an SNP report's MEASUREMENT is not the predicted one: by search, since no log says what was launched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

from tallystick.core.digests import Digest
from tallystick.measure.causes import Cause, How, Unexplained, Where
from tallystick.measure.snp import (
    MAX_VCPUS,
    VCPU_TYPES,
    KernelHashes,
    LaunchImage,
    SnpShape,
    Vmm,
    digest_chain,
)

VALUE = "measurement"
# SEV_FEATURES that a hypervisor may set beside bit 0 (AMD APM Vol. 2, table B-4, 3B0h): 1 vTOM to 17.
_OPTIONAL_FEATURES = range(1, 18)
_REASON = "no launch shape of the released firmware and image leads to it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What was predicted, and the firmware files that may have been launched instead."""

    firmware: Digest
    images: Mapping[Digest, LaunchImage]  # by the firmware file's SHA-256; the released one is among them
    hashes: KernelHashes | None
    shapes: tuple[SnpShape, ...]  # the released ones, of this image and firmware


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    firmware: Digest
    direct_boot: bool
    shape: SnpShape


def explain(expected: Expected, seen: bytes) -> tuple[int, tuple[Cause, ...], tuple[Unexplained, ...]]:
    """Return which released shape is nearest to the launch with the MEASUREMENT ``seen``, and what differs from it.

    Of several launches that lead to it, because some input does not count there, the one with the fewest
    differences is named. Where none does it stays unexplained.
    """
    found = [
        (number, _causes(expected, own, candidate))
        for candidate in _candidates(expected, seen)
        for number, own in enumerate(expected.shapes)
    ]
    if not found:
        return 0, (), (Unexplained(values=(VALUE,), reason=_REASON),)
    return *min(found, key=lambda pair: len(pair[1])), ()


def _candidates(expected: Expected, seen: bytes) -> Iterator[_Candidate]:
    """Give every launch of the matrix whose digest is ``seen``."""
    signatures = sorted({*(own.vcpu_signature for own in expected.shapes), *VCPU_TYPES.values()})
    features_known = sorted({bits for own in expected.shapes for bits in _feature_sets(own.guest_features)})
    for firmware, image in expected.images.items():
        for hashes in dict.fromkeys((expected.hashes, None)):
            for vmm in Vmm:
                for signature in signatures if vmm is Vmm.QEMU else signatures[:1]:
                    for features in features_known:
                        most = SnpShape(
                            vcpus=MAX_VCPUS, vcpu_signature=signature, guest_features=features, vmm=vmm
                        )
                        chain = digest_chain(image, most, hashes)
                        if seen in chain:
                            shape = replace(most, vcpus=chain.index(seen) + 1)
                            yield _Candidate(firmware=firmware, direct_boot=hashes is not None, shape=shape)


def _feature_sets(own: int) -> list[int]:
    bits = [1 << bit for bit in _OPTIONAL_FEATURES]
    sets = {own, 1, *(own ^ bit for bit in bits), *(1 | bit for bit in bits)}
    sets |= {1 | first | second for first, second in combinations(bits, 2) if 0x20 in (first, second)}
    return sorted(sets)


def _causes(expected: Expected, own: SnpShape, found: _Candidate) -> tuple[Cause, ...]:
    shape = found.shape
    if shape.vmm is not Vmm.QEMU:  # which sets the type's register itself: it does not count there
        shape = replace(shape, vcpu_signature=own.vcpu_signature)
    changes = (
        ("firmware", str(expected.firmware), str(found.firmware)),
        ("direct-boot", _said(expected.hashes is not None), _said(found.direct_boot)),
        ("vmm", own.vmm.value, shape.vmm.value),
        ("vcpus", str(own.vcpus), str(shape.vcpus)),
        ("vcpu_type", type_name(own.vcpu_signature), type_name(shape.vcpu_signature)),
        ("guest_features", hex(own.guest_features), hex(shape.guest_features)),
    )
    return tuple(
        Cause(
            where=Where.HOST, kind=name, name=name, before=before, after=after, moves=(VALUE,), how=How.SEARCH
        )
        for name, before, after in changes
        if before != after
    )


def type_name(signature: int) -> str:
    """Return the vCPU types with this CPUID signature by their family's name; the signature alone if none has it."""
    name = next((name for name, value in VCPU_TYPES.items() if value == signature), "")
    return f"{name} ({signature:#x})" if name else f"{signature:#x}"


def _said(direct: bool) -> str:  # noqa: FBT001
    return "with kernel hashes" if direct else "without"
