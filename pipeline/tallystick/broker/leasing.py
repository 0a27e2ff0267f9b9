"""Leases at work: granted with a key, renewed by attesting again, ended when what they rest on is no longer permitted.

The service decides on the event loop and writes through the ledger; the sweep runs beside it, in every replica. It
looks at each lease when other policies or revocations are in force than at its last look, and can be killed anywhere:
what it ended is ended, and the next one, whoever's, looks at the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any

from tallystick.broker import lease_table, leases
from tallystick.broker.decisions import Entry, Kind, codes, entry, instant, whole
from tallystick.broker.leases import Drain, Lease, State
from tallystick.broker.policies import PolicyState
from tallystick.broker.releasing import Verdict, judge
from tallystick.broker.sessions import Attested, recorded_attestation
from tallystick.core.errors import Refused, TallystickError
from tallystick.core.findings import Finding

if TYPE_CHECKING:
    from tallystick.broker.store import Batch, Store

_SHOWN = timedelta(hours=1)  # how long a holder is told of a lease that is over
_CHUNK = 256
_DRAINS_SECONDS = 1.0  # how long a replica may not know of an order


class Leasing:
    """The leases of one broker's store. Safe for threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = Lock()
        self._drains: tuple[Drain, ...] = ()
        self._read_at = -_DRAINS_SECONDS

    def drains(self) -> tuple[Drain, ...]:
        """Return the standing orders, as they were a second ago at most."""
        with self._lock:
            if time.monotonic() - self._read_at >= _DRAINS_SECONDS:
                with self._store.reading() as connection:
                    self._drains = lease_table.standing(connection)
                self._read_at = time.monotonic()
            return self._drains

    def of(self, attested: Attested, now: datetime) -> tuple[Lease, ...]:
        """Return the leases of the session's holder, those that were over an hour ago left out."""
        with self._store.reading() as connection:
            holder = attested.public_key.thumbprint()
            return lease_table.of_holder(connection, holder, since=now - _SHOWN)

    def renewal(self, attested: Attested, state: PolicyState, *, now: datetime) -> Renewal:
        """Return what a renewal by the holder that ``attested`` comes to."""
        drains, changed, same = self.drains(), list[Lease](), list[Lease]()
        entries: list[Entry] = []
        for lease in self.of(attested, now):
            if lease.state(now, drains) is not State.LIVE:
                same.append(lease)
                continue
            verdict = judge(lease.key, attested, state, now=now)
            found = leases.renewed(lease, verdict, attested, state, now=now)
            entries.append(_leaf(found, verdict.findings, attestation=attested.attestation, now=now))
            changed.append(found)
        return Renewal(changed=tuple(changed), same=tuple(same), entries=tuple(entries), drains=drains)

    def returning(self, attested: Attested, *, now: datetime) -> Renewal:
        """Return what it comes to when the holder says that it is done with every key."""
        held = [one for one in self.of(attested, now) if one.state(now) is State.LIVE]
        finding = Finding(leases.RETURNED, "lease", "held", "given back by its holder")
        over = [leases.ended(one, (finding,), now=now) for one in held]
        entries = [_leaf(one, (finding,), attestation=attested.attestation, now=now) for one in over]
        return Renewal(changed=tuple(over), same=(), entries=tuple(entries), drains=())

    def sweep(self, state: PolicyState, now: datetime) -> int:
        """End every lease that the policies of ``state`` no longer permit, and return how many that were."""
        with self._store.reading() as connection:
            if lease_table.swept(connection, state.channel) == state.epoch:
                return 0
            held = tuple(lease_table.held(connection, now, channel=state.channel))
        looked_at = (self._drifted(one, state, now) for one in held)
        over = [found for found in looked_at if found is not None]
        for start in range(0, len(over), _CHUNK):
            self._end(over[start : start + _CHUNK], now)
        with self._store.batch() as batch:
            lease_table.sweep(batch.connection, state.channel, state.epoch)
        return len(over)

    def _drifted(self, lease: Lease, state: PolicyState, now: datetime) -> tuple[Lease, Entry] | None:
        try:
            verdict = leases.posture(lease, self.attested(lease.attestation), state, now=now)
            findings: Sequence[Finding] = () if verdict.allowed else verdict.findings
        except TallystickError as error:  # what it rests on can not be read: it rests on nothing
            findings = (
                Finding(error.code, "attestation of the lease", "one that can be read", error.message),
            )
        if not findings:
            return None
        found = leases.ended(lease, findings, now=now)
        return found, _leaf(found, findings, attestation=lease.attestation, now=now)

    def _end(self, over: Sequence[tuple[Lease, Entry]], now: datetime) -> None:
        """End these leases, and log it, unless another replica did by now."""
        with self._store.batch() as batch:
            still = lease_table.still_held(batch.connection, [lease.id for lease, _ in over])
            mine = [(lease, made) for lease, made in over if lease.id in still]
            for lease, _ in mine:
                lease_table.change(batch.connection, lease)
            batch.acted_at(now)
            batch.append([(made.decision, made.leaf, made.record) for _, made in mine])

    def attested(self, attestation: str) -> Attested:
        """Return what an attestation proved, from its record.

        Raises:
            Refused: there is no such attestation (``decision.unknown``).
        """
        return recorded_attestation(attestation, self._store.decision(attestation).record)


