"""The policy a person wrote, as records: checked for form, not yet for sense."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum

from tallystick.core.digests import Digest
from tallystick.core.expect import Expect, Waived
from tallystick.formats.yamldoc import Place
from tallystick.policy.normal import Denial, KeyRule
from tallystick.policy.platforms import Strength
from tallystick.signing.records import Builder, Identity


class Channel(Enum):
    """An environment that releases are promoted into. Only ``production`` is production."""

    DEBUG = "debug"
    STAGING = "staging"
    PRODUCTION = "production"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """A requirement that is off: whose decision, and until when."""

    requirement: str  # "pcr10"
    decision: str  # where the decision is written down
    decided_by: str
    until: datetime
    place: Place

    @property
    def waived(self) -> Waived:
        """The waiver as an expectation."""
        return Waived(self.decision, self.decided_by, self.until)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilds:
    """How many independent builders must have made the same bytes."""

    threshold: int
    not_counted: tuple[str, ...]  # organisations whose rebuilds do not count, sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class Sbom:
    """What must not be in a release."""

    denied: tuple[str, ...]  # purls; one without a version denies every version
    unexplained_files: (
        int  # most files of a product that no component accounts for; 0 leaves no byte unexplained
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Approvals:
    """Who must have signed the channel's list of releases, beside what the channel itself asks for."""

    threshold: int
    of: tuple[Identity, ...]  # exact identities that count, sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class SupplyChain:
    """What a release must show before its measurements become Reference Values."""

    builders: tuple[Builder, ...]  # exact identities; sorted by identity
    slsa_build_level: int
    rebuilds: Rebuilds
    sbom: Sbom
    approvals: Approvals | None = None  # None: the channel's own threshold is enough


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementChoice:
    """Where machines must be, and the weakest source that is believed."""

    name: str  # "zone"
    values: tuple[str, ...]  # sorted
    strength: Strength
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChoice:
    """Devices that a machine must show, and what is asked of each of them."""

    platform: str  # "nvidia-gpu"
    roots: tuple[str, ...]  # sorted
    least: int
    require: tuple[tuple[str, Expect], ...]  # sorted
    deny: tuple[Denial, ...]  # sorted by name
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformChoice:
    """A platform that may hold the keys, and what is asked of it beyond the release's tuple."""

    platform: str
    roots: tuple[str, ...]  # labels of roots that evidence may end in, sorted
    require: tuple[tuple[str, Expect], ...]  # claim path -> expectation, sorted
    place: Place
    deny: tuple[Denial, ...] = ()  # sorted by name
    placement: tuple[PlacementChoice, ...] = ()  # sorted by name
    devices: tuple[DeviceChoice, ...] = ()  # sorted by platform


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareDenial:
    """Firmware files that no tuple may be measured with, with the reason."""

    name: str
    firmware: tuple[Digest, ...]  # sorted
    reason: str
    since: date
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One of several whose requirements all hold: its own supply chain, and its own platform requirements."""

    name: str  # "hospital.example"
    supply_chain: SupplyChain
    platforms: tuple[PlatformChoice, ...]  # sorted by platform
    max_age_seconds: int
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactChoice:
    """One artifact release that machines are launched with, in one of these versions."""

    name: str  # "letters"
    versions: tuple[str, ...]  # exactly these, sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifacts:
    """The artifact releases that init-data names. Every machine is launched with one version of each."""

    broker: str  # the address where the guest finds the broker; measured with the manifests
    releases: tuple[ArtifactChoice, ...]  # sorted by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A deployment that the policy is compiled for. Each target's module extends this with its own fields."""

    name: str  # "trustee"
    place: Place
    waivers: tuple[Waiver, ...]  # of what this target can not express; sorted by requirement

    @property
    def words(self) -> str:
        """What its owner says of it, in one line; for the difference of two policies."""
        return "compiled"

    @property
    def never_in_production(self) -> tuple[str, ...]:
        """Requirements that no production policy may waive for this target."""
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One policy file."""

    name: str
    channel: Channel
    until: datetime  # its own end
    releases: tuple[str, ...]  # names of the releases it is about, sorted
    keys: tuple[KeyRule, ...]  # sorted by key
    supply_chain: SupplyChain
    platforms: tuple[PlatformChoice, ...]  # sorted by platform
    max_age_seconds: int
    reattest_seconds: int
    waivers: tuple[Waiver, ...]  # sorted by requirement
    targets: tuple[Target, ...]  # sorted by name
    digest: Digest  # sha256 of the file's bytes
    places: tuple[tuple[str, Place], ...]  # of fields that a rule may point at: ("until", line 4 column 8)
    denied_firmware: tuple[FirmwareDenial, ...] = ()  # sorted by name
    parties: tuple[Party, ...] = ()  # beside the author, whose requirements are those above; sorted by name
    artifacts: Artifacts | None = None  # None: each release pins the init-data that it was measured with

    @property
    def sides(self) -> tuple[Policy | Party, ...]:
        """The author and every party: what each of them asks must hold."""
        return (self, *self.parties)

    def place(self, field: str) -> Place:
        """Where ``field`` stands in the file."""
        return dict(self.places)[field]

    def waiver(self, requirement: str) -> Waiver | None:
        """Return the waiver of ``requirement``, or None when it is not waived."""
        return next((waiver for waiver in self.waivers if waiver.requirement == requirement), None)

    def target(self, name: str) -> Target | None:
        """Return the target called ``name``, or None when this policy is not for it."""
        return next((target for target in self.targets if target.name == name), None)
