"""The platforms, one row each. Claim names are those of Trustee's verifiers wherever it has them.

Source: Trustee, attestation-service/docs/tcb_claims.md; the specification of each evidence is named with the
module that verifies it (``evidence/``). A claim in ``strict`` is pinned in every compiled policy, whether the
policy names it or not.
"""

from __future__ import annotations

from tallystick.core.expect import Exactly, Expect, Includes, Only
from tallystick.policy.platforms import ClaimType, PlaceClaim, Platform, Strength

_B, _I, _T, _L = ClaimType.BOOLEAN, ClaimType.INTEGER, ClaimType.TEXT, ClaimType.TEXTS
_32, _48, _64 = ClaimType.SHA256, ClaimType.SHA384, ClaimType.BYTES64
_OFF = Exactly(False)
_ON = Exactly(True)
_ZERO48 = Exactly("0" * 96)
_Claims = tuple[tuple[str, ClaimType], ...]


def _each(kind: ClaimType, names: str) -> _Claims:
    return tuple((name, kind) for name in names.split())


def _below(prefix: str, claims: _Claims) -> _Claims:
    return tuple((f"{prefix}{name}", kind) for name, kind in claims)


_PCRS = tuple((f"pcr{number:02}", _32) for number in range(16))
_LATE_PCRS = tuple((f"pcr{number:02}", _32) for number in range(16, 24))
# 8 holds the init-data, without which any artifacts could be served (docs/decisions/0081).
_EXTENDED_PCRS = ("pcr00", "pcr04", "pcr08", "pcr09", "pcr11")

_TCB = ("bootloader", "tee", "snp", "microcode")
_SNP: _Claims = (
    *_each(_B, "policy_debug_allowed policy_smt_allowed policy_migrate_ma policy_single_socket"),
    *_each(_B, "policy_cxl_allowed policy_mem_aes_256_xts policy_rapl_disabled policy_ciphertext_hiding"),
    *_each(_B, "policy_page_swap_disabled platform_smt_enabled platform_tsme_enabled platform_ecc_enabled"),
    *_each(_B, "platform_rapl_disabled platform_ciphertext_hiding_enabled platform_alias_check_complete"),
    *_each(_B, "platform_tio_enabled author_key_enabled debug"),
    *_each(_I, "version vmpl guest_svn policy_abi_major policy_abi_minor"),
    *_each(_I, "cpuid_family cpuid_model cpuid_stepping"),
    *((f"{when}_tcb_{part}", _I) for when in ("reported", "current", "committed", "launch")
      for part in (*_TCB, "fmc")),
    *_each(_32, "report_id report_id_ma"),
    *_each(_48, "id_key_digest author_key_digest"),
    *_each(_64, "chip_id report_data"),
    *_each(ClaimType.BYTES16, "family_id image_id"),
    *_each(_T, "signing_key product current_version committed_version csp_id"),
)  # fmt: skip
_SNP_STRICT: tuple[tuple[str, Expect], ...] = (
    ("policy_migrate_ma", _OFF),
    ("policy_smt_allowed", _OFF),
    ("vmpl", Exactly(0)),
)
_SNP_STATED = tuple(f"reported_tcb_{part}" for part in _TCB)
_SNP_PLACES = (PlaceClaim(name="provider", path="csp_id", strength=Strength.HARDWARE),)  # of a VLEK alone

