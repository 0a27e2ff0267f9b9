"""The security level that Intel gives a platform, a TDX module and a quoting enclave.

Source: Intel PCS API v4, "Get TCB Info" and "Get Quoting Enclave Identity", steps to verify a TCB level; Intel SGX/TDX
DCAP Quote Verification Library, convergence of statuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tallystick.core.errors import Malformed
from tallystick.evidence.dcap_collateral import Collateral, bad
from tallystick.formats.dcap_quote import EnclaveReport, PckExtension, Quote, TdReport

# From best to worst (Intel QVL, convergence of platform, module and QE status).
STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What the collateral says of a platform."""

    status: str
    advisories: tuple[str, ...]
    tcb_date: str
    evaluation_number: int


@dataclass(frozen=True, slots=True)
class Module:
    """What of a TD report is about the TDX module."""

    tee_tcb_svn: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes


def module_of(quote: Quote) -> Module | None:
    """Return the TDX module's part of a quote; None for an enclave's."""
    body = quote.body
    if not isinstance(body, TdReport):
        return None
    return Module(body.tee_tcb_svn, body.mr_signer_seam, body.seam_attributes)


def level(pck: PckExtension, qe: EnclaveReport, module: Module | None, collateral: Collateral) -> Level:
    """Return the security level that Intel gives this platform, quoting enclave and module.

    Raises:
        Malformed: not Intel's format.
        NotGenuine: a level, enclave or module that Intel does not list, or a revoked level.
    """
    info, identity = collateral.tcb_info.document, collateral.qe_identity.document
    try:
        platform = _platform_level(pck, module, info)
        parts = [platform, _qe_level(qe, module, identity)]
        if module is not None:
            _check_module(module, info)
            parts += _module_level(module, info)
        statuses = [str(part["tcbStatus"]) for part in parts]
        advisories = sorted({str(a) for part in parts for a in part.get("advisoryIDs", [])})
        date, number = str(platform["tcbDate"]), int(info["tcbEvaluationDataNumber"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise Malformed(
            "collateral", at="TCB info", want="Intel's format", got=f"{type(error).__name__} {error}"
        ) from None
    status = worst(statuses)
    if status == "Revoked":
        raise bad("tcb.revoked", "TCB level", "not revoked", status)
    return Level(status=status, advisories=tuple(advisories), tcb_date=date, evaluation_number=number)


def worst(statuses: Sequence[str]) -> str:
    """Return the convergence of several statuses (Intel QVL, convergeTcbStatus)."""
    for status in statuses:
        if status not in STATUSES:
            raise bad("tcb.status", "TCB level", "one of " + ", ".join(STATUSES), status)
    worst = max(statuses, key=STATUSES.index)
    configuration = any("Configuration" in status for status in statuses)
    if worst == "OutOfDate" and configuration:
        return "OutOfDateConfigurationNeeded"
    if worst == "ConfigurationNeeded" and any("SWHardening" in status for status in statuses):
        return "ConfigurationAndSWHardeningNeeded"
    return worst


def _platform_level(pck: PckExtension, module: Module | None, info: dict[str, Any]) -> dict[str, Any]:
    """Return the first TCB level that the platform reaches (PCS API v4, "Verifying TCB level")."""
    for level in info["tcbLevels"]:
        tcb = level["tcb"]
        components = _components(tcb)
        reached = all(have >= need for have, need in zip(pck.cpu_svn, components, strict=True))
        if not reached or pck.pce_svn < int(tcb["pcesvn"]):
            continue
        if module is not None:
            needed = [int(c["svn"]) for c in tcb["tdxtcbcomponents"]]
            have = module.tee_tcb_svn
            first = (
                2 if have[1] > 0 else 0
            )  # from module 1.5 on the module's own identity judges the first two
            if not all(have[i] >= needed[i] for i in range(first, 16)):
                continue
        found: dict[str, Any] = level
        return found
    got = f"CPUSVN {bytes(pck.cpu_svn).hex()}, PCESVN {pck.pce_svn}"
    raise bad("tcb.unrecognised", "TCB level", "one that Intel lists", got)


def _components(tcb: dict[str, Any]) -> list[int]:
    """Return the sixteen SGX components: a list from version 3 of the TCB info on, single fields before."""
    if "sgxtcbcomponents" in tcb:
        return [int(c["svn"]) for c in tcb["sgxtcbcomponents"]]
    return [int(tcb[f"sgxtcbcomp{i:02}svn"]) for i in range(1, 17)]


def _qe_level(report: EnclaveReport, module: Module | None, identity: dict[str, Any]) -> dict[str, Any]:
    want_id = "QE" if module is None else "TD_QE"
    checks = (
        ("id", want_id, str(identity["id"])),
        ("MRSIGNER", identity["mrsigner"].lower(), report.mr_signer.hex()),
        ("ISVPRODID", str(identity["isvprodid"]), str(report.isv_prod_id)),
        ("MISCSELECT", *_masked(identity, "miscselect", report.misc_select[::-1])),
        ("ATTRIBUTES", *_masked(identity, "attributes", report.attributes)),
    )
    for name, want, got in checks:
        if want != got:
            raise bad("qe.identity", f"QE {name}", want, got)
    for level in identity["tcbLevels"]:
        if report.isv_svn >= int(level["tcb"]["isvsvn"]):
            found: dict[str, Any] = level
            return found
    raise bad("qe.unrecognised", "QE ISVSVN", "one that Intel lists", str(report.isv_svn))


def _masked(document: dict[str, Any], field: str, value: bytes) -> tuple[str, str]:
    """Return (wanted, got) of a field under its mask, both as hex."""
    mask, want = bytes.fromhex(document[f"{field}Mask"]), bytes.fromhex(document[field])
    pairs = zip(want, mask, strict=True), zip(value, mask, strict=True)
    wanted, got = (bytes(a & b for a, b in pair).hex() for pair in pairs)
    return wanted, got


def _check_module(body: Module, info: dict[str, Any]) -> None:
    """Check that the TDX module is Intel's (PCS API v4, "tdxModule" and "tdxModuleIdentities")."""
    module = _module_identity(body, info) or info["tdxModule"]
    if body.mr_signer_seam.hex() != module["mrsigner"].lower():
        raise bad("module.signer", "MRSIGNERSEAM", module["mrsigner"].lower(), body.mr_signer_seam.hex())
    want, got = _masked(module, "attributes", body.seam_attributes)
    if want != got:
        raise bad("module.attributes", "SEAMATTRIBUTES", want, got)


def _module_identity(body: Module, info: dict[str, Any]) -> dict[str, Any] | None:
    version = body.tee_tcb_svn[1]
    if version == 0:
        return None
    for identity in info.get("tdxModuleIdentities", []):
        if identity["id"] == f"TDX_{version:02X}":
            found: dict[str, Any] = identity
            return found
    raise bad("module.unrecognised", "TDX module", "a version that Intel lists", f"TDX_{version:02X}")


def _module_level(body: Module, info: dict[str, Any]) -> list[dict[str, Any]]:
    identity = _module_identity(body, info)
    if identity is None:
        return []
    for level in identity["tcbLevels"]:
        if body.tee_tcb_svn[0] >= int(level["tcb"]["isvsvn"]):
            return [level]
    raise bad("module.unrecognised", "TDX module ISVSVN", "one that Intel lists", str(body.tee_tcb_svn[0]))