class Renewal:
    """What is to be logged and written, and what the holder is told once it is."""

    __slots__ = ("_changed", "_drains", "_same", "entries")

    def __init__(
        self,
        *,
        changed: tuple[Lease, ...],
        same: tuple[Lease, ...],
        entries: tuple[Entry, ...],
        drains: tuple[Drain, ...],
    ) -> None:
        self._changed = changed
        self._same = same
        self._drains = drains
        self.entries = entries

    def also(self, batch: Batch) -> None:
        """Write it, in the transaction of its leaves. A lease that ended meanwhile stays ended."""
        for lease in self._changed:
            lease_table.change(batch.connection, lease)

    def document(self, now: datetime) -> dict[str, Any]:
        """Return what the holder is told: its leases, with the codes of what ended them."""
        found = sorted((*self._changed, *self._same), key=lambda lease: (lease.issued_at, lease.id))
        return {"at": instant(now), "leases": [lease.document(now, self._drains) for lease in found]}


def order(
    store: Store, *, reason: str, key: str, release: str, lease: str, now: datetime
) -> tuple[Drain, tuple[Lease, ...]]:
    """Put a drain in force, in one transaction with its leaf, and return it with the live leases that it covers.

    One that stands already over the very same is returned as it is: who was interrupted orders it again.
    """
    scope = {name: value for name, value in (("key", key), ("release", release), ("lease", lease)) if value}
    made = entry(Kind.LEASE, now=now, public={"event": "drain", **scope}, details={"reason": reason})
    drain = Drain(id=made.decision, at=now, reason=reason, key=key, release=release, lease=lease)
    with store.batch() as batch:
        there = [
            one
            for one in lease_table.standing(batch.connection)
            if (one.key, one.release, one.lease) == (key, release, lease)
        ]
        if not there:
            batch.acted_at(now)
            lease_table.order(batch.connection, drain)
            batch.append([(made.decision, made.leaf, made.record)])
        covered = lease_table.find(batch.connection, key=key, release=release, lease=lease)
    return (there or [drain])[0], tuple(one for one in covered if one.state(now) is State.LIVE)


def lift(store: Store, drain: str, *, now: datetime) -> str:
    """Take a drain back and return the identifier of the leaf that says so.

    Raises:
        Refused: there is no such order (``drain.unknown``).
    """
    made = entry(Kind.LEASE, now=now, public={"event": "drain-lifted", "drain": drain}, details={})
    with store.batch() as batch:
        if not lease_table.lift(batch.connection, drain):
            raise Refused(f"there is no drain {drain}", code="drain.unknown")
        batch.acted_at(now)
        batch.append([(made.decision, made.leaf, made.record)])
    return made.decision


def granting(lease: Lease) -> Callable[[Batch], None]:
    """Return what writes a new lease in the transaction of its release."""
    return lambda batch: lease_table.add(batch.connection, lease)


def held_back(verdict: Verdict, drains: Iterable[Drain]) -> tuple[Finding, ...]:
    """Return the orders that keep an allowed key from leaving."""
    if verdict.decision is None or verdict.decision.release is None:
        return ()
    return leases.drained(drains, key=verdict.key, release=str(verdict.decision.release))


def _leaf(lease: Lease, findings: Sequence[Finding], *, attestation: str, now: datetime) -> Entry:
    over = lease.ended_at is not None
    public: dict[str, Any] = {"event": "ended" if over else "renewed", "lease": lease.id, "key": lease.key}
    public |= {"attestation": attestation, "until": instant(now if over else lease.expires_at)}
    if over:
        public["codes"] = codes(findings)
    return entry(Kind.LEASE, now=now, public=public, details={"findings": whole(findings)})
