"""How a claim of ours is a measurement in a CoRIM: its path is the key, its type says which value it has.

docs/targets.md has the table. A digest is a digest; a minimum is a min-svn; text and truth are raw bytes.
"""

from __future__ import annotations

from typing import Any

import cbor2

from tallystick.core.expect import AtLeast, Exactly, Expect, Scalar
from tallystick.formats.corim import HASHES, MIN_SVN, RAW_BYTES, SVN
from tallystick.policy.platforms import ClaimType, known_platform

VERSION, SVN_VALUE, DIGESTS, FLAGS, RAW = 0, 1, 2, 3, 4  # numbers of measurement-values-map
IS_DEBUG = 3  # of flags-map
_BY_SIZE = {size: number for number, (_, size) in HASHES.items()}
_DIGESTS = (ClaimType.SHA256, ClaimType.SHA384, ClaimType.OCI_DIGEST, ClaimType.REALM)
VENDORS = {
    "amd-sev-snp": "AMD",
    "azure-aci": "Microsoft",
    "intel-tdx": "Intel",
    "intel-sgx": "Intel",
    "aws-nitro": "AWS",
    "nitro-tpm": "AWS",
    "arm-cca": "Arm",
    "azure-snp-vtpm": "Microsoft",
    "azure-tdx-vtpm": "Microsoft",
    "gcp-confidential-space": "Google",
    "qemu-vtpm": "QEMU",
}


def environment(platform: str) -> dict[int, Any]:
    """Return the environment of a platform's machines: a class of vendor and model."""
    return {0: {1: VENDORS[platform], 2: platform}}


def says(platform: str, path: str, expect: Expect) -> bool:
    """Say whether a measurement has words for ``expect`` of a claim."""
    known = known_platform(platform)
    kind = known.claim_type(path) if known else None
    if isinstance(expect, AtLeast):
        return expect.minimum >= 0
    return isinstance(expect, Exactly) and kind is not None and kind is not ClaimType.TEXTS


def values(platform: str, path: str, expect: Expect) -> dict[int, Any]:
    """Return the measurement values that stand for ``expect``; ValueError where :func:`says` is False."""
    if isinstance(expect, AtLeast):
        return {SVN_VALUE: cbor2.CBORTag(MIN_SVN, expect.minimum)}
    if isinstance(expect, Exactly):
        found = measured(platform, path, expect.value)
        if found is not None:
            return found
    raise ValueError(f"{type(expect).__name__} of {path} has no words here")


def measured(platform: str, path: str, value: Scalar) -> dict[int, Any] | None:
    """Return what a Verifier measures for a claim; None for a value that is none of the claim's type."""
    known = known_platform(platform)
    kind = known.claim_type(path) if known else None
    if known is None or kind is None or not kind.holds(value):
        return None
    if isinstance(value, bool):
        if any(path == name for name, _ in known.debug_off):
            return {FLAGS: {IS_DEBUG: value}}
        return {RAW: cbor2.CBORTag(RAW_BYTES, bytes([value]))}
    if isinstance(value, int):
        return {SVN_VALUE: cbor2.CBORTag(SVN, value)}
    if kind in _DIGESTS:
        raw = bytes.fromhex(value.removeprefix("sha256:"))
        return {DIGESTS: [[_BY_SIZE[len(raw)], raw]]}
    if kind is ClaimType.TEXT:
        return {RAW: cbor2.CBORTag(RAW_BYTES, value.encode("utf-8"))}
    return {RAW: cbor2.CBORTag(RAW_BYTES, bytes.fromhex(value))}
