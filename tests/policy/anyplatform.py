"""Forms about any platform in the table, with values of each claim's own type: what the tests of targets start from."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta

from policy.policyworld import END, NOW, digest, form

from tallystick.core.expect import AtLeast, AtLeastVersion, Exactly, Expect, OneOf
from tallystick.policy.conjunction import rules
from tallystick.policy.model import DeviceChoice, PlatformChoice, Policy
from tallystick.policy.normal import NormalForm, PermittedRelease, Tuple
from tallystick.policy.platforms import ClaimType, Platform, platform

ROOTS = {
    "snp-report": "amd", "azure-snp-vtpm": "amd", "tdx-quote": "intel", "azure-tdx-vtpm": "intel", "sgx-quote": "intel",
    "nitro": "aws-nitro", "nitro-tpm": "aws-nitro", "cca-token": "cca-cpak", "gcp-token": "google-confidential-space",
    "nvidia-gpu": "nvidia", "tpm-quote": "software-tpm",
}  # fmt: skip
_DIGITS = {
    ClaimType.BYTES6: 12, ClaimType.BYTES8: 16, ClaimType.BYTES16: 32, ClaimType.SHA256: 64, ClaimType.SHA384: 96,
    ClaimType.BYTES64: 128, ClaimType.REALM: 96, ClaimType.HEX: 64,
}  # fmt: skip


def value(kind: ClaimType, seed: str) -> bool | int | str:
    """A value of a claim's type that depends on ``seed``."""
    if kind is ClaimType.BOOLEAN:
        return False
    if kind is ClaimType.INTEGER:
        return 7
    if kind is ClaimType.OCI_DIGEST:
        return str(digest(seed))
    if kind in _DIGITS:
        return hashlib.shake_128(seed.encode()).hexdigest(_DIGITS[kind] // 2)
    return f"text-{digest(seed).hex[:8]}"


def stated(known: Platform) -> tuple[tuple[str, Expect], ...]:
    """What a policy must say of a platform: a minimum of numbers, two values of the rest."""
    found: dict[str, Expect] = {}
    for path in known.stated:
        kind = known.claim_type(path)
        if kind is ClaimType.INTEGER:
            found[path] = AtLeast(7)
        elif path.endswith("driver-version"):
            found[path] = AtLeastVersion("590.12")
        else:
            found[path] = OneOf(tuple(sorted(str(value(kind, f"{path} {n}")) for n in (1, 2))))
    return tuple(sorted(found.items()))


def choice(name: str, **changes: object) -> PlatformChoice:
    known = platform(name)
    made = PlatformChoice(
        platform=name, roots=(ROOTS[known.evidence_kind],), require=stated(known), place=None
    )
    return replace(made, **changes)


def device(name: str = "nvidia-gpu", **changes: object) -> DeviceChoice:
    known = platform(name)
    made = DeviceChoice(
        platform=name,
        roots=(ROOTS[known.evidence_kind],),
        least=1,
        require=stated(known),
        deny=(),
        place=None,
    )
    return replace(made, **changes)


def entry(name: str, seed: str) -> Tuple:
    known = platform(name)
    expect = {path: Exactly(value(kind, f"{path} {seed}")) for path, kind in known.pinned}
    return Tuple(
        platform=name,
        evidence_kind=known.evidence_kind,
        image=digest(f"image {seed}"),
        firmware=digest("firmware"),
        shape=(("seed", seed),),
        expect=tuple(sorted(expect.items())),
    )


def release(names: tuple[str, ...], seed: str, days: int = 0) -> PermittedRelease:
    vsa = digest(f"vsa {seed}")
    return PermittedRelease(
        digest=digest(f"release {seed}"),
        name="confidential-inference",
        version="0.1.0",
        promoted_at=NOW - timedelta(days=10) + timedelta(days=days),
        vsa=vsa,
        bundles=(vsa,),
        labels=(),
        tuples=tuple(entry(name, seed) for name in sorted(names)),
    )


class _Written:
    """As much of a policy as its platform rules are made from."""

    def __init__(self, choices: tuple[PlatformChoice, ...]) -> None:
        self.platforms, self.parties, self.sides = choices, (), (self,)

    def waiver(self, requirement: str) -> None:
        return None


def rules_of(*choices: PlatformChoice):
    written: Policy = _Written(choices)  # type: ignore[assignment]
    return rules(written)


def form_of(*choices: PlatformChoice, releases: int = 2, **changes: object) -> NormalForm:
    """A form about these platforms and some releases, without waivers."""
    names = tuple(one.platform for one in choices)
    made = [release(names, f"r{number}", number) for number in range(releases)]
    return form(*made, platforms=rules_of(*choices), waivers=(), not_after=END, **changes)
