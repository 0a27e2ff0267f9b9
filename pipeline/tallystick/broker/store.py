"""The broker's durable state in SQLite: used nonces, decisions, high-water marks. Every commit is on disk.

One transaction carries everything that one batch of decisions leaves behind; the log's leaves are appended
inside it (``ledger.py``), so that a batch is answered whole or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any

from tallystick.core.errors import Malformed, Misuse, Refused, Unreachable, Unsupported

SCHEMA_VERSION = 1
TIME_MARK = "time"  # seconds since 1970-01-01T00:00:00Z
LOG_MARK = "log-size"  # leaves
_BUSY_SECONDS = 10.0

_TABLES = """
CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE nonces (digest BLOB PRIMARY KEY, used_at INTEGER NOT NULL) WITHOUT ROWID, STRICT;
CREATE INDEX nonces_used_at ON nonces (used_at);
CREATE TABLE decisions (id TEXT PRIMARY KEY, leaf INTEGER NOT NULL UNIQUE, record BLOB NOT NULL) STRICT;
CREATE TABLE policies (digest BLOB PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE channels (name TEXT PRIMARY KEY, high_water BLOB NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE roots (size INTEGER PRIMARY KEY, root BLOB NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDecision:
    """One decision as the operator may read it: the whole record behind a leaf's commitment."""

    decision: str
    leaf: int  # index in the log
    record: bytes  # canonical JSON, salt included


class Batch:
    """What one transaction may do. Only ``Store.batch`` makes one."""

    __slots__ = ("_db",)

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def use_nonce(self, digest: bytes, *, at: datetime) -> bool:
        """Use a nonce up; False when it was used before, by this process or another."""
        row = self._db.execute("INSERT OR IGNORE INTO nonces VALUES (?, ?)", (digest, _seconds(at)))
        return row.rowcount == 1

    def keep(self, decision: StoredDecision) -> None:
        """Keep the record behind a leaf."""
        self._db.execute(
            "INSERT INTO decisions VALUES (?, ?, ?)", (decision.decision, decision.leaf, decision.record)
        )

    def raise_mark(self, name: str, value: int) -> None:
        """Raise a high-water mark. A lower value leaves it as it is."""
        self._db.execute(
            "INSERT INTO marks VALUES (?, ?) ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
            (name, value),
        )

    def log_grew(self, size: int, root: bytes) -> None:
        """Remember the log's size and root, so that a shorter or rewritten log is noticed."""
        self.raise_mark(LOG_MARK, size)
        self._db.execute("DELETE FROM roots")
        self._db.execute("INSERT INTO roots VALUES (?, ?)", (size, root))

    def see_channel(self, name: str, high_water: bytes) -> None:
        """Replace what is remembered of a channel's versions and revocations."""
        self._db.execute("INSERT OR REPLACE INTO channels VALUES (?, ?)", (name, high_water))

    def keep_policy(self, digest: bytes, data: bytes) -> None:
        """Keep a compiled policy that decided, so that its decisions can be made again."""
        self._db.execute("INSERT OR IGNORE INTO policies VALUES (?, ?)", (digest, data))

    def forget_nonces(self, *, before: datetime) -> None:
        """Drop the nonces used before ``before``, whose sessions have long expired."""
        self._db.execute("DELETE FROM nonces WHERE used_at < ?", (_seconds(before),))


class Store:
    """The database of one broker. Safe for several threads; other processes may have it open too."""

    __slots__ = ("_db", "_lock", "_path")

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path
        self._lock = RLock()

    @classmethod
    def create(cls, path: Path) -> None:
        """Make an empty database at ``path``, readable by its owner alone.

        Raises:
            Misuse: there is a file already (``store.exists``).
        """
        try:
            path.touch(mode=0o600, exist_ok=False)
        except FileExistsError:
            raise Misuse(f"{path} exists already", code="store.exists") from None
        with _named(path):
            db = sqlite3.connect(path, isolation_level=None)
            db.executescript(f"PRAGMA journal_mode = WAL;{_TABLES}PRAGMA user_version = {SCHEMA_VERSION};")
            db.close()

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open the database at ``path``.

        Raises:
            Misuse: there is none.
            Malformed: not a database, or a damaged one.
            Unsupported: another schema version.
            Unreachable: locked, or the disk does not answer.
        """
        if not path.is_file():
            raise Misuse(f"there is no store {path}; run `tally broker init`", code="file.missing")
        with _named(path):
            db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False)
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version != SCHEMA_VERSION:
                db.close()
                raise Unsupported(
                    "broker store", at=str(path), want=f"version {SCHEMA_VERSION}", got=str(version)
                )
            db.executescript("PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;")
        return cls(db, path)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Give one transaction that is durable when the block has ended, and undone when it raises.

        Raises:
            Unreachable: the disk is full, or another process held the database too long.
        """
        with self._lock, _named(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield Batch(self._db)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def mark(self, name: str) -> int:
        """Return a high-water mark; 0 when nothing was ever marked."""
        row = self._one("SELECT value FROM marks WHERE name = ?", name)
        return int(row[0]) if row else 0

    def time_mark(self) -> datetime:
        """Return the latest time that was ever acted on."""
        return datetime.fromtimestamp(self.mark(TIME_MARK), UTC)

    def log_root(self) -> tuple[int, bytes] | None:
        """Return the log's size and root as last remembered."""
        row = self._one("SELECT size, root FROM roots ORDER BY size DESC LIMIT 1")
        return (int(row[0]), bytes(row[1])) if row else None

    def channel(self, name: str) -> bytes | None:
        """Return what is remembered of a channel."""
        row = self._one("SELECT high_water FROM channels WHERE name = ?", name)
        return bytes(row[0]) if row else None

    def policy(self, digest: bytes) -> bytes | None:
        """Return a compiled policy that was in force once."""
        with self._lock, _named(self._path):
            row = self._db.execute("SELECT data FROM policies WHERE digest = ?", (digest,)).fetchone()
        return bytes(row[0]) if row else None

    def decision(self, decision: str) -> StoredDecision:
        """Return the record of one decision.

        Raises:
            Refused: this broker never made it (``decision.unknown``).
        """
        row = self._one("SELECT leaf, record FROM decisions WHERE id = ?", decision)
        if row is None:
            raise Refused(f"this broker has no decision {decision}", code="decision.unknown")
        return StoredDecision(decision=decision, leaf=int(row[0]), record=bytes(row[1]))

    def decisions(self) -> Iterator[StoredDecision]:
        """Yield every decision in the order of the log."""
        with self._lock, _named(self._path):
            rows = self._db.execute("SELECT id, leaf, record FROM decisions ORDER BY leaf").fetchall()
        for name, leaf, record in rows:
            yield StoredDecision(decision=name, leaf=leaf, record=bytes(record))

    def _one(self, query: str, *values: str) -> tuple[Any, ...] | None:
        with self._lock, _named(self._path):
            row: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
            return row


def _seconds(at: datetime) -> int:
    return int(at.timestamp())


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say what SQLite's errors mean for the reader."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unreachable(f"broker store: {path}: {error}", code="store.unreachable") from None
    except sqlite3.DatabaseError as error:
        raise Malformed("broker store", at=str(path), want="a SQLite database", got=str(error)) from None
