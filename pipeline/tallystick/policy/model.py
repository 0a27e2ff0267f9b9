"""The policy a person wrote, as records: checked for form, not yet for sense."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from tallystick.core.digests import Digest
from tallystick.core.expect import Expect, Waived
from tallystick.formats.yamldoc import Place
from tallystick.policy.normal import KeyRule
from tallystick.signing.records import Builder


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
    unexplained_files: int  # most files of a product that no component accounts for


@dataclass(frozen=True, slots=True, kw_only=True)
class SupplyChain:
    """What a release must show before its measurements become Reference Values."""

    builders: tuple[Builder, ...]  # exact identities; sorted by identity
    slsa_build_level: int
    rebuilds: Rebuilds
    sbom: Sbom


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformChoice:
    """A platform that may hold the keys, and what is asked of it beyond the release's tuple."""

    platform: str
    roots: tuple[str, ...]  # labels of roots that evidence may end in, sorted
    require: tuple[tuple[str, Expect], ...]  # claim path -> expectation, sorted
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerTarget:
    """Our own broker. It expresses everything, so it has nothing to waive."""

    place: Place
    name: str = "broker"
    waivers: tuple[Waiver, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrusteeTarget:
    """A Trustee deployment, and what its owner says of its configuration."""

    place: Place
    version: str  # "0.21"
    session_minutes: int  # its `attestation_service.timeout`: longest time from challenge to evidence
    attestation_keys: tuple[str, ...]  # base64 DER SPKI of the keys that may sign evidence; empty: not pinned
    waivers: tuple[Waiver, ...]
    name: str = "trustee"


Target = BrokerTarget | TrusteeTarget


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
    waivers: tuple[Waiver, ...]  # sorted by requirement
    targets: tuple[Target, ...]  # sorted by name
    digest: Digest  # sha256 of the file's bytes
    places: tuple[tuple[str, Place], ...]  # of fields that a rule may point at: ("until", line 4 column 8)

    def place(self, field: str) -> Place:
        """Where ``field`` stands in the file."""
        return dict(self.places)[field]

    def waiver(self, requirement: str) -> Waiver | None:
        """Return the waiver of ``requirement``, or None when it is not waived."""
        return next((waiver for waiver in self.waivers if waiver.requirement == requirement), None)

    def target(self, name: str) -> Target | None:
        """Return the target called ``name``, or None when this policy is not for it."""
        return next((target for target in self.targets if target.name == name), None)
