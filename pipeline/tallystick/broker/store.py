"""The broker's durable state: the log with its records, used nonces, sessions, high-water marks.

One transaction carries everything that one batch of decisions leaves behind, leaves included, so that a batch is
answered whole or not at all. Whoever writes holds the lock on the head of the log: there is one order of leaves,
and one memory of nonces and of policies in force, for all processes that share a store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, func, insert, select, update

from tallystick.broker import database, migrating
from tallystick.broker.database import Place
from tallystick.broker.secretfiles import locked
from tallystick.broker.tables import channels, decisions, head, nonces, policies, sessions, tiles
from tallystick.core.errors import Misuse, NotGenuine, Refused
from tallystick.tlog.mark import Head
from tallystick.tlog.merkle import Frontier, leaf_hash
from tallystick.tlog.tiles import WIDTH, completed, subtree

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Executable

_PAGE = 1000  # rows that are read at once where all of them are


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDecision:
    """One decision as the operator may read it: the log's leaf, and the whole record behind its commitment."""

    decision: str
    position: int  # of the leaf in the log
    leaf: bytes
    record: bytes  # canonical JSON, salt included


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelMark:
    """What is in force of a channel."""

    epoch: bytes  # differs when policies or revocations do
    high_water: bytes  # versions and revocations that it never falls below


class Batch:
    """What one transaction may do. Only :meth:`Store.batch` makes one."""

    __slots__ = ("_frontier", "_seen_at", "_sessions", "connection")

    def __init__(self, connection: Connection) -> None:
        """Lock the head of the log and read it."""
        self.connection = connection
        row = connection.execute(_LOCKED_HEAD).one()
        self._frontier = _frontier(row)
        self._seen_at = int(row.seen_at)
        self._sessions: list[dict[str, Any]] = []

    @property
    def size(self) -> int:
        """How many leaves there are, those of this batch included."""
        return self._frontier.size

    @property
    def seen_at(self) -> datetime:
        """The latest time that was ever acted on."""
        return _time(self._seen_at)

    def used(self, digests: Collection[bytes]) -> frozenset[bytes]:
        """Return those of ``digests`` whose nonces were used before."""
        if not digests:
            return frozenset()
        rows = self.connection.execute(_USED, {"digests": list(digests)})
        return frozenset(bytes(row.digest) for row in rows)

    def use(self, digests: Collection[bytes], *, at: datetime) -> None:
        """Use nonces up, none of which is used yet."""
        if digests:
            rows = [{"digest": digest, "used_at": _seconds(at)} for digest in digests]
            self.connection.execute(_USE, rows)

    def append(self, entries: Sequence[tuple[str, bytes, bytes]]) -> None:
        """Append decisions (identifier, leaf, record) to the log, in order."""
        if not entries:
            return
        older = self.size
        rows = [
            {"position": older + at, "id": name, "leaf": leaf, "record": record}
            for at, (name, leaf, record) in enumerate(entries)
        ]
        self.connection.execute(_APPEND, rows)
        for _, leaf, _ in entries:
            self._frontier.grow(leaf_hash(leaf))
        for level, number in completed(older, self.size):
            hashes = _entries(self.connection, level, number)
            self.connection.execute(insert(tiles), {"level": level, "number": number, "hashes": hashes})

    def acted_at(self, now: datetime) -> None:
        """Raise the time's high-water mark. An earlier time leaves it as it is."""
        self._seen_at = max(self._seen_at, _seconds(now))

    def channel(self, name: str) -> ChannelMark | None:
        """Return what is in force of a channel."""
        return _channel(self.connection, name)

    def see_channel(self, name: str, mark: ChannelMark) -> None:
        """Replace what is in force of a channel."""
        self.connection.execute(delete(channels).where(channels.c.name == name))
        row = {"name": name, "epoch": mark.epoch, "high_water": mark.high_water}
        self.connection.execute(insert(channels), row)

    def keep_policy(self, digest: bytes, data: bytes) -> None:
        """Keep a compiled policy that decides, so that its decisions can be made again."""
        if _policy(self.connection, digest) is None:
            self.connection.execute(insert(policies), {"digest": digest, "data": data})

    def attest(self, name: bytes, attestation: str, proof: bytes, *, until: datetime) -> None:
        """Let the session whose cookie has the SHA-256 ``name`` stand for an attestation."""
        row = {
            "name": name,
            "attestation": attestation,
            "proof": proof,
            "expires_at": _seconds(until),
        }
        self._sessions.append(row)

    def forget(self, *, nonces_before: datetime, sessions_before: datetime) -> None:
        """Drop the nonces used, and the sessions expired, before a time."""
        self.connection.execute(delete(nonces).where(nonces.c.used_at < _seconds(nonces_before)))
        self.connection.execute(delete(sessions).where(sessions.c.expires_at < _seconds(sessions_before)))

    def end(self) -> None:
        """Write the sessions, and the head of the log. :meth:`Store.batch` calls it."""
        if self._sessions:
            self.connection.execute(_ATTEST, self._sessions)
        tree = self._frontier
        values = {
            "size": tree.size,
            "root": tree.root(),
            "frontier": tree.peaks,
            "seen_at": self._seen_at,
        }
        self.connection.execute(_END, values)


