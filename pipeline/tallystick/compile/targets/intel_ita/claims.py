"""What Intel Trust Authority calls the claims that its policies see.

Source: Intel Trust Authority, "Attestation tokens" and "Attestation policies V2" (the composite token, and the
tables of incoming claims for SGX, TDX and SEV-SNP); intel/trustauthority-client-for-go, connector (SGXClaims).
SEV-SNP is in preview there. A claim that is not in the table is one that a policy can not see.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tallystick.compile.domain import Case
from tallystick.compile.targets.common.trial import placed

Where = tuple[str, ...]

_TCB = {"attester_tcb_status": "tcb_status", "attester_tcb_date": "tcb_date"}
_TDX = {
    "tdx_mrtd": "quote.body.mr_td",
    "tdx_mrconfigid": "quote.body.mr_config_id",
    "tdx_rtmr0": "quote.body.rtmr_0",
    "tdx_rtmr1": "quote.body.rtmr_1",
    "tdx_rtmr2": "quote.body.rtmr_2",
    "tdx_rtmr3": "quote.body.rtmr_3",
    "tdx_mrseam": "quote.body.mr_seam",
    "tdx_mrsignerseam": "quote.body.mrsigner_seam",
    "tdx_mrowner": "quote.body.mr_owner",
    "tdx_mrownerconfig": "quote.body.mr_owner_config",
    "tdx_seam_attributes": "quote.body.seam_attributes",
    "tdx_td_attributes": "quote.body.td_attributes",
    "tdx_xfam": "quote.body.xfam",
    "tdx_tee_tcb_svn": "quote.body.tcb_svn",
    "tdx_td_attributes_debug": "td_attributes.debug",
    "tdx_td_attributes_septve_disable": "td_attributes.septve_disable",
    "tdx_td_attributes_protection_keys": "td_attributes.protection_keys",
    "tdx_td_attributes_key_locker": "td_attributes.key_locker",
    "tdx_td_attributes_perfmon": "td_attributes.perfmon",
    "tdx_is_debuggable": "debug",
    **_TCB,
}
_SGX = {
    "sgx_mrenclave": "body.mr_enclave",
    "sgx_mrsigner": "body.mr_signer",
    "sgx_isvprodid": "body.isv_prod_id",
    "sgx_isvsvn": "body.isv_svn",
    "sgx_config_id": "body.config_id",
    "sgx_is_debuggable": "debug",
    **_TCB,
}
_SNP = {
    "sevsnp_launchmeasurement": "measurement",
    "sevsnp_hostdata": "host_data",
    "sevsnp_is_debuggable": "policy_debug_allowed",
    "sevsnp_migration_allowed": "policy_migrate_ma",
    "sevsnp_smt_allowed": "policy_smt_allowed",
    "sevsnp_bootloader_svn": "reported_tcb_bootloader",
    "sevsnp_tee_svn": "reported_tcb_tee",
    "sevsnp_snpfw_svn": "reported_tcb_snp",
    "sevsnp_microcode_svn": "reported_tcb_microcode",
    "sevsnp_guestsvn": "guest_svn",
    "sevsnp_vmpl": "vmpl",
    "sevsnp_familyId": "family_id",
    "sevsnp_imageId": "image_id",
    "sevsnp_idkeydigest": "id_key_digest",
    "sevsnp_authorkeydigest": "author_key_digest",
}


def _table(top: str, claims: Mapping[str, str]) -> dict[str, Where]:
    return {path: (top, name) for name, path in claims.items()}


# HOST_DATA is init_data of one platform and host_data of another; both are the one claim here.
NAMES: Mapping[str, Mapping[str, Where]] = {
    "tdx-quote": _table("tdx", _TDX) | {"tcb_eval_num": ("tdx", "tdx_collateral", "tcbevaluationdatanumber")},
    "sgx-quote": _table("sgx", _SGX),
    "snp-report": _table("sevsnp", _SNP) | {"init_data": ("sevsnp", "sevsnp_hostdata")},
}
ROOTS = {"tdx-quote": "intel", "sgx-quote": "intel", "snp-report": "amd"}
BYTES = frozenset(f"reported_tcb_{part}" for part in ("bootloader", "tee", "snp", "microcode"))


def document(case: Case) -> dict[str, Any]:
    """Return the policy's ``input`` for evidence: claims under their evidence's name, unknown ones as they are.

    A device is a GPU there, whatever it is: a composite token has room for one.
    """
    known = NAMES.get(case.kind, {})
    found = placed({known.get(path, (case.kind, path)): value for path, value in case.claims.items()})
    return {**found, "nvgpu": dict(case.devices[0].claims)} if case.devices else found


def suspect(found: Mapping[Where, Any], platform_kinds: Mapping[str, str]) -> Case | None:
    """Return evidence with exactly the claims ``found`` in a policy, or None when they are no evidence's.

    Args:
        platform_kinds: the kind of evidence for each first name in ``input``.
    """
    for top, kind in platform_kinds.items():
        back = {where: path for path, where in NAMES[kind].items()}
        claims = {back[where]: value for where, value in found.items() if where in back}
        if claims and all(where[0] == top for where in found):
            return Case(kind, "a rule of the policy", claims)
    return None
