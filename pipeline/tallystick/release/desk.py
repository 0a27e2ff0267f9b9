"""Where a channel is changed: its folder, what is trusted, and what comes of a change.

Every change happens under the channel's lock, and is published only when a client would take it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tallystick.core.errors import Refused
from tallystick.core.findings import Finding
from tallystick.release import changes, channel, metadata
from tallystick.release.changes import Lifetimes
from tallystick.release.keys import Signatory
from tallystick.release.metadata import State
from tallystick.release.records import Change, Gate, HighWater, VerifiedPolicies
from tallystick.release.tuf import Folder
from tallystick.signing.records import Trust

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Where a change is made: the channel's folder, what is trusted, when, and what was seen before."""

    folder: Folder
    channel: str
    trust: Trust
    now: datetime
    seen: HighWater = field(default_factory=HighWater)
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    max_age: timedelta | None = metadata.MAX_AGE  # of the timestamp; None for a replay

    def state(self) -> State:
        """Return the verified state of the channel."""
        root = channel.pinned_root(self.trust, self.channel)
        return self.folder.verify(root, self.channel, self.now, self.seen, self.max_age)

    def policies(self, state: State) -> VerifiedPolicies:
        """Return the policies and revocations of ``state``."""
        return channel.policies_of(self.folder.read, state, self.seen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a proposal or an approval."""

    change: Change
    live: bool
    gates: tuple[Gate, ...] = ()
    high_water: HighWater = field(default_factory=HighWater)


def publish(desk: Desk, state: State, changed: Mapping[str, Metadata[Targets]], online: Signatory) -> None:
    """Publish ``changed``, but only what a client would then take.

    Raises:
        NotGenuine, Refused: a client would refuse it; nothing was written.
    """
    files = changes.publication(state, changed, online, now=desk.now, lifetimes=desk.lifetimes)
    read = desk.folder.with_files(files)
    after = metadata.verify(
        read, channel.pinned_root(desk.trust, desk.channel), desk.channel, desk.now, state.high_water
    )
    channel.policies_of(read, after, desk.policies(state).high_water)
    desk.folder.publish(files)


def refusal(code: str, where: str, want: str, got: str) -> Refused:
    """Return the error ``release.channel.<code>``; the caller raises it."""
    finding = Finding(f"release.channel.{code}", where, want=want, got=got)
    return Refused(finding.message, findings=[finding])
