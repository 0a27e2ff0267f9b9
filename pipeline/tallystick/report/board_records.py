"""What the release managers' page shows, as plain values: who fills this in has checked it, the page only draws."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tallystick.core.digests import Digest
from tallystick.core.findings import Finding
from tallystick.report.records import (
    ComponentView,
    DecisionView,
    LogView,
    MeasurementView,
    PromotionView,
    RebuildView,
    SignatureView,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One release that a key is given to now."""

    name: str
    version: str
    digest: Digest
    promoted_at: datetime
    verdict: Digest  # of the promotion's VSA bundle
    platforms: tuple[tuple[str, int], ...]  # (platform, launch shapes)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyView:
    """One key, and who may have it now."""

    key: str
    policy: str
    digest: Digest  # of the compiled policy
    max_age_seconds: int
    reattest_seconds: int
    not_after: datetime
    waivers: tuple[str, ...]
    runs: tuple[RunView, ...]  # newest first; none: nobody gets the key


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeView:
    """One change of the channel that waits, or the last one that did not."""

    kind: str
    summary: str
    author: str
    approvers: tuple[str, ...]
    missing: int  # approvals; 0: it is live
    at: datetime
    role: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationView:
    """One person's word that a release is not to be used any more."""

    release: Digest
    by: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelView:
    """The channel as its metadata say it, verified."""

    name: str
    version: int
    expires: datetime
    threshold: int
    platforms: tuple[str, ...]
    people: tuple[str, ...]
    waiting: tuple[ChangeView, ...] = ()
    last: tuple[ChangeView, ...] = ()
    revoked: tuple[RevocationView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    """One link of a release's chain."""

    name: str
    said: str
    digest: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseCard:
    """One release of the channel, from its source to its measurements, and what is new in it."""

    name: str
    version: str
    digest: Digest
    labels: tuple[str, ...]
    chain: tuple[StageView, ...]
    components: tuple[ComponentView, ...]
    measurements: tuple[MeasurementView, ...]
    signatures: tuple[SignatureView, ...]
    rebuilds: tuple[RebuildView, ...]
    rebuilds_needed: int
    promotion: PromotionView
    before: str = ""  # "confidential-inference 0.1.0 sha256:…"; empty for the first of its name
    changes: tuple[str, ...] = ()  # since that one


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseView:
    """One key in a machine's hands."""

    lease: str
    key: str
    release: str
    holder: str
    state: str
    issued_at: datetime
    renewed_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EndView:
    """One thing that ends."""

    at: datetime
    kind: str
    what: str
    then: str
    stops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A part of the page that could not be verified, and why: nothing of it is shown."""

    part: str  # "channel"
    message: str
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """The release managers' page."""

    made_at: datetime
    made_by: str
    channel: str
    keys: tuple[KeyView, ...] = ()
    unusable: tuple[Finding, ...] = ()  # policies of the channel that permit nothing, and why
    state: ChannelView | None = None
    releases: tuple[ReleaseCard, ...] = ()  # newest first
    leases: tuple[LeaseView, ...] = ()  # that hold; soonest end first
    more_leases: int = 0  # that hold and are not listed
    refusals: tuple[DecisionView, ...] = ()  # newest first
    refused: int = 0  # all there were
    released: int = 0
    log: LogView | None = None
    ends: tuple[EndView, ...] = ()  # soonest first
    notes: tuple[str, ...] = ()
    troubles: tuple[Trouble, ...] = ()
