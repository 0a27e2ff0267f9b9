"""Forms by hand for the three clouds, and what their owners say of their keys."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from policy.policyworld import NOW, TOKENIZER, WEIGHTS, digest, form

from tallystick.compile.targets.aws_kms.choice import AwsKmsTarget
from tallystick.compile.targets.azure_skr.choice import AzureSkrTarget
from tallystick.compile.targets.base import Backend, Emitted, Proof
from tallystick.compile.targets.gcp_wif.choice import GcpWifTarget
from tallystick.compile.targets.registry import backend
from tallystick.core.expect import AtLeast, Exactly, Expect, NoneOf, OneOf, Waived
from tallystick.formats.yamldoc import Place
from tallystick.policy.model import Target
from tallystick.policy.normal import NormalForm, PermittedRelease, PlatformRule, Residual, Tuple
from tallystick.policy.platforms import platform

HERE = Place(line=1, column=1)
END = NOW + timedelta(days=90)
WAIVED = Waived("docs/decisions/0106-clouds.md", "alice@example.org", END)
ADMIN = "arn:aws:iam::111122223333:role/KeyAdmin"
WORKLOAD = "arn:aws:iam::111122223333:role/Workload"
AUTHORITY = "https://acme.weu.attest.azure.net"
KEYS = (TOKENIZER, WEIGHTS)
AWS = AwsKmsTarget(
    name="aws-kms",
    place=HERE,
    waivers=(),
    administrators=(ADMIN,),
    workloads=(WORKLOAD,),
    keys=tuple((key, f"arn:aws:kms:eu-central-1:111122223333:key/{n}") for n, key in enumerate(KEYS)),
)
AZURE = AzureSkrTarget(
    name="azure-skr",
    place=HERE,
    waivers=(),
    authority=AUTHORITY,
    token_minutes=10,
    keys=tuple((key, f"https://acme.vault.azure.net/keys/k{n}") for n, key in enumerate(KEYS)),
)
GCP = GcpWifTarget(
    name="gcp-wif",
    place=HERE,
    waivers=(),
    project_number="42",
    pool="acme",
    provider="tally",
    keys=tuple((key, f"projects/acme/locations/eu/keyRings/r/cryptoKeys/k{n}") for n, key in enumerate(KEYS)),
)
CHOICES: Mapping[str, Target] = {"aws-kms": AWS, "azure-skr": AZURE, "gcp-wif": GCP}
PLATFORMS = {"aws-kms": ("aws-nitro",), "azure-skr": ("azure-aci",), "gcp-wif": ("gcp-confidential-space",)}
ROOTS = {
    "aws-nitro": "aws-nitro",
    "nitro-tpm": "aws-nitro",
    "azure-aci": "amd",
    "amd-sev-snp": "amd",
    "intel-tdx": "intel",
    "gcp-confidential-space": "google-confidential-space",
}
TCB: dict[str, Expect] = {
    "reported_tcb_bootloader": AtLeast(4),
    "reported_tcb_microcode": AtLeast(115),
    "reported_tcb_snp": AtLeast(8),
    "reported_tcb_tee": AtLeast(0),
}
REQUIRE: Mapping[str, dict[str, Expect]] = {
    "aws-nitro": {"pcr3": Exactly("c3" * 48)},
    "azure-aci": {**TCB, "policy_smt_allowed": OneOf((False, True))},
    "gcp-confidential-space": {
        "hwmodel": OneOf(("GCP_AMD_SEV", "GCP_INTEL_TDX")),
        "submods.gce.project_id": Exactly("acme-prod"),
        "submods.gce.zone": NoneOf(("us-west1-a",)),
    },
}


def value(name: str, path: str, size: int) -> str:
    """A register's value of an image: hex digits of any size."""
    return hashlib.shake_256(f"{name} {path}".encode()).hexdigest(size // 2)


def entry(name: str, image: str, known: str) -> Tuple:
    row = platform(known)
    sizes = {"SHA256": 64, "SHA384": 96, "BYTES64": 128}
    pins = {
        path: f"sha256:{value(image, path, 64)}"
        if kind.name == "OCI_DIGEST"
        else value(image, path, sizes[kind.name])
        for path, kind in row.pinned
    }
    return Tuple(
        platform=known,
        evidence_kind=row.evidence_kind,
        image=digest(f"image {image}"),
        firmware=digest("firmware"),
        shape=(("name", name),),
        expect=tuple(sorted((path, Exactly(text)) for path, text in pins.items())),
    )


def release(number: int, tuples: int, platforms: tuple[str, ...]) -> PermittedRelease:
    vsa = digest(f"vsa {number}")
    return PermittedRelease(
        digest=digest(f"release {number}"),
        name="confidential-inference",
        version=f"0.{number}.0",
        promoted_at=NOW - timedelta(days=10) + timedelta(seconds=number),
        vsa=vsa,
        bundles=tuple(sorted((vsa, digest(f"bundle {number}")), key=str)),
        labels=(),
        tuples=tuple(entry(f"s{n}", f"{number}-{n}", known) for known in platforms for n in range(tuples)),
    )


def rule(known: str, require: Mapping[str, Expect] | None = None) -> PlatformRule:
    row = platform(known)
    wanted = {
        **dict(row.strict),
        **dict(row.debug_off),
        **(REQUIRE.get(known, {}) if require is None else require),
    }
    return PlatformRule(
        platform=known,
        evidence_kind=row.evidence_kind,
        roots=(ROOTS[known],),
        require=tuple(sorted(wanted.items())),
    )


def cloud_form(
    target: str,
    releases: int = 2,
    tuples: int = 1,
    *,
    platforms: tuple[str, ...] = (),
    require: Mapping[str, Expect] | None = None,
    **changes: object,
) -> NormalForm:
    """A form that ``target`` expresses, with what it lacks waived."""
    platforms = platforms or PLATFORMS[target]
    waive = ("end",) if target == "azure-skr" else ()
    return form(
        *(release(number, tuples, platforms) for number in range(releases)),
        platforms=tuple(rule(known, require) for known in sorted(platforms)),
        residuals=tuple(Residual(target=target, requirement=name, waived=WAIVED) for name in waive),
        max_age_seconds=7_200 if target == "gcp-wif" else 600,
        waivers=(),
        **changes,
    ) if releases else replace(
        form(platforms=tuple(rule(known, require) for known in platforms)),
        releases=(),
        residuals=tuple(Residual(target=target, requirement=name, waived=WAIVED) for name in waive),
        max_age_seconds=7_200 if target == "gcp-wif" else 600,
    )  # fmt: skip


@dataclass(frozen=True)
class World:
    form: NormalForm
    choice: Target
    backend: Backend

    @property
    def made(self) -> Emitted:
        return self.backend.emit(self.form, self.choice)

    def prove(self, files: Mapping[str, bytes] | None = None) -> Proof:
        return self.backend.prove(self.made.files if files is None else files, self.form, self.choice, NOW)


def world(target: str, releases: int = 2, tuples: int = 1, **changes: object) -> World:
    choice = changes.pop("choice", CHOICES[target])
    assert isinstance(choice, Target)
    return World(cloud_form(target, releases, tuples, **changes), choice, backend(target))
