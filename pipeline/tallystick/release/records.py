"""What a release is: its index, who rebuilt it, and what a channel permits. Verified values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from tallystick.build.records import Contents
from tallystick.core.digests import Digest
from tallystick.core.findings import Finding
from tallystick.handshake.manifest import Manifest
from tallystick.measure.records import Measurement
from tallystick.signing.records import Builder, Identity, VerifiedStatement


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedFile:
    """One file that the index names."""

    path: str  # inside the release directory, with "/"
    digest: Digest  # sha256
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """The build-time index. The sha256 of its exact bytes is the release digest."""

    name: str
    version: str
    files: tuple[IndexedFile, ...]  # sorted by path
    statements: tuple[tuple[str, Digest], ...]  # ("provenance", sha256 of statements/provenance.json), sorted
    products: tuple[tuple[str, str], ...]  # ("uki", "products/uki.efi"), sorted
    digest: Digest  # the release digest

    def file(self, path: str) -> IndexedFile | None:
        """Return the entry of ``path``, or None when the index does not name it."""
        for entry in self.files:
            if entry.path == path:
                return entry
        return None

    def product_files(self) -> tuple[IndexedFile, ...]:
        """Return the entries of the products, sorted by path."""
        paths = {path for _, path in self.products}
        return tuple(entry for entry in self.files if entry.path in paths)

    def under(self, prefix: str) -> tuple[IndexedFile, ...]:
        """Return the entries whose path begins with ``prefix``."""
        return tuple(entry for entry in self.files if entry.path.startswith(prefix))


@dataclass(frozen=True, slots=True, kw_only=True)
class Functionary:
    """One independent builder that the layout names, and its key."""

    name: str  # "rebuilder"
    builder_id: str  # the same namespace as SLSA's builder.id
    organisation: str  # two functionaries of one organisation count once
    keyid: str
    public_key: bytes  # raw Ed25519, 32 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """The rebuilds of one release, every one genuine and equal to it. Made by ``release.quorum`` alone."""

    threshold: int  # from the owner's layout
    counted: tuple[Functionary, ...]  # independent builders that got the same bytes, sorted by name
    not_counted: tuple[tuple[Functionary, str], ...]  # genuine and equal, and why each does not count
    links: tuple[tuple[str, Digest], ...]  # (file name, sha256), sorted

    @property
    def met(self) -> bool:
        """Whether enough independent builders agree."""
        return len(self.counted) >= self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """One person's word that a release is not to be used any more."""

    release: Digest
    by: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedRelease:
    """A release whose every part was verified against the trust file."""

    index: Index
    statements: tuple[tuple[str, VerifiedStatement], ...]  # provenance, sbom, measurements, index; sorted
    builder: Builder
    quorum: Quorum  # perhaps not met: a channel admits only releases whose quorum is
    measurements: tuple[Measurement, ...]
    contents: tuple[Contents, ...]
    vsa: VerifiedStatement | None  # the promotion's verdict; set for every release of a channel
    labels: tuple[str, ...]  # roots that it rests on: ("embedded-dev",)
    source: VerifiedStatement | None = (
        None  # the Source VSA of its commit, whose signer is the commit's author
    )

    @property
    def digest(self) -> Digest:
        """The release digest."""
        return self.index.digest

    @property
    def bundles(self) -> tuple[Digest, ...]:
        """The digests of every bundle that this release rests on, sorted."""
        found = [statement.bundle for _, statement in self.statements]
        if self.vsa is not None:
            found.append(self.vsa.bundle)
        if self.source is not None:
            found.append(self.source.bundle)
        return tuple(sorted(found, key=str))

    def statement(self, name: str) -> VerifiedStatement:
        """Return the verified statement called ``name``; KeyError when there is none."""
        return dict(self.statements)[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedArtifacts:
    """An artifact release whose manifest and SBOM were verified against the trust file."""

    manifest: Manifest
    statements: tuple[tuple[str, VerifiedStatement], ...]  # artifacts, sbom; sorted
    labels: tuple[str, ...]  # roots that it rests on: ("embedded-dev",)

    @property
    def digest(self) -> Digest:
        """The artifact release's digest."""
        return self.manifest.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One check that runs before a promotion: what it looked at, and what did not hold."""

    name: str  # "quorum"
    detail: str  # for people, when it passed: "1 of 1 rebuilders agree: rebuilder"
    findings: tuple[Finding, ...]
    genuine: bool = True  # False: what failed is a signature or digest, not a requirement

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who holds a key of a channel."""

    name: str  # "alice"
    identity: Identity  # the Sigstore identity that signs as this person
    keyid: str
    public_key: bytes  # raw Ed25519, 32 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a channel asks of a release beyond what every channel asks. The defaults ask for nothing more."""

    slsa_build_level: int = 1
    slsa_source_level: int | None = None  # of the commit's Source VSA; None: the channel asks for none
    denied_components: tuple[str, ...] = ()  # purls; one without a version denies every version
    denied_licences: tuple[str, ...] = ()  # SPDX identifiers
    vulnerabilities_days: int | None = (
        None  # how old signed advisories may be; None: the channel asks for none
    )
    push: tuple[str, ...] = ()  # people who may propose; none listed: every person of the channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a channel asks of every release. Signed state: part of its top-level targets metadata."""

    name: str  # "staging"
    platforms: tuple[str, ...]  # each release carries a measurement for each of these
    threshold: int  # people, apart from the author, who approve a change
    rules: Rules = Rules()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One proposed or published change of a channel."""

    role: str  # "releases" | "policies"
    version: int  # of the role's metadata
    kind: str  # "release" | "policy" | "removal"
    author: str  # person name
    summary: str  # "confidential-inference 0.1.0"
    at: datetime
    signed_by: tuple[str, ...]  # person names, the author's included, sorted
    needed: int  # approvals that are missing
    adds: tuple[str, ...]  # target paths
    removes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HighWater:
    """The highest of everything a client has seen of one channel. It never goes down."""

    versions: tuple[tuple[str, int], ...] = ()  # metadata role -> version, sorted
    revoked: tuple[str, ...] = ()  # release digests, sorted: a revocation is never undone
    at: datetime | None = None  # the latest instant a load was made for

    def version(self, role: str) -> int:
        """Return the highest version of ``role`` that was seen; 0 when none was."""
        return dict(self.versions).get(role, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedPolicies:
    """What a broker needs of a channel: the approved policy files, what is revoked, and until when."""

    channel: str
    version: int  # of the timestamp metadata: higher with every publication and refresh
    expires: datetime  # the earliest end of any metadata that was used
    policies: Mapping[str, bytes]  # "confidential-inference/broker/policy.json" -> bytes
    revocations: tuple[Revocation, ...]
    high_water: HighWater  # to keep, and to pass to the next load

    @property
    def revoked(self) -> frozenset[Digest]:
        """The digests of the revoked releases."""
        return frozenset(revocation.release for revocation in self.revocations)

    def policy(self, name: str) -> Mapping[str, bytes]:
        """Return the files of the policy ``name``, by their path below it; empty when there is none."""
        start = f"{name}/"
        return {path[len(start) :]: data for path, data in self.policies.items() if path.startswith(start)}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedChannel:
    """A channel's state, with every release verified again from its bundles."""

    settings: Settings
    state: VerifiedPolicies
    releases: tuple[VerifiedRelease, ...]  # promoted and not revoked, sorted by name, version, digest
    people: tuple[Person, ...] = ()
    changes: tuple[Change, ...] = ()  # the last published change of each role: who proposed and approved it
    artifacts: tuple[VerifiedArtifacts, ...] = ()  # promoted and not revoked, sorted by name, version, digest

    @property
    def name(self) -> str:
        """The channel's name."""
        return self.settings.name

    @property
    def version(self) -> int:
        """The version of the channel's timestamp metadata."""
        return self.state.version

    @property
    def expires(self) -> datetime:
        """The earliest end of any metadata that was used."""
        return self.state.expires

    @property
    def policies(self) -> Mapping[str, bytes]:
        """The approved policy files by path."""
        return self.state.policies
