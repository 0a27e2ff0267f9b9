"""The log comes first: nothing is answered before its leaf and its record are on the disk (invariant 10).

One thread writes. Whatever waits when it is free goes into one batch: one transaction of the store, which holds
the log too. When it fails, everything in the batch fails and nothing that it decided takes effect.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from queue import SimpleQueue
from threading import Lock, Thread

from tallystick.broker.clock import Clock
from tallystick.broker.decisions import Entry, Kind
from tallystick.broker.store import Batch, Store
from tallystick.core.errors import NotGenuine, TallystickError, Unreachable
from tallystick.tlog.mark import Head

_MOST_ENTRIES = 256  # in one batch: bounds how long the first of them waits for the last
_FORGET_EVERY = timedelta(minutes=1)


class Stale(Unreachable):
    """What was decided rests on policies that are no longer in force, or another process took over: decide again."""

    default_code = "policies.stale"


@dataclass(frozen=True, slots=True, kw_only=True)
class Under:
    """What a decision rests on: this ``epoch`` of ``channel``'s policies and revocations; None when none is kept."""

    channel: str
    epoch: bytes | None


@dataclass(slots=True, kw_only=True, eq=False)
class _Item:
    """One submission: all of its entries are logged, or none."""

    entries: tuple[Entry, ...]
    now: datetime
    nonce: bytes | None
    under: Under | None
    also: Callable[[Batch], None] | None
    future: Future[None] = field(default_factory=Future)


class Ledger:
    """The one writer of a broker process. Several processes may each have one over the same store."""

    def __init__(self, store: Store, clock: Clock, *, nonce_life: timedelta) -> None:
        """Begin to write.

        Args:
            clock: told the latest time that any process has acted on.
            nonce_life: how long a used nonce is remembered; longer than any session lasts.
        """
        self._store = store
        self._clock = clock
        self._nonce_life = nonce_life
        self._closed = False
        self._gate = Lock()
        self._counts: Counter[Kind] = Counter()
        self._forgot_at: datetime | None = None
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="broker-ledger", daemon=True)
        self._thread.start()

    def submit(
        self,
        entries: Sequence[Entry],
        *,
        now: datetime,
        nonce: bytes | None = None,
        under: Under | None = None,
        also: Callable[[Batch], None] | None = None,
    ) -> Future[None]:
        """Return a future that is done when ``entries`` are durable.

        It fails with ``NotGenuine`` (``nonce.used``) when ``nonce`` was used up before, by whatever process; with
        :class:`Stale` when other policies than ``under`` says are in force; and with ``Unreachable`` when the
        database refuses. ``also`` runs in the same transaction.
        """
        item = _Item(entries=tuple(entries), now=now, nonce=nonce, under=under, also=also)
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
        under: Under | None = None,
        also: Callable[[Batch], None] | None = None,
    ) -> None:
        """Return when ``entries`` are durable. A cancelled caller does not undo them.

        Raises:
            NotGenuine, Stale, Unreachable: as :meth:`submit`.
        """
        future = self.submit(entries, now=now, nonce=nonce, under=under, also=also)
        await asyncio.shield(asyncio.wrap_future(future))

    def close(self) -> None:
        """Write what waits."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def head(self) -> Head:
        """Return the size of the log and the root over it."""
        return self._store.head()

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
        try:
            with self._store.batch() as batch:
                refused = _refusals(batch, items)
                kept = [item for item in items if item not in refused]
                if kept:
                    self._write_batch(batch, kept)
                seen_at = batch.seen_at
        except Exception as error:
            for item in items:
                item.future.set_exception(_said(error))
            return
        self._clock.saw(seen_at)
        with self._gate:
            self._counts.update(entry.kind for item in kept for entry in item.entries)
        for item in items:
            if item in refused:
                item.future.set_exception(refused[item])
            else:
                item.future.set_result(None)

    def _write_batch(self, batch: Batch, items: list[_Item]) -> None:
        latest = max(item.now for item in items)
        batch.acted_at(latest)
        batch.use([item.nonce for item in items if item.nonce is not None], at=latest)
        for item in items:
            if item.also is not None:
                item.also(batch)
        if self._forgot_at is None or latest - self._forgot_at > _FORGET_EVERY:
            batch.forget(nonces_before=latest - self._nonce_life, sessions_before=latest)
            self._forgot_at = latest
        entries = [entry for item in items for entry in item.entries]
        batch.append([(entry.decision, entry.leaf, entry.record) for entry in entries])


def _refusals(batch: Batch, items: list[_Item]) -> dict[_Item, TallystickError]:
    """Return the items that can not be written, and why: a nonce that was used, policies that are gone."""
    refused: dict[_Item, TallystickError] = {}
    used = set(batch.used([item.nonce for item in items if item.nonce is not None]))
    epochs: dict[str, bytes | None] = {}
    for item in items:
        if item.under is not None:
            channel = item.under.channel
            if channel not in epochs:
                mark = batch.channel(channel)
                epochs[channel] = None if mark is None else mark.epoch
            if epochs[channel] != item.under.epoch:
                refused[item] = Stale(f"other policies of channel {channel} are in force by now")
                continue
        if item.nonce is not None:
            if item.nonce in used:
                refused[item] = NotGenuine("the nonce was used before", code="nonce.used")
            used.add(item.nonce)
    return refused


def _said(error: Exception) -> TallystickError:
    if isinstance(error, TallystickError):
        return error
    kind = type(error).__name__
    return Unreachable(f"the log could not be written ({kind})", code="log.unwritable")
