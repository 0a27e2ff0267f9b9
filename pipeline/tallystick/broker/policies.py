"""The policies in force: targets of the channel's TUF repository, verified at every use, and nothing else.

"Verified at every use" costs a few ``stat`` calls when no file that was read has changed since; expiry is
checked against the moment of use each time. There is no way to hand the broker a policy but the channel.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any

from tallystick.appraisal.horizon import bounds_of_form
from tallystick.appraisal.index import Prepared, prepare
from tallystick.broker.decisions import instant
from tallystick.core import jsondoc
from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine, Refused, TallystickError
from tallystick.core.files import read_file
from tallystick.core.findings import Finding
from tallystick.core.jsondoc import canonical
from tallystick.policy.normal import NormalForm, PermittedRelease
from tallystick.release.index import safe_path
from tallystick.release.metadata import MAX_AGE
from tallystick.release.records import HighWater, VerifiedPolicies

FILE = "broker/policy.json"  # under policies/<name>: what the compiler's broker target emits
_TICK_SECONDS = 0.05  # more than the granularity of a file's change time
_MAX_FILE_BYTES = 64 << 20
_LOOKS = 64  # files beside the metadata that one use looks at


Read = Callable[
    [str], bytes | None
]  # a path inside the channel's folder -> bytes, None when there is no file
_Stat = tuple[int, int, int, int]  # size, inode, time of modification, time of change


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a channel says at one moment, after every signature, digest, version and expiry has held."""

    policies: VerifiedPolicies
    releases: frozenset[Digest]  # that the channel lists: promoted, and not taken out again
    made_at: datetime | None = None  # when the channel's timestamp was signed; None: it does not say


Loader = Callable[[Read, datetime, HighWater], Verified]
Reader = Callable[[bytes], NormalForm]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPolicy:
    """One compiled policy of the channel: what it permits, and what it would but for what was taken out since."""

    name: str
    digest: Digest  # of the compiled policy's exact bytes
    data: bytes
    live: Prepared
    gone: Prepared  # only the releases that the channel revoked or removed since it was compiled
    bounds: tuple[datetime, ...]  # the last moment of the policy and of each of its waivers, sorted