_DCAP: _Claims = (
    *_each(_T, "tcb_status tcb_date collateral_expiration_status earliest_expiration_date"),
    *_each(_L, "advisory_ids"),
    *_each(_I, "tcb_eval_num"),
    *_each(ClaimType.BYTES6, "fmspc"),
    *_each(ClaimType.BYTES16, "platform_provider_id platform_instance_id"),
)
_DCAP_STRICT: tuple[tuple[str, Expect], ...] = (
    ("tcb_status", Exactly("UpToDate")),
    ("advisory_ids", Only(())),
    ("collateral_expiration_status", Exactly("0")),
)
_TDX_REGISTERS = _below("quote.body.", _each(_48, "mr_config_id mr_td rtmr_0 rtmr_1 rtmr_2 rtmr_3"))
_TDX: _Claims = (
    *_each(_B, "td_attributes.debug td_attributes.septve_disable td_attributes.protection_keys"),
    *_each(_B, "td_attributes.key_locker td_attributes.perfmon debug"),
    *_below("quote.body.", _each(_48, "mr_seam mrsigner_seam mr_owner mr_owner_config mr_servicetd")),
    *_below("quote.body.", _each(ClaimType.BYTES16, "tcb_svn tee_tcb_svn2")),
    *_below("quote.body.", _each(ClaimType.BYTES8, "seam_attributes td_attributes xfam")),
    *_each(_64, "report_data quote.body.report_data"),
    ("init_data", _48),
    *_DCAP,
)
_TDX_STRICT: tuple[tuple[str, Expect], ...] = (
    ("td_attributes.perfmon", _OFF),
    ("td_attributes.septve_disable", _ON),
    ("quote.body.mrsigner_seam", _ZERO48),  # zeros: Intel's own module
    ("quote.body.seam_attributes", Exactly("0" * 16)),
    ("quote.body.mr_owner", _ZERO48),
    ("quote.body.mr_owner_config", _ZERO48),
    *_DCAP_STRICT,
)

# One name each for both classes of device (evidence/nvidia_claims.py).
_NVIDIA: _Claims = (
    *_each(_T, "measres dbgstat hwmodel ueid arch chip oemid eat_nonce x-nvidia-device-type"),
    *_each(ClaimType.BYTES8, "pdi"),
    *_each(_48, "fwid"),
    *_each(_B, "secboot"),
    *_each(_I, "measurements_compared measurements_matched device_count"),
)


def _nvidia_checks(device: str, *manifests: str) -> _Claims:
    """What NVIDIA's tokens say of each check on a report, its certificates and its manifests (RIM files)."""
    report, prefix = f"x-nvidia-{device}-attestation-report", f"x-nvidia-{device}"
    chains = (f"{report}-cert-chain", *(f"{prefix}-{name}-rim-cert-chain" for name in manifests))
    return (
        *_each(_B, f"{prefix}-arch-check {report}-nonce-match {report}-signature-verified {report}-parsed"),
        *_each(_B, f"{report}-cert-chain-fwid-match"),
        *((f"{prefix}-{name}-rim-{check}", _B) for name in manifests
          for check in ("fetched", "version-match", "signature-verified", "measurements-available")),
        *((f"{chain}.x-nvidia-cert-{part}", _T) for chain in chains
          for part in ("status", "ocsp-status", "expiration-date")),
    )  # fmt: skip


