"""A Contrast manifest, and what a Coordinator decides by it.

Source: edgelesssys/contrast, internal/manifest (referencevalues.go: fields and Validate; manifest.go:
SNPValidateOpts, PolicyEntry; validators.go: any listed Reference Value is enough, the policy hash is HOSTDATA);
google/go-sev-guest v0.15, validate/validate.go (validatePolicy, validateTcb, validatePlatformInfo). Our own words
for both; no code of theirs is here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed

TCB = {
    "BootloaderVersion": "bootloader",
    "TEEVersion": "tee",
    "SNPVersion": "snp",
    "MicrocodeVersion": "microcode",
}
# Fields of GuestPolicy and PlatformInfo with the claim they are about, and which value of the field asks for
# something: then the claim must be that value, otherwise either will do.
GUEST_POLICY = {
    "SMT": ("policy_smt_allowed", False),
    "MigrateMA": ("policy_migrate_ma", False),
    "Debug": ("policy_debug_allowed", False),
    "SingleSocket": ("policy_single_socket", True),
    "CXLAllowed": ("policy_cxl_allowed", False),
    "MemAES256XTS": ("policy_mem_aes_256_xts", True),
    "RAPLDis": ("policy_rapl_disabled", True),
    "CipherTextHidingDRAM": ("policy_ciphertext_hiding", True),
    "PageSwapDisable": ("policy_page_swap_disabled", True),
}
PLATFORM_INFO = {
    "SMTEnabled": ("platform_smt_enabled", False),
    "TSMEEnabled": ("platform_tsme_enabled", False),
    "ECCEnabled": ("platform_ecc_enabled", True),
    "RAPLDisabled": ("platform_rapl_disabled", True),
    "CiphertextHidingDRAMEnabled": ("platform_ciphertext_hiding_enabled", True),
    "AliasCheckComplete": ("platform_alias_check_complete", True),
    "TIOEnabled": ("platform_tio_enabled", False),
}
# GuestPolicy.Validate refuses a manifest that says anything else of these.
FIXED = {name: name == "SMT" for name in GUEST_POLICY if name != "PageSwapDisable"}
_WHAT = "Contrast manifest"
_SIZES = {"measurement": 96, "host_data": 64, "chip_id": 128}


def parse(data: bytes) -> dict[str, Any]:
    """Return a manifest that a Coordinator would take.

    Raises:
        Malformed: it would not: another form, or a value that Contrast does not permit to change.
    """
    found = jsondoc.loads(data, _WHAT)
    if not isinstance(found, dict):
        raise _bad("document", "an object", found)
    for name in ("Policies", "ReferenceValues"):
        if not isinstance(found.get(name), dict):
            raise _bad(name, "an object", found.get(name))
    for digest, entry in found["Policies"].items():
        if not _hex(digest, 64) or not isinstance(entry, dict):
            raise _bad("Policies", "policy hashes of 64 hex digits", digest)
    coordinators = [e for e in found["Policies"].values() if e.get("Role") == "coordinator"]
    if len(coordinators) != 1:
        raise _bad("Policies", "one with the role coordinator", len(coordinators))
    values = found["ReferenceValues"]
    snp = values.get("snp", [])
    if not isinstance(snp, list) or not (snp or values.get("tdx")):
        raise _bad("ReferenceValues", "at least one", values)
    for number, value in enumerate(snp):
        _check(f"ReferenceValues.snp[{number}]", value)
    return found


def _check(at: str, value: Any) -> None:
    if not isinstance(value, dict) or not _hex(value.get("TrustedMeasurement"), 96):
        raise _bad(at, "TrustedMeasurement of 96 hex digits", value)
    if value.get("ProductName") not in ("Milan", "Genoa"):
        raise _bad(f"{at}.ProductName", "Milan or Genoa", value.get("ProductName"))
    least = value.get("MinimumTCB")
    for name in TCB:
        if not isinstance(least, dict) or not _byte(least.get(name)):
            raise _bad(f"{at}.MinimumTCB.{name}", "a number from 0 to 255", least)
    policy = _flags(at, value, "GuestPolicy", GUEST_POLICY)
    if not all(_byte(number) for number in _abi(policy)):
        raise _bad(f"{at}.GuestPolicy", "an ABI version", policy)
    for name, fixed in FIXED.items():
        if policy.get(name, False) is not fixed:
            raise _bad(f"{at}.GuestPolicy.{name}", str(fixed), policy.get(name))
    _flags(at, value, "PlatformInfo", PLATFORM_INFO)
    chips = value.get("AllowedChipIDs") or []
    if not isinstance(chips, list) or not all(_hex(chip, 128) for chip in chips):
        raise _bad(f"{at}.AllowedChipIDs", "chip ids of 128 hex digits", chips)


def _flags(at: str, value: Mapping[str, Any], name: str, known: Mapping[str, object]) -> dict[str, Any]:
    found = value.get(name) or {}
    if not isinstance(found, dict) or any(not isinstance(found.get(flag, False), bool) for flag in known):
        raise _bad(f"{at}.{name}", "booleans", found)
    return found


def entry(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the policy entry of a workload whose report a Coordinator accepts; None when it refuses.

    Args:
        report: the fields of a genuine report as claims, ``host_data`` and ``product`` among them. A field that is
            missing or of another size is a report that can not be read, which is refused.
    """
    if not _readable(report):
        return None
    if not any(_matches(value, report) for value in manifest["ReferenceValues"].get("snp", [])):
        return None
    found: dict[str, Any] | None = manifest["Policies"].get(report["host_data"])
    return found