@dataclass(frozen=True, kw_only=True)  # no slots: ``epoch`` is worked out once and kept
class PolicyState:
    """Everything that decides at one moment: the channel's verified policies and its revocations."""

    channel: str
    version: int  # of the channel's metadata
    expires: datetime
    revoked: tuple[str, ...]  # release digests, sorted
    policies: tuple[LoadedPolicy, ...]  # sorted by name
    by_key: Mapping[str, LoadedPolicy]
    unusable: tuple[Finding, ...]  # policies of the channel that this broker can not use, and why
    heard_at: datetime | None = None  # when the channel last spoke: its timestamp's own signing time

    @cached_property
    def epoch(self) -> bytes:
        """What changes exactly when other policies or revocations are in force."""
        return hashlib.sha256(canonical(self.public())).digest()

    def public(self) -> dict[str, Any]:
        """Return what the log says of this state."""
        return {
            "channel": self.channel,
            "version": self.version,
            "expires": instant(self.expires),
            "policies": {policy.name: str(policy.digest) for policy in self.policies},
            "revoked": list(self.revoked),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the store keeps of a channel: what is in force, and what it may never fall below."""

    epoch: bytes | None = None
    high_water: HighWater = field(default_factory=HighWater)


class PolicySource:
    """Gives the state in force, verified again when a file that it was read from has changed. Safe for threads."""

    def __init__(
        self,
        folder: Path,
        channel: str,
        *,
        load: Loader,
        read: Reader,
        seen: Callable[[], Seen],
        within: timedelta,
        announce: Callable[[PolicyState, HighWater, Seen, datetime], None],
    ) -> None:
        """Hold where the channel is and how it is verified.

        Args:
            load: verifies the channel as of a moment, never below a high-water mark.
            read: reads a compiled policy's normal form.
            seen: what is in force by now, whichever process put it there.
            within: how long ago the channel must have spoken: for so long a revocation can go unheard.
            announce: makes a new state durable, in the log too, and in force for every process that shares the
                store, unless another one has done so since it was ``seen``; raises where it has.
        """
        self._folder = folder
        self._channel = channel
        self._load = load
        self._read = read
        self._in_force = seen
        self._within = within
        self._announce = announce
        self._state: PolicyState | None = None
        self._seen: dict[str, _Stat | None] = {}
        self._metadata: tuple[str, ...] = ()
        self._others: tuple[str, ...] = ()
        self._turn = 0
        self._seen_at = 0.0
        self._settled = False
        self._lock = Lock()

    def current(self, now: datetime) -> PolicyState:
        """Return the state in force at ``now``.

        Raises:
            NotGenuine: a signature or digest in the channel does not hold; the error names the file.
            Refused: the metadata has expired, or is older than what was seen before.
            TallystickError: whatever else is wrong with the channel's files.
        """
        with self._lock:
            state = self._fresh(now)
        if state.expires <= now:
            finding = Finding(
                "release.channel.expired",
                f"metadata of channel {self._channel}",
                f"valid at {instant(now)}",
                f"valid until {instant(state.expires)}",
            )
            raise Refused(finding.message, findings=[finding])
        check_heard(state, within=self._within, now=now)
        return state

    def forget(self) -> None:
        """Verify the channel again at the next use: another process has put something else in force."""
        with self._lock:
            self._settled = False

    def _fresh(self, now: datetime) -> PolicyState:
        if self._state is not None and self._settled and self._unchanged():
            return self._state
        began, seen = time.monotonic(), dict[str, _Stat | None]()
        in_force = self._in_force()
        verified = self._load(self._reading(seen), now, in_force.high_water)
        state = state_of(verified, self._channel, self._read)
        if state.epoch != in_force.epoch:
            self._announce(state, verified.policies.high_water, in_force, now)
        # A file that was edited within the tick in which it was read keeps its change time: what was read is
        # taken for settled only once it was read again, unchanged, after that tick.
        self._settled = seen == self._seen and began - self._seen_at > _TICK_SECONDS
        if seen != self._seen:
            self._seen, self._seen_at = seen, began
            metadata = str(self._folder / "metadata")
            self._metadata = tuple(path for path in seen if path.startswith(metadata))
            self._others = tuple(path for path in seen if not path.startswith(metadata))
        self._state = state
        return state

    def _reading(self, seen: dict[str, _Stat | None]) -> Read:
        """Return a reader of the channel's files that notes each one, and those that are not there."""

        def read(name: str) -> bytes | None:
            if not safe_path(name):
                return None
            path = self._folder / name
            seen[str(path)] = _stat(str(path))
            if seen[str(path)] is None:
                return None
            return read_file(path, "channel", max_bytes=_MAX_FILE_BYTES)

        return read

    def _unchanged(self) -> bool:
        """Return whether no file has changed: metadata, which names all else by digest, is looked at every time, and
        other files are in turn, so that a use costs the same however many policies there are.
        """
        others = self._others
        turn = [others[(self._turn + at) % len(others)] for at in range(min(_LOOKS, len(others)))]
        self._turn += _LOOKS
        return all(_stat(path) == self._seen[path] for path in (*self._metadata, *turn))


def check_heard(state: PolicyState, *, within: timedelta, now: datetime) -> None:
    """Check that the channel spoke recently enough: who is cut off from it does not hear of revocations.

    A channel whose timestamp does not say when it was signed is bounded by that one's end, and by no other time.

    Raises:
        Refused: it did not (``release.epoch.stale``).
    """
    if state.heard_at is None:
        fresh, got = within >= MAX_AGE, "a timestamp that does not say when it was signed"
    else:
        fresh, got = now - state.heard_at <= within, f"signed at {instant(state.heard_at)}"
    if not fresh:
        want = f"a timestamp signed at {instant(now - within)} or later"
        finding = Finding("release.epoch.stale", f"revocations of channel {state.channel}", want, got)
        raise Refused(finding.message, findings=[finding])


def state_of(verified: Verified, channel: str, read: Reader) -> PolicyState:
    """Return the state that verified policies amount to.

    A policy that this broker can not use, or that names a key which another one names too, permits nothing;
    the state says why.

    Raises:
        NotGenuine: the metadata is of another channel (``channel.other``).
    """
    said = verified.policies
    if said.channel != channel:
        finding = Finding("channel.other", "channel name", channel, said.channel)
        raise NotGenuine(finding.message, findings=[finding])
    policies: list[LoadedPolicy] = []
    unusable: list[Finding] = []
    for name in sorted({path.split("/", 1)[0] for path in said.policies}):
        try:
            policies.append(_loaded(name, verified, read))
        except TallystickError as error:
            unusable.append(Finding(error.code, f"policy {name}", "a usable policy", error.message))
    by_key: dict[str, LoadedPolicy] = {}
    for policy in policies:
        for rule in policy.live.form.keys:
            if rule.key in by_key:
                both = f"{by_key[rule.key].name} and {policy.name}"
                unusable.append(Finding("policy.key-twice", f"key {rule.key}", "one policy", both))
            by_key[rule.key] = policy
    for finding in unusable:
        by_key.pop(finding.where.removeprefix("key "), None)
    return PolicyState(
        channel=channel,
        version=said.version,
        expires=said.expires,
        revoked=tuple(sorted(str(digest) for digest in said.revoked)),
        policies=tuple(policies),
        by_key=MappingProxyType(by_key),
        unusable=tuple(unusable),
        heard_at=verified.made_at,
    )


def _loaded(name: str, verified: Verified, read: Reader) -> LoadedPolicy:
    channel = verified.policies.channel
    data = verified.policies.policy(name).get(FILE)
    if data is None:
        raise Refused(f"policy {name} was not compiled for this broker: no {FILE}", code="policy.no-target")
    normal = read(data)
    if normal.policy != name or normal.channel != channel:
        want, got = f"{name} for {channel}", f"{normal.policy} for {normal.channel}"
        finding = Finding("policy.other", f"policy {name}", want, got)
        raise NotGenuine(finding.message, findings=[finding])
    listed = verified.releases - verified.policies.revoked
    named = {release.digest for release in normal.releases}
    named |= {one for release in normal.releases for entry in release.tuples for one in entry.artifacts}
    return loaded(data, normal, frozenset(named) - listed)


def loaded(data: bytes, normal: NormalForm, gone: frozenset[Digest]) -> LoadedPolicy:
    """Return a compiled policy, apart from what it may not permit any more.

    Args:
        gone: releases and artifact releases that it named; of the latter every tuple that pins one is gone.
    """
    live = tuple(_without(release, gone) for release in normal.releases if release.digest not in gone)
    live = tuple(release for release in live if release.tuples)
    rest = tuple(_only(release, gone) for release in normal.releases)
    rest = tuple(release for release in rest if release.tuples or release.digest in gone)
    return LoadedPolicy(
        name=normal.policy,
        digest=Digest.of(data),
        data=data,
        live=prepare(replace(normal, releases=live)),
        gone=prepare(replace(normal, releases=rest)),
        bounds=tuple(sorted(set(bounds_of_form(normal)))),
    )


def _without(release: PermittedRelease, gone: frozenset[Digest]) -> PermittedRelease:
    return replace(release, tuples=tuple(e for e in release.tuples if gone.isdisjoint(e.artifacts)))


def _only(release: PermittedRelease, gone: frozenset[Digest]) -> PermittedRelease:
    if release.digest in gone:
        return release
    return replace(release, tuples=tuple(e for e in release.tuples if not gone.isdisjoint(e.artifacts)))


def dump_high_water(mark: HighWater) -> bytes:
    """Return a channel's high-water mark as the store keeps it."""
    return canonical(
        {
            "versions": dict(mark.versions),
            "revoked": list(mark.revoked),
            "at": None if mark.at is None else instant(mark.at),
        }
    )


def load_high_water(data: bytes) -> HighWater:
    """Return the high-water mark that the store kept."""
    found = jsondoc.loads(data, "channel high-water mark")
    at = found["at"]
    return HighWater(
        versions=tuple(sorted(found["versions"].items())),
        revoked=tuple(found["revoked"]),
        at=None if at is None else datetime.fromisoformat(at).astimezone(UTC),
    )


def _stat(path: str) -> _Stat | None:
    """Return what tells whether a file has changed; None when there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
