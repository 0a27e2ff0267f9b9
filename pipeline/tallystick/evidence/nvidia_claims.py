"""The claims of one NVIDIA device: names as Trustee's local verifier gives them, then those of NVIDIA's own tokens.

What Trustee has: ``arch``, ``measurements``, ``config``. Its ``uuid`` is what the sender wrote beside the evidence,
which nothing signs, so it is no claim here. What NVIDIA's tokens (version 3.0) have: ``measres`` and everything
``x-nvidia-``. What neither has: ``chip``, ``fwid`` (of the certificate), ``pdi``, ``measurements_compared`` and
``measurements_matched``.

Source: confidential-containers/trustee, deps/verifier/src/nvidia/mod.rs; NVIDIA/attestation-sdk,
src/gpu/claims.cpp, src/switch/claims.cpp and include/nv_attestation/claims.h; RFC 9711, 4.2.16 for ``measres``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tallystick.evidence.chain import Chain
from tallystick.evidence.nvidia_device import GPU, DeviceKey
from tallystick.evidence.rim import Comparison, Mismatch, VerifiedRim
from tallystick.formats.spdm import Report

_SOURCES = {"driver": "Driver", "vbios": "Firmware"}  # as NVIDIA names them in mismatch records
_RIM_NAMES = {GPU: {"driver": "driver", "vbios": "vbios"}, "switch": {"vbios": "bios"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """What was said about a chain: by OCSP responses for every certificate that is asked about, or not."""

    ocsp_good: bool
    until: datetime | None  # the first nextUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One device whose report is genuine, with everything that its claims are made of."""

    report: Report
    key: DeviceKey
    fields: Mapping[str, Any]  # formats/nvidia_opaque.py
    rims: tuple[VerifiedRim, ...]  # those for this device; one of each source at most
    comparison: Comparison
    revocation: Revocation
    rim_revocations: tuple[Revocation, ...]  # in the order of ``rims``
    nonce_given: bool  # and therefore equal

    @property
    def wanted(self) -> tuple[str, ...]:
        """Which manifests a whole comparison needs."""
        return tuple(_RIM_NAMES[self.key.device_class])

    @property
    def measres(self) -> str:
        """The result over all indices: a part that was not compared is not a success."""
        if self.comparison.mismatches:
            return "fail"
        return "success" if {v.rim.source for v in self.rims} >= set(self.wanted) else "not-run"


def device_claims(device: Judged) -> dict[str, Any]:
    """Return everything one device claims; what is not known is left out, so that no policy can match it."""
    key, kind = device.key, device.key.device_class
    values: dict[str, Any] = {
        "arch": key.arch,
        "chip": key.chip,
        "measurements": {str(index): value.hex() for index, value in device.report.measurements.items()},
        "config": dict(device.fields),
        "fwid": key.fwid.hex(),
        "pdi": key.pdi,
        "hwmodel": key.hwmodel,
        "ueid": key.ueid,
        "eat_nonce": device.report.nonce.hex(),
        "x-nvidia-device-type": "gpu" if kind == GPU else "nvswitch",
        f"x-nvidia-{kind}-arch-check": True,
        f"x-nvidia-{kind}-attestation-report-parsed": True,
        f"x-nvidia-{kind}-attestation-report-signature-verified": True,
        f"x-nvidia-{kind}-attestation-report-cert-chain": _chain(key.chain, device.revocation),
        f"x-nvidia-{kind}-attestation-report-cert-chain-fwid-match": "fwid" in device.fields or None,
        f"x-nvidia-{kind}-attestation-report-nonce-match": device.nonce_given or None,
    }
    values |= _gpu(device.fields) if kind == GPU else _switch(device.fields)
    values |= _comparison(device)
    for name in device.wanted:
        values |= _rim(f"x-nvidia-{kind}-{_RIM_NAMES[kind][name]}-rim", name, device)
    return {name: value for name, value in values.items() if value is not None}


