"""Leases and drains in the store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, or_, select, update

from tallystick.broker.leases import Drain, Lease
from tallystick.broker.tables import drains, leases, postures

if TYPE_CHECKING:
    from sqlalchemy import Connection

_PAGE = 1000


def add(connection: Connection, lease: Lease) -> None:
    """Write a new lease."""
    connection.execute(insert(leases), _row(lease))


def change(connection: Connection, lease: Lease) -> bool:
    """Write what became of a lease; False when it has ended meanwhile, which nothing changes."""
    still = (leases.c.id == lease.id) & leases.c.ended_at.is_(None)
    return connection.execute(update(leases).where(still).values(_row(lease))).rowcount == 1


def still_held(connection: Connection, ids: Collection[str]) -> frozenset[str]:
    """Return those of ``ids`` that have not ended."""
    query = select(leases.c.id).where(leases.c.id.in_(ids), leases.c.ended_at.is_(None))
    return frozenset(row.id for row in connection.execute(query))


def of_holder(connection: Connection, holder: str, *, since: datetime) -> tuple[Lease, ...]:
    """Return the leases of ``holder`` that did not expire before ``since``, oldest first."""
    query = select(leases).where(leases.c.holder == holder, leases.c.expires_at > _seconds(since))
    return tuple(map(_lease, connection.execute(query.order_by(leases.c.issued_at, leases.c.id))))


def held(connection: Connection, now: datetime, *, channel: str) -> Iterator[Lease]:
    """Yield the leases of ``channel`` that hold at ``now``, a page at a time."""
    last = ""
    while True:
        query = select(leases).where(
            leases.c.channel == channel,
            leases.c.ended_at.is_(None),
            leases.c.expires_at > _seconds(now),
            leases.c.id > last,
        )
        rows = connection.execute(query.order_by(leases.c.id).limit(_PAGE)).all()
        yield from map(_lease, rows)
        if len(rows) < _PAGE:
            return
        last = rows[-1].id


def find(connection: Connection, *, key: str = "", release: str = "", lease: str = "") -> tuple[Lease, ...]:
    """Return every lease there was, held or not, for what is named, oldest first."""
    query = select(leases)
    for column, wanted in ((leases.c.key, key), (leases.c.release, release), (leases.c.id, lease)):
        if wanted:
            query = query.where(column == wanted)
    return tuple(map(_lease, connection.execute(query.order_by(leases.c.issued_at, leases.c.id))))


def counts(connection: Connection, now: datetime) -> dict[str, int]:
    """Return how many leases of each release hold at ``now``."""
    query = (
        select(leases.c.release, func.count())
        .where(leases.c.ended_at.is_(None), leases.c.expires_at > _seconds(now))
        .group_by(leases.c.release)
    )
    return {str(release): int(count) for release, count in connection.execute(query)}


def forget(connection: Connection, *, before: datetime) -> None:
    """Drop the leases that were over before a time."""
    over = or_(leases.c.ended_at < _seconds(before), leases.c.expires_at < _seconds(before))
    connection.execute(delete(leases).where(over))


def order(connection: Connection, drain: Drain) -> None:
    """Write a standing order."""
    row = {"id": drain.id, "at": _seconds(drain.at), "reason": drain.reason}
    connection.execute(
        insert(drains), row | {"key": drain.key, "release": drain.release, "lease": drain.lease}
    )


def lift(connection: Connection, drain: str) -> bool:
    """Take a standing order back; False when there is none."""
    return connection.execute(delete(drains).where(drains.c.id == drain)).rowcount == 1


def standing(connection: Connection) -> tuple[Drain, ...]:
    """Return the standing orders, oldest first."""
    rows = connection.execute(select(drains).order_by(drains.c.at, drains.c.id))
    return tuple(
        Drain(
            id=row.id, at=_time(row.at), reason=row.reason, key=row.key, release=row.release, lease=row.lease
        )
        for row in rows
    )


def swept(connection: Connection, channel: str) -> bytes | None:
    """Return the epoch of the channel under which every lease was last looked at."""
    return connection.execute(select(postures.c.epoch).where(postures.c.channel == channel)).scalar()


def sweep(connection: Connection, channel: str, epoch: bytes) -> None:
    """Say that every lease was looked at under ``epoch``."""
    connection.execute(delete(postures).where(postures.c.channel == channel))
    connection.execute(insert(postures), {"channel": channel, "epoch": epoch})


def _row(lease: Lease) -> dict[str, Any]:
    return {
        "id": lease.id,
        "key": lease.key,
        "channel": lease.channel,
        "policy": lease.policy,
        "release": lease.release,
        "holder": lease.holder,
        "attestation": lease.attestation,
        "issued_at": _seconds(lease.issued_at),
        "renewed_at": _seconds(lease.renewed_at),
        "expires_at": _seconds(lease.expires_at),
        "because": lease.because,
        "ended_at": None if lease.ended_at is None else _seconds(lease.ended_at),
        "reasons": _words(lease.reasons),
    }


def _lease(row: Any) -> Lease:
    return Lease(
        id=row.id,
        key=row.key,
        channel=row.channel,
        policy=row.policy,
        release=row.release,
        holder=row.holder,
        attestation=row.attestation,
        issued_at=_time(row.issued_at),
        renewed_at=_time(row.renewed_at),
        expires_at=_time(row.expires_at),
        because=row.because,
        ended_at=None if row.ended_at is None else _time(row.ended_at),
        reasons=tuple(row.reasons.split()),
    )


def _words(codes: Sequence[str]) -> str:
    return " ".join(codes)


def _seconds(at: datetime) -> int:
    return int(at.timestamp())


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
