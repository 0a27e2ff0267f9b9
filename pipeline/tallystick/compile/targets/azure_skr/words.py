"""How Microsoft Azure Attestation calls what an SNP report and a TDX quote say.

Source: Microsoft, "Claim sets" (SEV-SNP attestation), "Azure Attestation EAT profile for Intel TDX"; the token of a
container group is flat, and says ``azure-compliant-uvm`` where the utility VM is Microsoft's.
"""

from __future__ import annotations

from tallystick.compile.targets.claims import Vocabulary
from tallystick.core.expect import Exactly

NAME = "azure-skr"
POLICY_HASH = "x-ms-policy-hash"
_TYPE, _COMPLIANCE = "x-ms-attestation-type", "x-ms-compliance-status"
_SNP = {
    path: f"x-ms-sevsnpvm-{name}"
    for path, name in {
        "author_key_digest": "authorkeydigest",
        "family_id": "familyId",
        "guest_svn": "guestsvn",
        "host_data": "hostdata",
        "id_key_digest": "idkeydigest",
        "image_id": "imageId",
        "measurement": "launchmeasurement",
        "policy_debug_allowed": "is-debuggable",
        "policy_migrate_ma": "migration-allowed",
        "policy_smt_allowed": "smt-allowed",
        "reported_tcb_bootloader": "bootloader-svn",
        "reported_tcb_microcode": "microcode-svn",
        "reported_tcb_snp": "snpfw-svn",
        "reported_tcb_tee": "tee-svn",
        "vmpl": "vmpl",
    }.items()
}
_TDX = {
    "quote.body.mr_config_id": "tdx_mrconfigid",
    "quote.body.mr_owner": "tdx_mrowner",
    "quote.body.mr_owner_config": "tdx_mrownerconfig",
    "quote.body.mr_seam": "tdx_mrseam",
    "quote.body.mr_td": "tdx_mrtd",
    "quote.body.mrsigner_seam": "tdx_mrsignerseam",
    "quote.body.rtmr_0": "tdx_rtmr0",
    "quote.body.rtmr_1": "tdx_rtmr1",
    "quote.body.rtmr_2": "tdx_rtmr2",
    "quote.body.rtmr_3": "tdx_rtmr3",
    "quote.body.seam_attributes": "tdx_seam_attributes",
    "quote.body.tcb_svn": "tdx_tee_tcb_svn",
    "quote.body.td_attributes": "tdx_td_attributes",
    "quote.body.xfam": "tdx_xfam",
    "tcb_status": "attester_tcb_status",
    "td_attributes.debug": "tdx_td_attributes_debug",
    "td_attributes.key_locker": "tdx_td_attributes_key_locker",
    "td_attributes.perfmon": "tdx_td_attributes_perfmon",
    "td_attributes.protection_keys": "tdx_td_attributes_protection_keys",
    "td_attributes.septve_disable": "tdx_td_attributes_septve_disable",
}
WORDS = {
    "amd-sev-snp": Vocabulary(
        platform="amd-sev-snp",
        roots=("amd",),
        names=_SNP | {"init_data": "x-ms-sevsnpvm-hostdata"},  # of this platform HOST_DATA is the init-data
        fixed=((_TYPE, Exactly("sevsnpvm")),),
    ),
    "azure-aci": Vocabulary(
        platform="azure-aci",
        roots=("amd",),
        names=_SNP,
        fixed=((_TYPE, Exactly("sevsnpvm")), (_COMPLIANCE, Exactly("azure-compliant-uvm"))),
    ),
    "intel-tdx": Vocabulary(
        platform="intel-tdx", roots=("intel",), names=_TDX, fixed=((_TYPE, Exactly("tdxvm")),)
    ),
}
# Platforms whose claims an attestation policy can compare, and the name of its attestation type.
# Microsoft does not say what the claims of a TDX quote are called inside of an attestation policy.
ATTESTATION_TYPES = {"amd-sev-snp": "SevSnpVm", "azure-aci": "SevSnpVm"}
