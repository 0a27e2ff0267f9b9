"""NVIDIA's signed reference values: a RIM file whose signature and chain hold, and what a device's report makes of it.

Source: NVIDIA/attestation-sdk, src/gpu/verify.cpp and src/switch/verify.cpp, for which indices are compared: every
active one of the driver's and the VBIOS's manifest, none of which may be active in both; index 35 (as RIMs count) only
when the report says that NVDEC0 is enabled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tallystick.core import jsondoc
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, TallystickError
from tallystick.evidence import roots, xml_signature
from tallystick.evidence.chain import Chain, common_name
from tallystick.formats import canonical_base64, safexml
from tallystick.formats import rim as rim_format
from tallystick.formats.rim import Rim, RimMeasurement

_ROOT = "NVIDIA-CoRIM-Signing-Root-CA"
NVDEC0_INDEX = 36  # as SPDM counts; 35 in the manifest
CODE = "nvidia.rim"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedRim:
    """A manifest that NVIDIA signed. Valid only inside the chain's window."""

    rim: Rim
    chain: Chain
    names: tuple[str, ...]  # of the chain's certificates
    digest: Digest  # sha256 of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One active measurement of a manifest that the report has not, or has otherwise."""

    source: str  # "driver" or "vbios"
    reference: RimMeasurement
    reported: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A report beside every active measurement of its manifests."""

    compared: int
    mismatches: tuple[Mismatch, ...]  # by index


def is_rim(data: bytes) -> bool:
    """Whether ``data`` looks like a manifest, or like the answer of NVIDIA's RIM service."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    return start.startswith(b"<") or (start.startswith(b"{") and b'"rim"' in data)


@lru_cache(maxsize=64)
def verify(data: bytes) -> VerifiedRim:
    """Return the manifest in ``data`` when its signature and chain hold; cached by its bytes. Dates are the caller's.

    Args:
        data: the XML file, or the RIM service's JSON around it.

    Raises:
        Malformed, Unsupported: bytes that are no manifest of NVIDIA's form.
        NotGenuine: not signed, not by NVIDIA, or changed.
    """
    document = _unwrapped(data)
    root = safexml.parse(document, "RIM")
    signed = xml_signature.verify(root, [roots.certificate(_ROOT)], "RIM", CODE)
    names = tuple(map(common_name, signed.chain.certificates))
    return VerifiedRim(
        rim=rim_format.read(signed.root), chain=signed.chain, names=names, digest=Digest.of(document)
    )


def signers(data: bytes) -> Chain | None:
    """Return the chain in ``data``, for its dates alone, when nothing else of the manifest need hold; else None."""
    try:
        root = safexml.parse(_unwrapped(data), "RIM")
        return xml_signature.signers(root, [roots.certificate(_ROOT)], "RIM", CODE)
    except TallystickError:
        return None


def _unwrapped(data: bytes) -> bytes:
    """Return the XML: the RIM service answers with {"id", "rim": base64, …}, of which only the signed part counts."""
    if not data.lstrip().startswith(b"{"):
        return data.removeprefix(b"\xef\xbb\xbf")
    answer = jsondoc.loads(data, "RIM service's answer", max_bytes=2 * safexml.MAX_BYTES)
    if not isinstance(answer, dict) or not isinstance(answer.get("rim"), str):
        raise Malformed("RIM service's answer", at="rim", want="base64 text", got=type(answer).__name__)
    return canonical_base64.decode(answer["rim"], "RIM service's answer", "rim")


def compare(rims: Sequence[Rim], measurements: Mapping[int, bytes], *, nvdec0_disabled: bool) -> Comparison:
    """Return what comes of every comparison that ``rims`` ask for.

    Args:
        measurements: the report's values by SPDM's index.
        nvdec0_disabled: the report says so; its measurement then stays out.
    """
    compared = 0
    wrong: list[Mismatch] = []
    for rim in rims:
        for reference in rim.active:
            if nvdec0_disabled and reference.index == NVDEC0_INDEX:
                continue
            compared += 1
            reported = measurements.get(reference.index)
            if reported not in reference.values:
                wrong.append(Mismatch(source=rim.source, reference=reference, reported=reported))
    return Comparison(compared=compared, mismatches=tuple(sorted(wrong, key=lambda one: one.reference.index)))