def _matches(value: Mapping[str, Any], report: Mapping[str, Any]) -> bool:
    """One Reference Value: every comparison holds."""
    least = value["MinimumTCB"]
    chips = value.get("AllowedChipIDs") or []
    return (
        report["product"] == value["ProductName"]
        and report["measurement"] == value["TrustedMeasurement"]
        and report["vmpl"] == 0
        and all(
            report[f"{when}_tcb_{part}"] >= least[name]
            for name, part in TCB.items()
            for when in ("reported", "launch")
        )
        and _abi(value.get("GuestPolicy") or {}) <= (report["policy_abi_major"], report["policy_abi_minor"])
        and all(_asked(GUEST_POLICY, value.get("GuestPolicy") or {}, report))
        and ("PlatformInfo" not in value or all(_asked(PLATFORM_INFO, value["PlatformInfo"] or {}, report)))
        and (not chips or report["chip_id"] in chips)  # an empty list is every chip
    )


def _abi(policy: Mapping[str, Any]) -> tuple[int, int]:
    return (policy.get("ABIMajor", 0), policy.get("ABIMinor", 0))


def _asked(
    table: Mapping[str, tuple[str, bool]], found: Mapping[str, bool], report: Mapping[str, Any]
) -> Iterator[bool]:
    for name, (claim, demanding) in table.items():
        if found.get(name, False) is demanding:
            yield report[claim] is demanding


def _readable(report: Mapping[str, Any]) -> bool:
    flags = [claim for table in (GUEST_POLICY, PLATFORM_INFO) for claim, _ in table.values()]
    numbers = [
        "vmpl",
        "policy_abi_major",
        "policy_abi_minor",
        *(f"{when}_tcb_{part}" for part in TCB.values() for when in ("reported", "launch")),
    ]
    return (
        all(_hex(report.get(name), size) for name, size in _SIZES.items())
        and all(isinstance(report.get(name), bool) for name in flags)
        and all(_byte(report.get(name)) for name in numbers)
        and isinstance(report.get("product"), str)
    )


def _hex(value: object, digits: int) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", value) is not None


def _byte(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _bad(at: str, want: str, got: object) -> Malformed:
    return Malformed(_WHAT, at=at, want=want, got=repr(got)[:80])
