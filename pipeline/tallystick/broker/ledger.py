"""The log comes first: nothing is answered before its leaf and its record are on the disk (invariant 10).

One thread writes. Whatever waits when it is free goes into one batch: one SQLite transaction with the log's
append inside it. When either fails, everything in the batch fails and nothing that it decided takes effect.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread

from tallystick.broker.decisions import Entry, Kind
from tallystick.broker.store import TIME_MARK, Batch, Store, StoredDecision
from tallystick.core.errors import NotGenuine, TallystickError, Unreachable
from tallystick.tlog.log import Log
from tallystick.tlog.mark import Head

_MOST_ENTRIES = 256  # in one batch: bounds how long the first of them waits for the last
_FORGET_EVERY = timedelta(minutes=1)


@dataclass(slots=True, kw_only=True, eq=False)
class _Item:
    """One submission: all of its entries are logged, or none."""

    entries: tuple[Entry, ...]
    now: datetime
    nonce: bytes | None
    also: Callable[[Batch], None] | None
    future: Future[None] = field(default_factory=Future)


class Ledger:
    """The broker's one writer: the transparency log and the store, kept in step."""

    def __init__(self, folder: Path, store: Store, *, nonce_life: timedelta, log: Log) -> None:
        """Hold what :meth:`open` opened. Use that."""
        self._folder = folder
        self._store = store
        self._log = log
        self._nonce_life = nonce_life
        self._failed = False
        self._closed = False
        self._gate = Lock()
        self._counts: Counter[Kind] = Counter()
        self._forgot_at: datetime | None = None
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="broker-ledger", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, folder: Path, store: Store, *, nonce_life: timedelta, wait_seconds: float = 1.0) -> Ledger:
        """Open the log in ``folder``, refused when it is shorter than, or other than, the store remembers.

        Args:
            nonce_life: how long a used nonce is remembered; longer than any session lasts.

        Raises:
            NotGenuine: the log was cut back or rewritten (``log.shorter``, ``log.altered``).
            Unreachable: another process writes to it (``log.locked``).
        """
        log = Log.open(folder, floor=_floor(store), wait_seconds=wait_seconds)
        return cls(folder, store, nonce_life=nonce_life, log=log)

    def submit(
        self,
        entries: Sequence[Entry],
        *,
        now: datetime,
        nonce: bytes | None = None,
        also: Callable[[Batch], None] | None = None,
    ) -> Future[None]:
        """Return a future that is done when ``entries`` are durable.

        It fails with ``NotGenuine`` (``nonce.used``) when ``nonce`` was used up before, and with
        ``Unreachable`` when the disk refuses. ``also`` runs in the same transaction.
        """
        item = _Item(entries=tuple(entries), now=now, nonce=nonce, also=also)
        item.future.set_running_or_notify_cancel()  # from here on nobody can cancel it
        with self._gate:
            if self._closed:
                raise Unreachable("the broker is shutting down", code="broker.closing")
            self._queue.put(item)
        return item.future

    async def record(
        self,
        entries: Sequence[Entry],
        *,
        now: datetime,
        nonce: bytes | None = None,
        also: Callable[[Batch], None] | None = None,
    ) -> None:
        """Return when ``entries`` are durable. A cancelled caller does not undo them.

        Raises:
            NotGenuine, Unreachable: as :meth:`submit`.
        """
        future = self.submit(entries, now=now, nonce=nonce, also=also)
        await asyncio.shield(asyncio.wrap_future(future))

    def close(self) -> None:
        """Write what waits, and let another process have the log."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._log.close()

    @property
    def log(self) -> Log:
        """The log, for heads and proofs."""
        return self._log

    def counts(self) -> dict[Kind, int]:
        """Return how many decisions of each kind this process has made durable."""
        with self._gate:
            return dict(self._counts)

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            items, last = self._gather(first)
            self._write(items)
            if last:
                return

    def _gather(self, first: _Item) -> tuple[list[_Item], bool]:
        items, entries = [first], len(first.entries)
        while entries < _MOST_ENTRIES and not self._queue.empty():
            more = self._queue.get()
            if more is None:
                return items, True
            items.append(more)
            entries += len(more.entries)
        return items, False

    def _write(self, items: list[_Item]) -> None:
        refused: list[_Item] = []
        try:
            if self._failed:
                self._reopen()
            with self._store.batch() as batch:
                refused = [item for item in items if not _fresh(batch, item)]
                kept = [item for item in items if item not in refused]
                if kept:
                    self._write_batch(batch, kept)
        except Exception as error:
            self._failed = True
            for item in items:
                item.future.set_exception(_said(error))
            return
        for item in items:
            if item in refused:
                item.future.set_exception(NotGenuine("the nonce was used before", code="nonce.used"))
            else:
                with self._gate:
                    self._counts.update(entry.kind for entry in item.entries)
                item.future.set_result(None)

    def _write_batch(self, batch: Batch, items: list[_Item]) -> None:
        entries = [entry for item in items for entry in item.entries]
        for item in items:
            if item.also is not None:
                item.also(batch)
        latest = max(item.now for item in items)
        batch.raise_mark(TIME_MARK, int(latest.timestamp()))
        if self._forgot_at is None or latest - self._forgot_at > _FORGET_EVERY:
            batch.forget_nonces(before=latest - self._nonce_life)
            self._forgot_at = latest
        if not entries:
            return
        indexes = self._log.append_all([entry.leaf for entry in entries])
        for index, entry in zip(indexes, entries, strict=True):
            batch.keep(StoredDecision(decision=entry.decision, leaf=index, record=entry.record))
        head = self._log.head()
        batch.log_grew(head.size, head.root)

    def _reopen(self) -> None:
        """Start again from what is on the disk: after a failure, only that is known."""
        self._log.close()
        self._log = Log.open(self._folder, floor=_floor(self._store))
        self._failed = False


def _floor(store: Store) -> Head | None:
    remembered = store.log_root()
    return None if remembered is None else Head(size=remembered[0], root=remembered[1])


def _fresh(batch: Batch, item: _Item) -> bool:
    return item.nonce is None or batch.use_nonce(item.nonce, at=item.now)


def _said(error: Exception) -> TallystickError:
    if isinstance(error, TallystickError):
        return error
    kind = type(error).__name__
    return Unreachable(f"the log could not be written ({kind})", code="log.unwritable")
