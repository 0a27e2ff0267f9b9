"""How each Trustee version spells what its verifiers found: where a claim stands, and in which form.

Source: confidential-containers/trustee at the tags v0.19.0, v0.20.0 and v0.21.0: deps/verifier/src/{snp,az_snp_vtpm,
az_tdx_vtpm,tdx,sgx,cca,tpm,nvidia,intel_dcap}, and transform_claims in attestation-service/src/ear_token/broker.rs.
CCA's claims are named as serde writes them (``kebab-case``), which docs/tcb_claims.md shows otherwise.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any

from tallystick.core.expect import Exactly

VERSIONS = ("0.19", "0.20", "0.21")


class Form(Enum):
    """How a value is spelled. Every form is one to one, so that no two claims look the same to a policy."""

    PLAIN = "as it is"
    BASE64 = "base64 of what is hex here"
    TEXT = "a text that shows a boolean or a number of one byte"
    LITTLE16 = "four hex digits, the low byte first"
    FLAG = "a bit of the SGX attributes"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a claim stands below the name of its TEE."""

    path: tuple[str, ...]
    form: Form = Form.PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Tee:
    """One TEE of Trustee."""

    name: str  # the name of its claims in a policy's input
    kind: str  # our kind of evidence
    roots: tuple[
        str, ...
    ]  # where its verifier lets evidence end; () when the deployment's configuration says
    places: Mapping[str, Place]
    enforced: Mapping[str, Exactly] = field(default_factory=dict)  # the verifier takes nothing else
    device: bool = False

    def reference(self, path: str) -> str:
        """Return how a Rego policy refers to our claim ``path``."""
        place = self.places[path]
        return "input" + _rego((self.name, *place.path))


@cache
def tees(version: str) -> tuple[Tee, ...]:
    """Return the TEEs of a Trustee version of :data:`VERSIONS`, by our kinds of evidence."""
    pcrs = {f"pcr{number:02}": Place((f"pcr{number:02}",)) for number in range(24)}
    tpm = pcrs if version == "0.19" else {**pcrs, "ak_public": Place(("ak_public",))}
    ours = {f"tpm.{name}": Place(("tpm", name)) for name in pcrs}
    return (
        Tee(name="tpm", kind="tpm-quote", roots=(), places=tpm),
        Tee(name="snp", kind="snp-report", roots=("amd",), places=_SNP, enforced={"vmpl": Exactly(0)}),
        Tee(name="az-snp-vtpm", kind="azure-snp-vtpm", roots=("amd",), places=_azure_snp() | ours,
            enforced={"vmpl": Exactly(0)}),
        Tee(name="tdx", kind="tdx-quote", roots=("intel",), places=_TDX),
        Tee(name="az-tdx-vtpm", kind="azure-tdx-vtpm", roots=("intel",), places=_TDX | ours),
        Tee(name="sgx", kind="sgx-quote", roots=("intel",), places=_SGX),
        Tee(name="cca", kind="cca-token", roots=(), places=_CCA),
        Tee(name="nvidia", kind="nvidia-gpu", roots=("nvidia",), places=_NVIDIA, device=True),
    )  # fmt: skip


@cache
def tee(version: str, kind: str) -> Tee | None:
    """Return the TEE whose evidence is of ``kind``, or None when this version has none."""
    return next((one for one in tees(version) if one.kind == kind), None)


def _plain(names: str, *above: str) -> dict[str, Place]:
    prefix = "".join(f"{name}." for name in above)
    return {f"{prefix}{name}": Place((*above, name)) for name in names.split()}


_FLAGS = (
    "policy_smt_allowed policy_migrate_ma policy_debug_allowed policy_single_socket "
    "platform_tsme_enabled platform_smt_enabled"
)
_NUMBERS = (
    "policy_abi_major policy_abi_minor "
    "reported_tcb_bootloader reported_tcb_tee reported_tcb_snp reported_tcb_microcode"
)
_TOP = ("..",)  # transform_claims moves init_data and report_data beside the TEE
_INIT_DATA = Place((*_TOP, "init_data"))
_SNP = _plain(f"{_FLAGS} {_NUMBERS} measurement chip_id") | {"init_data": _INIT_DATA, "host_data": _INIT_DATA}
_CUSTOM = "tcb_status tcb_date advisory_ids collateral_expiration_status tcb_eval_num platform_provider_id"
_TDX = {
    **_plain(
        "mr_config_id mr_td rtmr_0 rtmr_1 rtmr_2 rtmr_3 mr_seam mrsigner_seam mr_owner", "quote", "body"
    ),
    **_plain(
        "mr_owner_config tcb_svn seam_attributes td_attributes xfam mr_servicetd tee_tcb_svn2",
        "quote",
        "body",
    ),
    **_plain("debug septve_disable protection_keys key_locker perfmon", "td_attributes"),
    **_plain(f"{_CUSTOM} platform_instance_id"),
}
_SGX = {
    **_plain("mr_enclave mr_signer config_id cpu_svn isv_ext_prod_id isv_family_id misc_select", "body"),
    **{
        f"body.{name}": Place(("body", name), Form.LITTLE16)
        for name in ("isv_prod_id", "isv_svn", "config_svn")
    },
    "body.attributes.xfrm": Place(("body", "attributes.xfrm")),
    "debug": Place(("body", "attributes.flags"), Form.FLAG),
    **_plain(f"{_CUSTOM} platform_instance_id"),
}
_CCA = {
    f"{group}.{name}": Place((group, name.replace("_", "-")), form)
    for group, name, form in (
        ("realm", "cca_realm_initial_measurement", Form.BASE64),
        ("realm", "cca_realm_personalization_value", Form.BASE64),
        ("realm", "cca_realm_extensible_measurements", Form.BASE64),
        ("realm", "cca_realm_hash_algo_id", Form.PLAIN),
        ("platform", "cca_platform_implementation_id", Form.BASE64),
        ("platform", "cca_platform_instance_id", Form.BASE64),
    )
}
_GPU = "x-nvidia-gpu-"
_RIM = "rim-version-match rim-signature-verified"
_NVIDIA = _plain(
    "measres dbgstat hwmodel ueid secboot x-nvidia-gpu-driver-version x-nvidia-gpu-vbios-version "
    "x-nvidia-gpu-arch-check x-nvidia-gpu-attestation-report-nonce-match x-nvidia-gpu-attestation-report-parsed "
    "x-nvidia-gpu-attestation-report-signature-verified x-nvidia-gpu-attestation-report-cert-chain-fwid-match "
    "x-nvidia-gpu-driver-rim-version-match x-nvidia-gpu-driver-rim-signature-verified "
    "x-nvidia-gpu-vbios-rim-version-match x-nvidia-gpu-vbios-rim-signature-verified"
)