class Store:
    """The database of one broker, or of all its replicas. Safe for threads and processes."""

    __slots__ = ("_engine", "_place")

    def __init__(self, engine: Engine, place: Place) -> None:
        """Hold what :meth:`open` checked. Use that."""
        self._engine = engine
        self._place = place

    @classmethod
    def create(cls, place: Place) -> None:
        """Make the tables at ``place``; a SQLite file is readable by its owner alone.

        Raises:
            Misuse: there is a store already (``store.exists``).
            Malformed, Unsupported, Unreachable: as :func:`database.url_of` and the database say.
        """
        cls.check_vacant(place)
        if isinstance(place, Path):
            place.touch(mode=0o600)
        engine = database.connect(place)
        try:
            migrating.migrate(engine, place)
        finally:
            engine.dispose()

    @classmethod
    def check_vacant(cls, place: Place) -> None:
        """Check that a store can be made at ``place``.

        Raises:
            Misuse, Malformed, Unsupported, Unreachable: as :meth:`create`.
        """
        if isinstance(place, Path):
            if place.exists():
                raise Misuse(f"{place} exists already", code="store.exists")
            return
        engine = database.connect(place)
        try:
            with database.reading(engine, place) as connection:
                if migrating.revision(connection) is not None:
                    message = f"there is a store in {database.name_of(place)} already"
                    raise Misuse(message, code="store.exists")
        finally:
            engine.dispose()

    @classmethod
    def open(cls, place: Place) -> Store:
        """Open the store at ``place``.

        Raises:
            Misuse: there is none, or an older one that has to be migrated first.
            Malformed: not a database, or another program's.
            NotGenuine: the head of the log does not fit its subtrees (``log.altered``) or leaves (``log.shorter``).
            Unsupported: a newer store.
            Unreachable: locked, or nobody answers.
        """
        if isinstance(place, Path) and not place.is_file():
            raise Misuse(f"there is no store {place}; run `tally broker init`", code="file.missing")
        engine = database.connect(place)
        try:
            with database.reading(engine, place) as connection:
                migrating.check(connection, place)
                row = connection.execute(_HEAD_AND_LAST).one()
                size, last = _frontier(row).size, row.last
                if size != (0 if last is None else last + 1):
                    raise NotGenuine(
                        f"transparency log: {database.name_of(place)}: want {size} leaves, got the last at {last}",
                        code="log.shorter",
                    )
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, place)

    @property
    def place(self) -> Place:
        """Where it is."""
        return self._place

    def close(self) -> None:
        """Let go of every connection."""
        self._engine.dispose()

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Give one transaction that is durable when the block has ended, and undone when it raises.

        Raises:
            Unreachable: the disk is full, nobody answers, or another process held the lock too long.
            NotGenuine: the head of the log was altered.
        """
        with self._in_turn(), database.writing(self._engine, self._place) as connection:
            batch = Batch(connection)
            yield batch
            batch.end()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection to read with; the errors are :func:`database.named`'s."""
        with database.reading(self._engine, self._place) as connection:
            yield connection

    def time_mark(self) -> datetime:
        """Return the latest time that was ever acted on."""
        return _time(int(self._one(_HEAD).seen_at))

    def head(self) -> Head:
        """Return the size of the log and the root over it."""
        row = self._one(_HEAD)
        return Head(size=int(row.size), root=bytes(row.root))

    def channel(self, name: str) -> ChannelMark | None:
        """Return what is in force of a channel."""
        with self.reading() as connection:
            return _channel(connection, name)

    def policy(self, digest: bytes) -> bytes | None:
        """Return a compiled policy that was in force once."""
        with self.reading() as connection:
            return _policy(connection, digest)

    def session(self, cookie: bytes) -> tuple[str, bytes] | None:
        """Return the attestation that a session stands for, and the proof that the broker said so."""
        row = self._maybe(_SESSION, named=cookie)
        return None if row is None else (row.attestation, bytes(row.proof))

    def decision(self, decision: str) -> StoredDecision:
        """Return one decision.

        Raises:
            Refused: this broker never made it (``decision.unknown``).
        """
        row = self._maybe(_DECISION, named=decision)
        if row is None:
            raise Refused(f"this broker has no decision {decision}", code="decision.unknown")
        return _decision(row)

    def decisions(self, start: int = 0, end: int | None = None) -> Iterator[StoredDecision]:
        """Yield the decisions ``start`` to ``end`` (all of them) in the order of the log, a page at a time."""
        last = self.head().size if end is None else end
        for first in range(start, last, _PAGE):
            upper = min(first + _PAGE, last)
            position = decisions.c.position
            query = select(decisions).where(position >= first, position < upper).order_by(position)
            with self.reading() as connection:
                rows = connection.execute(query).all()
            yield from map(_decision, rows)

    def tile(self, level: int, number: int) -> bytes:
        """Return the hashes of a whole tile.

        Raises:
            NotGenuine: it is missing (``log.altered``).
        """
        with self.reading() as connection:
            return _tile(connection, level, number)

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Wait for the processes that write to a SQLite file: its own waiting is asking again and again."""
        if isinstance(self._place, Path):
            with locked(self._place.with_suffix(".lock")):
                yield
        else:
            yield

    def _one(self, query: Executable) -> Any:
        with self.reading() as connection:
            return connection.execute(query).one()

    def _maybe(self, query: Executable, *, named: str | bytes) -> Any:
        with self.reading() as connection:
            return connection.execute(query, {"named": named}).one_or_none()


# Statements of the hot path, made once: making one takes about as long as running it.
_HEAD = select(head.c.size, head.c.root, head.c.frontier, head.c.seen_at).where(head.c.id == 1)
_LOCKED_HEAD = _HEAD.with_for_update()
# in one statement, which sees one moment: another process may be writing
_HEAD_AND_LAST = _HEAD.add_columns(select(func.max(decisions.c.position)).scalar_subquery().label("last"))
_END = update(head).where(head.c.id == 1)
_USED = select(nonces.c.digest).where(nonces.c.digest.in_(bindparam("digests", expanding=True)))
_USE, _APPEND, _ATTEST = insert(nonces), insert(decisions), insert(sessions)
_CHANNEL = select(channels.c.epoch, channels.c.high_water).where(channels.c.name == bindparam("channel"))
_SESSION = select(sessions.c.attestation, sessions.c.proof).where(sessions.c.name == bindparam("named"))
_DECISION = select(decisions).where(decisions.c.id == bindparam("named"))


def _frontier(row: Any) -> Frontier:
    """Return the tree that a row of ``head`` holds.

    Raises:
        NotGenuine: it does not fit its root (``log.altered``).
    """
    try:
        found = Frontier(int(row.size), bytes(row.frontier))
    except ValueError as error:
        raise NotGenuine(f"transparency log: head: {error}", code="log.altered") from None
    if found.root() != bytes(row.root):
        raise NotGenuine("transparency log: head: the subtrees do not give the root", code="log.altered")
    return found


def _entries(connection: Connection, level: int, number: int) -> bytes:
    """Return the hashes of a tile that has just become whole, from the leaves or from the tiles below."""
    start, end = number * WIDTH, (number + 1) * WIDTH
    if level == 0:
        position = decisions.c.position
        query = select(decisions.c.leaf).where(position >= start, position < end).order_by(position)
        return b"".join(leaf_hash(bytes(row.leaf)) for row in connection.execute(query))
    return b"".join(subtree(_tile(connection, level - 1, at)) for at in range(start, end))


def _tile(connection: Connection, level: int, number: int) -> bytes:
    query = select(tiles.c.hashes).where(tiles.c.level == level, tiles.c.number == number)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotGenuine(f"transparency log: tile {number} of level {level} is missing", code="log.altered")
    return bytes(row.hashes)


def _channel(connection: Connection, name: str) -> ChannelMark | None:
    row = connection.execute(_CHANNEL, {"channel": name}).one_or_none()
    return None if row is None else ChannelMark(epoch=bytes(row.epoch), high_water=bytes(row.high_water))


def _policy(connection: Connection, digest: bytes) -> bytes | None:
    row = connection.execute(select(policies.c.data).where(policies.c.digest == digest)).one_or_none()
    return None if row is None else bytes(row.data)


def _decision(row: Any) -> StoredDecision:
    return StoredDecision(
        decision=row.id, position=int(row.position), leaf=bytes(row.leaf), record=bytes(row.record)
    )


def _seconds(at: datetime) -> int:
    return int(at.timestamp())


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
