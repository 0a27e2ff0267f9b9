"""Forms by hand for machines of every platform, and what the targets of other brokers say of their deployments."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

from policy.policyworld import NOW, digest

from tallystick.compile.targets.base import Backend, Emitted
from tallystick.compile.targets.contrast.choice import Contrast
from tallystick.compile.targets.corim.choice import CorimTarget
from tallystick.compile.targets.intel_ita.choice import IntelIta
from tallystick.compile.targets.keylime.choice import Keylime
from tallystick.compile.targets.nvidia.choice import Nvidia
from tallystick.compile.targets.registry import backend
from tallystick.compile.targets.vault_jwt.choice import Tokens, VaultJwt
from tallystick.core.expect import AtLeast, AtLeastVersion, Exactly, Expect, NoneOf, OneOf, Waived
from tallystick.formats.yamldoc import Place
from tallystick.policy.model import Target
from tallystick.policy.normal import (
    Denial,
    DeviceRule,
    KeyRule,
    NormalForm,
    PermittedRelease,
    PlatformRule,
    Residual,
    Tuple,
)
from tallystick.policy.platforms import ClaimType, platform

END = datetime(2027, 6, 1, tzinfo=UTC)
WAIVED = Waived("docs/decisions/0110-tokens-and-policies.md", "alice@example.org", END)
HERE = Place(line=1, column=1)
TCB: tuple[tuple[str, Expect], ...] = tuple(
    (f"reported_tcb_{part}", AtLeast(least))
    for part, least in (("bootloader", 3), ("tee", 0), ("snp", 8), ("microcode", 115))
)
GPU = DeviceRule(
    platform="nvidia-gpu",
    evidence_kind="nvidia-gpu",
    roots=("nvidia",),
    least=2,
    require=tuple(
        sorted(
            (
                *platform("nvidia-gpu").strict,
                *platform("nvidia-gpu").debug_off,
                ("hwmodel", OneOf(("GB100 A01 GSP BROM", "GH100 A01 GSP BROM"))),
                ("x-nvidia-gpu-driver-version", AtLeastVersion("570.124")),
                ("x-nvidia-gpu-vbios-version", OneOf(("96.00.74.00.1F", "96.00.D9.00.01"))),
            ),
            key=lambda pair: pair[0],
        )
    ),
    deny=(
        Denial(
            name="driver-580-1",
            claim="x-nvidia-gpu-driver-version",
            values=("580.1",),
            reason="a driver that is known bad",
            since=date(2026, 1, 1),
        ),
    ),
)
CHOICES: Mapping[str, Target] = {
    "intel-ita": IntelIta(name="intel-ita", place=HERE, waivers=(), token_seconds=300),
    "contrast": Contrast(
        name="contrast",
        place=HERE,
        waivers=(),
        coordinator="ee" * 32,
        products=("Genoa", "Milan"),
        sans=("*",),
        workload_owners=("0a" * 32,),
        seedshare_owners=(),
    ),
    "keylime": Keylime(name="keylime", place=HERE, waivers=(), quote_interval_seconds=60),
    "nvidia": Nvidia(name="nvidia", place=HERE, waivers=()),
    "corim": CorimTarget(name="corim", place=HERE, waivers=(), evidence_seconds=300),
    "vault-jwt": VaultJwt(
        name="vault-jwt",
        place=HERE,
        waivers=(),
        tokens=Tokens.GCP,
        issuer="https://confidentialcomputing.googleapis.com",
        audiences=("https://vault.example",),
        mount="jwt",
        secrets="secret",
        token_seconds=300,
        login_seconds=60,
    ),
}
# What each target is tried on: its platforms with what is asked of them beside the strict defaults.
ASKED: Mapping[str, tuple[tuple[str, str, tuple[tuple[str, Expect], ...]], ...]] = {
    "intel-ita": (
        ("intel-tdx", "intel", (("tcb_eval_num", AtLeast(17)),)),
        ("amd-sev-snp", "amd", (*TCB, ("id_key_digest", NoneOf(("ab" * 48,))))),
    ),
    "contrast": (("amd-sev-snp", "amd", (*TCB, ("platform_smt_enabled", Exactly(value=False)))),),
    "keylime": (("qemu-vtpm", "software-tpm", (("pcr17", OneOf(("0" * 64, "f" * 64))),)),),
    "nvidia": (("amd-sev-snp", "amd", TCB),),
    "corim": (
        ("amd-sev-snp", "amd", TCB),
        ("qemu-vtpm", "software-tpm", (("safe", Exactly(value=True)),)),
    ),
    "vault-jwt": (
        (
            "gcp-confidential-space",
            "google-confidential-space",
            (("hwmodel", OneOf(("GCP_AMD_SEV", "GCP_INTEL_TDX"))),),
        ),
    ),
}
TARGETS = tuple(sorted(ASKED))
_DIGITS = {ClaimType.SHA256: 64, ClaimType.SHA384: 96, ClaimType.BYTES64: 128, ClaimType.OCI_DIGEST: 64}


def value(kind: ClaimType, seed: str) -> str:
    """A register's value, made from ``seed``."""
    digits = (hashlib.sha512(seed.encode()).hexdigest() * 2)[: _DIGITS[kind]]
    return f"sha256:{digits}" if kind is ClaimType.OCI_DIGEST else digits