def _azure_snp() -> dict[str, Place]:
    """Texts where the other SNP verifier has booleans and numbers, and no chip id."""
    found = {name: Place((name,), Form.TEXT) for name in f"{_FLAGS} {_NUMBERS}".split()}
    return {**found, "measurement": Place(("measurement",), Form.BASE64)}


def _rego(path: tuple[str, ...]) -> str:
    if len(path) > 1 and path[1] == "..":
        path = path[2:]
    plain = (f".{name}" if name.isidentifier() else f'["{name}"]' for name in path)
    return "".join(plain)


def encode(value: Any, form: Form) -> Any:
    """Return how Trustee spells ``value``. What it has no spelling for stays what it is, or becomes another type."""
    if form is Form.BASE64:
        return [encode(item, form) for item in value] if isinstance(value, list) else _base64(value)
    if form is Form.TEXT:
        return _as_text(value)
    if form is Form.LITTLE16:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 16:
            return value.to_bytes(2, "little").hex()
        return value if not _hex(value, 4) else [value]
    if form is Form.FLAG:
        flags = {False: "0500000000000000", True: "0700000000000000"}
        return flags[value] if isinstance(value, bool) else (value if not _hex(value, 16) else [value])
    return value


def fits(value: Any, form: Form) -> bool:
    """Say whether Trustee can spell a number at all: some of its forms have a byte or two for it."""
    most = {Form.TEXT: 1 << 8, Form.LITTLE16: 1 << 16}.get(form)
    return most is None or not isinstance(value, int) or isinstance(value, bool) or 0 <= value < most


def _base64(value: Any) -> Any:
    """Return hex as base64; a text that is no hex, as one that is no base64 either."""
    if not isinstance(value, str) or not value:
        return value
    if len(value) % 2 == 0 and _hex(value, len(value)):
        return base64.b64encode(bytes.fromhex(value)).decode()
    return f"={value}"


def _as_text(value: Any) -> Any:
    """Booleans and numbers become texts, and texts that look like one become what they look like."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if value in ("true", "false"):
        return value == "true"
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    return value


def _hex(value: Any, digits: int) -> bool:
    return isinstance(value, str) and len(value) == digits and all(c in "0123456789abcdef" for c in value)


def evidence(one: Tee, claims: Mapping[str, Any]) -> dict[str, Any]:
    """Return the input of an appraisal policy for evidence with our flat ``claims``, without what surrounds it."""
    below: dict[str, Any] = {}
    found: dict[str, Any] = {one.name: below}
    for path, value in claims.items():
        place = one.places.get(path)
        if path in one.enforced:
            continue
        if place is None:
            below.setdefault(path, value)  # a claim that Trustee does not have, under its flat name
            continue
        if place.path[0] == "..":
            found[place.path[1]] = encode(value, place.form)
            continue
        *outer, last = place.path
        inner = below
        for name in outer:
            deeper = inner.setdefault(name, {})
            inner = deeper if isinstance(deeper, dict) else {}
        inner[last] = encode(value, place.form)
    return found


def possible(one: Tee, claims: Mapping[str, Any]) -> bool:
    """Say whether there can be such evidence: two of our names for one claim of Trustee's have one value."""
    held: dict[Place, Any] = {}
    for path, value in claims.items():
        place = one.places.get(path)
        if place is not None and (type(value), value) != (type(held.setdefault(place, value)), held[place]):
            return False
    return True


def refused(one: Tee, claims: Mapping[str, Any]) -> bool:
    """Say whether the verifier itself refuses such evidence."""
    return any(
        type(claims.get(path)) is not type(only.value) or claims[path] != only.value
        for path, only in one.enforced.items()
    )


def spelled(one: Tee, claims: Mapping[str, Any]) -> bool:
    """Say whether Trustee can spell every number of ``claims``."""
    return all(fits(value, one.places[path].form) for path, value in claims.items() if path in one.places)


def completed(one: Tee, claims: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``claims`` with every other name of ours that stands for the same claim of Trustee's."""
    held = {one.places[path]: value for path, value in claims.items() if path in one.places}
    others = {path: held[place] for path, place in one.places.items() if place in held}
    return {**others, **claims}
