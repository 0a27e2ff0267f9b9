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
    from tallystick.broker.config import Home
    from tallystick.broker.forecast import Ending, Stop
    from tallystick.broker.policies import PolicyState
    from tallystick.broker.store import Store, StoredDecision
    from tallystick.release.metadata import State
    from tallystick.release.records import VerifiedChannel, VerifiedRelease
    from tallystick.report.board_records import Board, Trouble
    from tallystick.report.records import DecisionView
    from tallystick.signing.records import Trust

_LEAVES = 2000  # of the log's end that are looked at
_REFUSALS = 20  # that are explained
_LEASES = 100  # that are listed
_DEVELOPMENT = "Development roots: the Sigstore that signed this is embedded. No production policy takes it."


@dataclass(slots=True, kw_only=True)
class Sources:
    """Where a page comes from. It remembers verified releases and explained refusals: to make them takes seconds."""

    channel: str
    folder: Path  # the channel's TUF repository
    trust: Trust
    home: Home | None = None  # the broker's folder; None: there is none
    _seen: tuple[int, VerifiedChannel] | None = field(default=None, init=False)
    _explained: dict[str, DecisionView] = field(default_factory=dict, init=False)  # of decisions, which stay

    def verified(self, state: State, now: datetime) -> VerifiedChannel:
        """Return the channel with every release verified, once for each version of its metadata."""
        from tallystick.release import channel

        version = state.timestamp.signed.version
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, channel.load(self.folder, self.channel, self.trust, now, max_age=None))
            self._explained = {}  # another release may be known by now
        return self._seen[1]

    def refusals(
        self, home: Home, names: Sequence[str], known: Sequence[VerifiedRelease]
    ) -> tuple[DecisionView, ...]:
        """Return refusals with their explanations; the proof is to the head of when it was first shown."""
        self._explained = {
            name: self._explained[name] if name in self._explained else _refusal(home, name, known)
            for name in names
        }
        return tuple(self._explained.values())


def board(sources: Sources, now: datetime) -> Board:
    """Return the page as of ``now``. What can not be verified is named in its place, and nothing of it is shown."""
    from tallystick import __version__
    from tallystick.cli import forecast as forecasting
    from tallystick.report import board_gather
    from tallystick.report.board_records import Board

    notes = (_DEVELOPMENT,) if sources.trust.label == "embedded-dev" else ()
    made = Board(made_at=now, made_by=f"tallystick {__version__}", channel=sources.channel, notes=notes)
    troubles: list[Trouble] = []
    state: PolicyState | None = None
    known: Sequence[VerifiedRelease] = ()
    endings: Sequence[Ending] = ()
    with _trouble("channel", troubles):
        metadata, state = forecasting.verified(sources.folder, sources.channel, sources.trust, now)
        made = _with_channel(_with_policies(made, state), sources, metadata)
        endings = _endings(sources, metadata, state)
        made = replace(made, ends=board_gather.ends(endings))
        with _trouble("releases", troubles):
            found = sources.verified(metadata, now)
            known = found.releases
            made = _with_releases(made, found)
    if sources.home is not None:
        with _trouble("broker", troubles):
            made = _with_broker(made, sources, sources.home, state, known, endings)
    return replace(made, troubles=tuple(troubles))


@contextmanager
def _trouble(part: str, troubles: list[Trouble]) -> Iterator[None]:
    from tallystick.report.board_records import Trouble

    try:
        yield
    except TallystickError as error:
        troubles.append(Trouble(part=part, message=error.message, findings=error.findings))


def _with_policies(made: Board, state: PolicyState) -> Board:
    from tallystick.report import board_gather

    return replace(made, keys=board_gather.keys(state), unusable=state.unusable)


