"""The normal form: whole release tuples and constraints, as targets and the broker read them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from tallystick.core.digests import Digest
from tallystick.core.expect import Expect


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuple:
    """All Reference Values of one release on one platform and shape. Never split, never mixed."""

    platform: str
    evidence_kind: str
    image: Digest  # sha256 of the measured image file
    firmware: Digest  # sha256 of the firmware file
    shape: tuple[tuple[str, int | str], ...]  # sorted: (("ram_mib", 512), ("vcpus", 1), ("vmm", "qemu"))
    expect: tuple[tuple[str, Expect], ...]  # claim path -> expectation, sorted by path
    artifacts: tuple[Digest, ...] = ()  # the artifact releases whose init-data is pinned, sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class PermittedRelease:
    """One verified, promoted release and everything its permission rests on."""

    digest: Digest  # the release digest
    name: str
    version: str
    promoted_at: datetime  # when the promotion's VSA was signed; the newest release is named first
    vsa: Digest  # of the promotion's bundle
    bundles: tuple[Digest, ...]  # of every verified bundle, sorted
    labels: tuple[str, ...]  # roots it rests on: ("embedded-dev",)
    tuples: tuple[Tuple, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRule:
    """One key and the artifact it opens."""

    key: str  # KBS resource path: "confidential-inference/weights/v1"
    artifact: str  # "weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """Values of one claim that nobody may show, with the reason: a firmware or microcode that is known bad."""

    name: str  # "microcode-2026-07"
    claim: str  # claim path
    values: tuple[bool | int | str, ...]  # all of the claim's type, sorted by their text; of a list: elements
    reason: str  # "CVE-2026-0001"
    since: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a machine must be, and whose word is good enough for that."""

    name: str  # "zone": one of platforms.PLACES
    values: tuple[str, ...]  # sorted
    strength: str  # platforms.Strength: the weakest source that is taken
    claim: str  # where evidence says it, strongly enough; "" when no claim does


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRule:
    """What is asked of every device of one kind. At least ``least`` of them must be shown."""

    platform: str  # "nvidia-gpu"
    evidence_kind: str
    roots: tuple[str, ...]  # sorted
    least: int  # 1 or more
    require: tuple[tuple[str, Expect], ...]  # claim path -> expectation, sorted by path
    deny: tuple[Denial, ...] = ()  # sorted by name


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformRule:
    """What is asked of every evidence of one platform, whichever release it matches."""

    platform: str
    evidence_kind: str
    roots: tuple[str, ...]  # labels of evidence roots that are accepted: ("software-tpm",), sorted
    require: tuple[tuple[str, Expect], ...]  # claim path -> expectation, sorted by path
    deny: tuple[Denial, ...] = ()  # sorted by name
    placement: tuple[Placement, ...] = ()  # sorted by name
    devices: tuple[DeviceRule, ...] = ()  # sorted by platform; devices of no rule are refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """A requirement that one target does not enforce, by a named decision."""

    target: str
    requirement: str
    waived: Expect  # always Waived


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalForm:
    """A compiled policy before any target language: who may get which keys, and on what evidence."""

    policy: str  # name
    policy_digest: Digest  # sha256 of the policy file a person wrote
    channel: str
    keys: tuple[KeyRule, ...]  # sorted by key
    releases: tuple[PermittedRelease, ...]  # sorted by digest
    platforms: tuple[PlatformRule, ...]  # sorted by platform
    max_age_seconds: int  # oldest evidence that is accepted
    waivers: tuple[tuple[str, Expect], ...]  # requirement name -> Waived, sorted
    residuals: tuple[Residual, ...]  # sorted by target, requirement
    not_after: datetime  # the compiled policy's own end
    reattest_seconds: int  # a workload that holds a key attests again within this time, or its lease ends
    parties: tuple[
        str, ...
    ] = ()  # whose requirements these are, all of them; sorted; () is the author's alone

    def platform(self, name: str) -> PlatformRule | None:
        """Return the rule of the platform ``name``, or None when this policy does not allow it."""
        return next((rule for rule in self.platforms if rule.platform == name), None)
