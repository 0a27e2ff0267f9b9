"""Puts the release managers' page together: from a channel's folder, a trust file and, where there is one, a broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tallystick.core.errors import TallystickError

if TYPE_CHECKING:
    from cryptography import x509

    from tallystick.broker.config import Home
    from tallystick.broker.policies import PolicyState
    from tallystick.broker.store import Store, StoredDecision
    from tallystick.release.metadata import State
    from tallystick.release.records import VerifiedChannel, VerifiedRelease
    from tallystick.report.board_records import Board, Trouble
    from tallystick.report.records import DecisionView
    from tallystick.signing.records import Trust

_LEAVES = 2000  # of the log's end that are looked at
_REFUSALS = 20  # that are explained
_LEASES = 200  # that are listed
_DEVELOPMENT = "Development roots: the Sigstore that signed this is embedded. No production policy takes it."


@dataclass(slots=True, kw_only=True)
class Sources:
    """Where a page comes from. It remembers the last verified releases: to verify them takes seconds."""

    channel: str
    folder: Path  # the channel's TUF repository
    trust: Trust
    home: Home | None = None  # the broker's folder; None: there is none
    _seen: tuple[int, VerifiedChannel] | None = field(default=None, init=False)

    def verified(self, state: State, now: datetime) -> VerifiedChannel:
        """Return the channel with every release verified, once for each version of its metadata."""
        from tallystick.release import channel

        version = state.timestamp.signed.version
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, channel.load(self.folder, self.channel, self.trust, now, max_age=None))
        return self._seen[1]


def board(sources: Sources, now: datetime) -> Board:
    """Return the page as of ``now``. What can not be verified is named in its place, and nothing of it is shown."""
    from tallystick import __version__
    from tallystick.report.board_records import Board

    notes = (_DEVELOPMENT,) if sources.trust.label == "embedded-dev" else ()
    made = Board(made_at=now, made_by=f"tallystick {__version__}", channel=sources.channel, notes=notes)
    troubles: list[Trouble] = []
    state: PolicyState | None = None
    known: Sequence[VerifiedRelease] = ()
    with _trouble("policies in force", troubles):
        state = _in_force(sources, now)
        made = _with_policies(made, state)
    with _trouble("channel", troubles):
        metadata = _metadata(sources, now)
        made = _with_channel(made, sources, metadata, state)
        with _trouble("releases", troubles):
            found = sources.verified(metadata, now)
            known = found.releases
            made = _with_releases(made, found)
    if sources.home is not None:
        with _trouble("broker", troubles):
            made = _with_broker(made, sources.home, state, known, now)
    return replace(made, troubles=tuple(troubles))


@contextmanager
def _trouble(part: str, troubles: list[Trouble]) -> Iterator[None]:
    from tallystick.report.board_records import Trouble

    try:
        yield
    except TallystickError as error:
        troubles.append(Trouble(part=part, message=error.message, findings=error.findings))


def _in_force(sources: Sources, now: datetime) -> PolicyState:
    from tallystick.broker.opening import channel_loader
    from tallystick.broker.policies import state_of
    from tallystick.policy import document
    from tallystick.release.records import HighWater
    from tallystick.release.tuf import Folder

    load = channel_loader(sources.trust, sources.channel)
    return state_of(load(Folder(sources.folder).read, now, HighWater()), sources.channel, document.read)


def _metadata(sources: Sources, now: datetime) -> State:
    from tallystick.release.channel import pinned_root
    from tallystick.release.records import HighWater
    from tallystick.release.tuf import Folder

    root = pinned_root(sources.trust, sources.channel)
    return Folder(sources.folder).verify(root, sources.channel, now, HighWater(), None)


def _with_policies(made: Board, state: PolicyState) -> Board:
    from tallystick.report import board_gather

    return replace(made, keys=board_gather.keys(state), unusable=state.unusable)


def _with_channel(made: Board, sources: Sources, metadata: State, state: PolicyState | None) -> Board:
    from tallystick.broker import forecast
    from tallystick.release import changes, channel
    from tallystick.release.records import HighWater
    from tallystick.release.tuf import Folder
    from tallystick.report import board_gather

    folder = Folder(sources.folder)
    waiting = [changes.describe(metadata, role, one) for role, one in folder.pending(metadata).items()]
    said = channel.policies_of(folder.read, metadata, HighWater())
    endings = [
        *forecast.of_channel(metadata),
        *forecast.of_policies(state.policies if state is not None else ()),
        *forecast.of_certificates(_pinned(sources.trust), "nothing that chains to it is believed"),
    ]
    return replace(
        made,
        state=board_gather.channel(metadata, waiting, revoked=said.revocations),
        ends=board_gather.ends(endings),
    )


def _pinned(trust: Trust) -> Iterator[tuple[str, x509.Certificate]]:
    from tallystick.evidence.chain import load_certificate

    for one in trust.endorsers:
        for der in one.certificates:
            yield f"{one.kind} {one.label} of the trust file", load_certificate(der, one.label)


def _with_releases(made: Board, found: VerifiedChannel) -> Board:
    from tallystick.report import board_gather

    state = made.state
    if state is not None:
        state = replace(state, last=board_gather.live(found.changes))
    return replace(made, releases=board_gather.releases(found), state=state)


def _with_broker(
    made: Board, home: Home, state: PolicyState | None, known: Sequence[VerifiedRelease], now: datetime
) -> Board:
    from tallystick.broker import logkey
    from tallystick.broker.leaflog import LeafLog
    from tallystick.broker.store import Store
    from tallystick.report import gather

    key = logkey.load(home.log_key)
    store = Store.open(home.store)
    try:
        head = LeafLog(store).head()
        last = list(store.decisions(max(0, head.size - _LEAVES), head.size))
        made = _with_leases(made, store, state, now)
    finally:
        store.close()
    log = gather.log("key releases", key.checkpoint(head), key.verifier_line())
    if head.size > _LEAVES:
        made = replace(
            made, notes=(*made.notes, f"Decisions are counted in the last {_LEAVES:,} leaves of the log.")
        )
    return _with_decisions(replace(made, log=log), home, last, known)


def _with_leases(made: Board, store: Store, state: PolicyState | None, now: datetime) -> Board:
    from tallystick.broker import lease_table
    from tallystick.report import board_gather

    with store.reading() as connection:
        held = list(lease_table.held(connection, now, channel=made.channel))
        drains = lease_table.standing(connection)
    views = board_gather.leases(held, drains, state.policies if state is not None else (), now)
    return replace(made, leases=views[:_LEASES], more_leases=max(len(views) - _LEASES, 0))


def _with_decisions(
    made: Board, home: Home, last: Sequence[StoredDecision], known: Sequence[VerifiedRelease]
) -> Board:
    from tallystick.broker.decisions import Kind, parse_leaf

    kinds = [parse_leaf(kept.leaf)["kind"] for kept in last]
    refused = [kept.decision for kept, kind in zip(last, kinds, strict=True) if kind == Kind.REFUSAL.value]
    explained = tuple(_refusal(home, name, known) for name in reversed(refused[-_REFUSALS:]))
    return replace(made, refusals=explained, refused=len(refused), released=kinds.count(Kind.RELEASE.value))


def _refusal(home: Home, decision: str, known: Sequence[VerifiedRelease]) -> DecisionView:
    import json

    from tallystick.broker import audit
    from tallystick.broker.explaining import explain
    from tallystick.report import board_gather

    proof = json.dumps(audit.prove(home, decision), indent=2)
    return board_gather.refusal(explain(home, decision), known, proof)


def pages(sources: Sources, clock: Callable[[], datetime]) -> Callable[[], tuple[bytes, str]]:
    """Return what draws the page as of each moment, with the content policy that goes with it."""
    from tallystick.report import board as drawing
    from tallystick.report import shell

    return lambda: (drawing.render(board(sources, clock())), shell.policy())