def _with_channel(made: Board, sources: Sources, metadata: State) -> Board:
    from tallystick.release import changes, channel
    from tallystick.release.records import HighWater
    from tallystick.release.tuf import Folder
    from tallystick.report import board_gather

    folder = Folder(sources.folder)
    waiting = [changes.describe(metadata, role, one) for role, one in folder.pending(metadata).items()]
    said = channel.policies_of(folder.read, metadata, HighWater())
    return replace(made, state=board_gather.channel(metadata, waiting, revoked=said.revocations))


def _endings(sources: Sources, metadata: State, state: PolicyState) -> list[Ending]:
    from tallystick.broker import forecast
    from tallystick.cli.forecast import pinned_certificates

    return [
        *forecast.of_channel(metadata),
        *forecast.of_policies(state.policies),
        *forecast.of_certificates(
            pinned_certificates(sources.trust), "nothing that chains to it is believed"
        ),
    ]


def _with_releases(made: Board, found: VerifiedChannel) -> Board:
    from tallystick.report import board_gather

    state = made.state
    if state is not None:
        state = replace(state, last=board_gather.live(found.changes))
    return replace(made, releases=board_gather.releases(found), state=state)


def _with_broker(
    made: Board,
    sources: Sources,
    home: Home,
    state: PolicyState | None,
    known: Sequence[VerifiedRelease],
    endings: Sequence[Ending],
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
        made = _with_leases(made, store, state, endings)
    finally:
        store.close()
    log = gather.log("key releases", key.checkpoint(head), key.verifier_line())
    if head.size > _LEAVES:
        made = replace(
            made, notes=(*made.notes, f"Decisions are counted in the last {_LEAVES:,} leaves of the log.")
        )
    made, refused = _counted(replace(made, log=log), last)
    return replace(made, refusals=sources.refusals(home, refused, known))


def _with_leases(made: Board, store: Store, state: PolicyState | None, endings: Sequence[Ending]) -> Board:
    """Add the leases, and to what ends, the leases that stop then although their machines stay as they are."""
    from tallystick.broker import forecast, lease_table
    from tallystick.broker.leasing import Leasing
    from tallystick.report import board_gather

    now = made.made_at
    with store.reading() as connection:
        held = sorted(lease_table.held(connection, now, channel=made.channel), key=lambda one: one.expires_at)
        drains = lease_table.standing(connection)
    shown, stops = held[:_LEASES], []
    if state is not None:
        prove = Leasing(store).attested
        stops = [
            forecast.stop_of(
                forecast.Workload(name=one.id, key=one.key, attested=prove(one.attestation)), state, now
            )
            for one in shown
        ]
    return replace(
        made,
        leases=board_gather.leases(shown, drains, state.policies if state is not None else (), now),
        more_leases=len(held) - len(shown),
        ends=board_gather.ends(forecast.with_stops([*endings, *_own_ends(endings, stops)], stops)),
    )


def _own_ends(endings: Sequence[Ending], stops: Sequence[Stop]) -> Iterator[Ending]:
    """Yield an end for each moment at which leases stop for reasons of their own: their evidence's certificates."""
    from tallystick.broker.forecast import Ending

    known = {one.at for one in endings}
    for stop in stops:
        if stop.at is not None and stop.at not in known:
            known.add(stop.at)
            what = "; ".join(f"{finding.where}: {finding.code}" for finding in stop.findings)
            yield Ending(at=stop.at, kind="evidence", what=what, then="attested anew, or not renewed")


def _counted(made: Board, last: Sequence[StoredDecision]) -> tuple[Board, list[str]]:
    """Return the page with its decisions counted, and the refusals to explain, newest first."""
    from tallystick.broker.decisions import Kind, parse_leaf

    kinds = [parse_leaf(kept.leaf)["kind"] for kept in last]
    refused = [kept.decision for kept, kind in zip(last, kinds, strict=True) if kind == Kind.REFUSAL.value]
    counted = replace(made, refused=len(refused), released=kinds.count(Kind.RELEASE.value))
    return counted, refused[: -_REFUSALS - 1 : -1]


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