def _gpu(fields: Mapping[str, Any]) -> dict[str, Any]:
    pdis = fields.get("switch_pdi")
    mode = fields.get("feature_flag")
    vbios = fields.get("vbios_version")
    return {
        "x-nvidia-gpu-driver-version": fields.get("driver_version"),
        "x-nvidia-gpu-vbios-version": None if vbios is None else vbios.upper(),
        # the GPU lists them byte-reversed; a switch's own PDI reads forwards
        "x-nvidia-gpu-switch-pdis": None if pdis is None else sorted({_reversed(p) for p in pdis}),
        "x-nvidia-gpu-mode": None if mode is None else mode.lower(),
    }


def _switch(fields: Mapping[str, Any]) -> dict[str, Any]:
    pdi, gpus = fields.get("device_pdi"), fields.get("switch_gpu_pdis")
    return {
        "x-nvidia-switch-bios-version": fields.get("vbios_version"),
        "x-nvidia-switch-pdi": None if pdi is None else pdi.upper(),
        "x-nvidia-switch-gpu-pdis": None if gpus is None else sorted({p.upper() for p in gpus}),
    }


def _reversed(identifier: str) -> str:
    return bytes.fromhex(identifier)[::-1].hex().upper()


def _comparison(device: Judged) -> dict[str, Any]:
    """Return the result of the comparison; ``secboot`` and ``dbgstat`` follow from it, as in NVIDIA's verifier."""
    result = device.measres
    compared, wrong = device.comparison.compared, device.comparison.mismatches
    success = result == "success"
    return {
        "measres": result,
        "secboot": True if success else None,
        "dbgstat": "disabled" if success else None,
        "measurements_compared": compared,
        "measurements_matched": compared - len(wrong),
        "x-nvidia-mismatch-measurement-records": [_record(one) for one in wrong] or None,
        "oemid": device.rims[0].rim.manufacturer_id if device.rims else None,
    }


def _record(one: Mismatch) -> dict[str, Any]:
    """Return a mismatch as NVIDIA's tokens have it; its index counts from 0."""
    golden = one.reference.values[0]
    return {
        "index": one.reference.index - 1,
        "goldenSize": len(golden),
        "goldenValue": golden.hex(),
        "runtimeSize": 0 if one.reported is None else len(one.reported),
        "runtimeValue": "NA" if one.reported is None else one.reported.hex(),
        "measurementSource": _SOURCES[one.source],
    }


def _rim(prefix: str, source: str, device: Judged) -> dict[str, Any]:
    for verified, revocation in zip(device.rims, device.rim_revocations, strict=True):
        if verified.rim.source == source:
            return {
                f"{prefix}-fetched": True,
                f"{prefix}-signature-verified": True,
                f"{prefix}-version-match": True,
                f"{prefix}-measurements-available": True,
                f"{prefix}-cert-chain": _chain(verified.chain, revocation),
                f"{prefix}-digest": str(verified.digest),
            }
    return {f"{prefix}-fetched": False}


def _chain(chain: Chain, revocation: Revocation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "x-nvidia-cert-status": "valid",
        "x-nvidia-cert-expiration-date": chain.not_after.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if revocation.ocsp_good:
        found |= {"x-nvidia-cert-ocsp-status": "good", "x-nvidia-cert-ocsp-response-valid": True}
    return found


def joined(devices: Sequence[Mapping[str, Any]], device_class: str) -> dict[str, Any]:
    """Return the claims of several devices: what all of them say alike, and each one under its own name.

    What they say differently is absent at the top, so that a policy that asks for it there refuses; ``measres`` is
    "fail" as soon as one device's is. ``device_count`` counts devices, not reports: one that was listed twice is one.
    """
    first, *others = devices
    values = dict(first)
    for other in others:
        values = {name: value for name, value in values.items() if name in other and other[name] == value}
    if any(device["measres"] == "fail" for device in devices):
        values["measres"] = "fail"
    values["device_count"] = len({device["ueid"] for device in devices})
    if others:
        values |= {f"{device_class}{number}": dict(device) for number, device in enumerate(devices)}
    return values