def entry(name: str, image: str, **pinned: Expect) -> Tuple:
    """A tuple of one image on one platform; pcr10 is waived where there is one."""
    known = platform(name)
    expect: dict[str, Expect] = {
        path: Exactly(value(kind, f"{name} {path} {image}")) for path, kind in known.pinned
    }
    expect |= {path: WAIVED for path in expect if path.endswith("pcr10")} | pinned
    return Tuple(
        platform=name,
        evidence_kind=known.evidence_kind,
        image=digest(f"image {image}"),
        firmware=digest("firmware"),
        shape=(("vcpus", 1),),
        expect=tuple(sorted(expect.items())),
    )


def release(image: str, *tuples: Tuple) -> PermittedRelease:
    vsa = digest(f"vsa {image}")
    return PermittedRelease(
        digest=digest(f"release {image}"),
        name="confidential-inference",
        version="0.1.0",
        promoted_at=NOW,
        vsa=vsa,
        bundles=tuple(sorted([vsa, digest(f"bundle {image}")], key=str)),
        labels=(),
        tuples=tuple(sorted(tuples, key=repr)),
    )


def rule(name: str, root: str, *asked: tuple[str, Expect], **more: Any) -> PlatformRule:
    known = platform(name)
    require = {**dict(known.strict), **dict(known.debug_off), **dict(asked)}
    return PlatformRule(
        platform=name,
        evidence_kind=known.evidence_kind,
        roots=(root,),
        require=tuple(sorted(require.items())),
        **more,
    )


def form(
    rules: tuple[PlatformRule, ...], releases: tuple[PermittedRelease, ...], **changes: Any
) -> NormalForm:
    made = NormalForm(
        policy="confidential-inference",
        policy_digest=digest("policy"),
        channel="staging",
        keys=(
            KeyRule(key="confidential-inference/tokenizer/v1", artifact="tokenizer"),
            KeyRule(key="confidential-inference/weights/v1", artifact="weights"),
        ),
        releases=tuple(sorted(releases, key=lambda one: str(one.digest))),
        platforms=tuple(sorted(rules, key=lambda one: one.platform)),
        max_age_seconds=600,
        reattest_seconds=600,
        waivers=(("pcr10", WAIVED),),
        residuals=(),
        not_after=END,
    )
    return replace(made, **changes)


@dataclass(frozen=True)
class World:
    """One target with a form, everything waived that it can not say, and what it made of it."""

    backend: Backend
    form: NormalForm
    choice: Target
    made: Emitted

    def prove(self, files: Mapping[str, bytes] | None = None) -> Any:
        return self.backend.prove(self.made.files if files is None else files, self.form, self.choice, NOW)


@cache
def world(target: str, images: tuple[str, ...] = ("a", "b")) -> World:
    devices = (GPU,) if target == "nvidia" else ()
    rules = tuple(rule(name, root, *asked, devices=devices) for name, root, asked in ASKED[target])
    releases = tuple(
        release(image, *(entry(name, image) for name, _, _ in ASKED[target])) for image in images
    )
    return compiled(target, form(rules, releases))


def compiled(target: str, made: NormalForm, choice: Target | None = None) -> World:
    found, entry_of = backend(target), choice or CHOICES[target]
    made = waiving(found, made, entry_of)
    return World(found, made, entry_of, found.emit(made, entry_of))


def waiving(found: Backend, made: NormalForm, choice: Target) -> NormalForm:
    """The form with everything waived that the target can not express."""
    names = sorted({lack.requirement for lack in found.lacks(made, choice)})
    residuals = tuple(Residual(target=found.name, requirement=name, waived=WAIVED) for name in names)
    return replace(made, residuals=residuals)