PLATFORMS = (
    Platform(
        name="qemu-vtpm",
        evidence_kind="tpm-quote",
        family="tpm",
        pinned=_PCRS,
        never_zero=_EXTENDED_PCRS,
        claims=(
            *_LATE_PCRS,
            *_each(_T, "ak_public"),
            *_each(_I, "clock firmware_version reset_count restart_count"),
            *_each(_32, "init_data report_data"),
            *_each(_B, "safe"),
        ),
        debug_off=(),  # a TPM quote has no debug attribute; the channel's label keeps debug images apart
    ),
    Platform(
        name="amd-sev-snp",
        evidence_kind="snp-report",
        family="snp",
        pinned=(("init_data", _32), ("measurement", _48)),  # init_data is HOST_DATA
        never_zero=("init_data", "measurement"),
        claims=(*_SNP, ("host_data", _32)),
        debug_off=(("policy_debug_allowed", _OFF),),
        strict=_SNP_STRICT,
        stated=_SNP_STATED,
        places=_SNP_PLACES,
    ),
    Platform(
        name="azure-aci",  # a container group: Microsoft's utility VM, and the policy of its containers
        evidence_kind="snp-report",
        family="snp",
        pinned=(("host_data", _32), ("measurement", _48)),  # HOST_DATA is sha256 of the CCE policy
        never_zero=("host_data", "measurement"),
        claims=(*_SNP, ("init_data", _32)),
        debug_off=(("policy_debug_allowed", _OFF),),
        strict=_SNP_STRICT,
        stated=_SNP_STATED,
    ),
    Platform(
        name="azure-snp-vtpm",
        evidence_kind="azure-snp-vtpm",
        family="az-snp-vtpm",
        pinned=_below("tpm.", _PCRS),
        never_zero=tuple(f"tpm.{name}" for name in _EXTENDED_PCRS),
        claims=(
            *_SNP,
            *_below("tpm.", _LATE_PCRS),
            ("host_data", _32),
            ("init_data", _32),
            ("measurement", _48),
        ),
        debug_off=(("policy_debug_allowed", _OFF),),
        strict=_SNP_STRICT,
        stated=("measurement", *_SNP_STATED),  # of the paravisor, which nobody but Microsoft can predict
    ),
    Platform(
        name="azure-tdx-vtpm",
        evidence_kind="azure-tdx-vtpm",
        family="az-tdx-vtpm",
        pinned=_below("tpm.", _PCRS),
        never_zero=tuple(f"tpm.{name}" for name in _EXTENDED_PCRS),
        claims=(*_TDX, *_TDX_REGISTERS, *_below("tpm.", _LATE_PCRS)),
        debug_off=(("td_attributes.debug", _OFF),),
        strict=tuple(
            pair for pair in _TDX_STRICT if pair[0] != "td_attributes.septve_disable"
        ),  # clear there
        stated=("quote.body.mr_td", "tcb_eval_num"),
    ),
    Platform(
        name="intel-tdx",
        evidence_kind="tdx-quote",
        family="tdx",
        pinned=_TDX_REGISTERS,
        never_zero=tuple(
            f"quote.body.{name}" for name in ("mr_config_id", "mr_td", "rtmr_0", "rtmr_1", "rtmr_2")
        ),
        claims=_TDX,
        debug_off=(("td_attributes.debug", _OFF),),
        strict=_TDX_STRICT,
        stated=("tcb_eval_num",),
    ),
    Platform(
        name="intel-sgx",
        evidence_kind="sgx-quote",
        family="sgx",
        pinned=(("body.config_id", _64), ("body.mr_enclave", _32)),
        never_zero=("body.mr_enclave",),
        claims=(
            *_each(_B, "debug"),
            *_each(_32, "body.mr_signer"),
            *_each(_I, "body.isv_prod_id body.isv_svn body.config_svn"),
            *_each(ClaimType.BYTES16, "body.cpu_svn body.isv_ext_prod_id body.isv_family_id"),
            *_each(ClaimType.HEX, "body.misc_select"),
            *_each(ClaimType.BYTES8, "body.attributes.flags body.attributes.xfrm"),
            *_each(_64, "init_data report_data body.report_data"),
            *_DCAP,
        ),
        debug_off=(("debug", _OFF),),
        strict=_DCAP_STRICT,
        stated=("body.mr_signer", "body.isv_prod_id", "body.isv_svn", "tcb_eval_num"),
    ),
    Platform(
        name="aws-nitro",
        evidence_kind="nitro",
        family="nitro",
        pinned=_each(_48, "pcr0 pcr1 pcr2 pcr8"),
        never_zero=("pcr0", "pcr1", "pcr2"),  # all three are zero in a debug enclave
        claims=(
            *((f"pcr{number}", _48) for number in (3, 4, 5, 6, 7, *range(9, 16))),
            *_each(_T, "module_id digest"),
            *_each(_I, "timestamp"),
            *_each(_B, "debug"),
            *_each(ClaimType.HEX, "nonce public_key user_data"),
        ),
        debug_off=(("debug", _OFF),),
    ),
    Platform(
        name="nitro-tpm",  # an attestable AMI
        evidence_kind="nitro-tpm",
        family="nitro-tpm",
        pinned=_each(_48, "nitrotpm_pcr4 nitrotpm_pcr7 nitrotpm_pcr12"),
        never_zero=("nitrotpm_pcr4", "nitrotpm_pcr7"),
        claims=(
            *((f"nitrotpm_pcr{number}", _48) for number in range(24) if number not in (4, 7, 12)),
            *_each(_T, "module_id digest"),
            *_each(_I, "timestamp"),
        ),
        debug_off=(),
    ),
    Platform(
        name="arm-cca",
        evidence_kind="cca-token",
        family="cca",
        pinned=(
            ("realm.cca_realm_initial_measurement", ClaimType.REALM),
            ("realm.cca_realm_personalization_value", _64),
        ),
        never_zero=("realm.cca_realm_initial_measurement", "realm.cca_realm_personalization_value"),
        claims=(
            *_each(_B, "debug"),
            *_each(_L, "realm.cca_realm_extensible_measurements"),
            *_each(_T, "realm.cca_realm_hash_algo_id realm.cca_realm_profile platform.cca_platform_profile"),
            *_each(_I, "platform.cca_platform_lifecycle"),
            *_each(
                ClaimType.HEX, "platform.cca_platform_implementation_id platform.cca_platform_instance_id"
            ),
            *_each(ClaimType.HEX, "platform.cca_platform_config"),
        ),
        debug_off=(("debug", _OFF),),
        strict=(
            (
                "realm.cca_realm_extensible_measurements",
                Only(tuple(sorted("0" * digits for digits in (64, 96, 128)))),
            ),
        ),
        stated=("platform.cca_platform_implementation_id",),
    ),
    Platform(
        name="gcp-confidential-space",
        evidence_kind="gcp-token",
        family="gcp",
        pinned=(("submods.container.image_digest", ClaimType.OCI_DIGEST),),
        never_zero=("submods.container.image_digest",),
        claims=(
            *_each(_T, "swname hwmodel dbgstat iss attester_tcb signed_by submods.container.restart_policy"),
            *_each(_T, "submods.container.image_reference submods.container.image_id"),
            *_each(_T, "submods.gce.zone submods.gce.project_id submods.gce.project_number"),
            *_each(_T, "submods.gce.instance_name submods.gce.instance_id"),
            *_each(_L, "swversion google_service_accounts submods.container.args"),
            *_each(_L, "submods.confidential_space.support_attributes submods.container.cmd_override"),
            *_each(_B, "secboot submods.confidential_space.monitoring_enabled.memory"),
            *_each(_I, "oemid"),
        ),
        debug_off=(("dbgstat", Exactly("disabled-since-boot")),),
        strict=(
            ("swname", Exactly("CONFIDENTIAL_SPACE")),
            ("secboot", _ON),
            ("submods.confidential_space.support_attributes", Includes(("STABLE",))),
            ("submods.container.cmd_override", Only(())),
        ),
        stated=("hwmodel",),
        places=(
            PlaceClaim(name="zone", path="submods.gce.zone", strength=Strength.PROVIDER_SIGNED),
            PlaceClaim(name="account", path="submods.gce.project_id", strength=Strength.PROVIDER_SIGNED),
        ),
    ),
    Platform(
        name="nvidia-gpu",
        evidence_kind="nvidia-gpu",
        family="nvidia",
        device=True,
        pinned=(),
        never_zero=(),
        claims=(
            *_NVIDIA,
            *_each(_T, "x-nvidia-gpu-driver-version x-nvidia-gpu-vbios-version x-nvidia-gpu-mode"),
            *_each(_T, "x-nvidia-gpu-driver-rim-digest x-nvidia-gpu-vbios-rim-digest"),
            *_each(_B, "config.protected_pcie_status"),
            *_nvidia_checks("gpu", "driver", "vbios"),
            *_each(_T, "x-nvidia-attestation-warning"),
        ),
        debug_off=(("dbgstat", Exactly("disabled")),),
        strict=(("measres", Exactly("success")), ("secboot", _ON)),
        stated=("hwmodel", "x-nvidia-gpu-driver-version", "x-nvidia-gpu-vbios-version"),
    ),
    Platform(
        name="nvidia-switch",
        evidence_kind="nvidia-switch",
        family="nvidia",
        device=True,
        pinned=(),
        never_zero=(),
        claims=(
            *_NVIDIA,
            *_each(_T, "x-nvidia-switch-bios-version x-nvidia-switch-bios-rim-digest x-nvidia-switch-pdi"),
            *_nvidia_checks("switch", "bios"),
        ),
        debug_off=(("dbgstat", Exactly("disabled")),),
        strict=(("measres", Exactly("success")), ("secboot", _ON)),
        stated=("hwmodel", "x-nvidia-switch-bios-version"),
    ),
)
