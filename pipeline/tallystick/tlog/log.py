"""A durable, append-only log in a folder: what ``append`` has returned is on the disk and stays there."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from tallystick.core.errors import Unreachable
from tallystick.tlog import frames, store
from tallystick.tlog.mark import Head

_WAIT_SECONDS = 10.0  # for another writer to end: a command holds the lock for well under one


class _Item:
    """Leaves that wait to be appended, and what became of them."""

    __slots__ = ("error", "first", "leaves")

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.leaves = leaves
        self.first: int | None = None
        self.error: Exception | None = None


class Log:
    """An open log. Threads may append at once: whoever writes takes along all that wait, for one fsync."""

    def __init__(self, folder: Path, contents: store.Contents, lock: int | None) -> None:
        """Hold what :meth:`open` or :meth:`read` found; use those."""
        self._folder, self._contents, self._lock = folder, contents, lock
        self._broken = False
        self._waiting: list[_Item] = []
        self._queue, self._writing = threading.Lock(), threading.Lock()

    @classmethod
    def open(cls, folder: Path, *, floor: Head | None = None, wait_seconds: float = _WAIT_SECONDS) -> Log:
        """Return the log in ``folder`` for appending, made empty when there is none.

        A tail that a crash tore is cut: it was never acknowledged, for the high-water mark lies before it.

        Args:
            floor: a head remembered outside the folder; a log that does not contain it is refused, as a
                restored backup would be.
            wait_seconds: how long to wait for another writer.

        Raises:
            NotGenuine: ``log.shorter``, ``log.altered``, ``log.mark-missing`` or ``log.mark-damaged``.
            Unreachable: another writer holds it (``log.locked``), or the disk refuses.
        """
        lock = store.take_lock(folder, wait_seconds)
        try:
            with store.naming(folder):
                store.create(folder)
                contents = store.load_all(folder)
                if floor is not None:
                    contents.check_reaches(floor, folder)
                store.settle(folder, contents)
        except BaseException:
            os.close(lock)
            raise
        return cls(folder, contents, lock)

    @classmethod
    def read(cls, folder: Path, *, floor: Head | None = None) -> Log:
        """Return the log in ``folder`` as it was last acknowledged, for reading; a writer may be at work.

        Raises:
            NotGenuine: as :meth:`open`.
            Unreachable: there is no log, or it can not be read.
        """
        with store.naming(folder):
            contents = store.load_acknowledged(folder)
        if floor is not None:
            contents.check_reaches(floor, folder)
        return cls(folder, contents, None)

    def append(self, leaf: bytes) -> int:
        """Return the index of ``leaf``, which is durable by then.

        Raises:
            Unreachable: ``log.unwritable``: the disk refuses, and nothing was acknowledged.
            ValueError: the leaf is too long, or the log is open for reading.
        """
        return self.append_all([leaf])[0]

    def append_all(self, leaves: Sequence[bytes]) -> range:
        """Return the indexes of ``leaves``, appended together and in order, with one fsync.

        Raises:
            Unreachable, ValueError: as :meth:`append`.
        """
        for leaf in leaves:
            frames.check_size(leaf)
        item = _Item(leaves)
        with self._queue:
            self._waiting.append(item)
        with self._writing:
            if item.first is None and item.error is None:
                self._write_waiting()
        if item.first is None:
            raise item.error or AssertionError("an append without an outcome")
        return range(item.first, item.first + len(leaves))

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self._contents.tree.size

    def head(self, size: int | None = None) -> Head:
        """Return the head over the first ``size`` leaves (all, when not given)."""
        count = self.size if size is None else size
        return Head(size=count, root=self.root(count))

    def root(self, size: int | None = None) -> bytes:
        """Return the root over the first ``size`` leaves (all, when not given)."""
        return self._contents.tree.root(size)

    def inclusion(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the audit path of leaf ``index`` in the first ``size`` leaves."""
        return self._contents.tree.inclusion(index, size)

    def consistency(self, older: int, newer: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that the first ``older`` leaves are a prefix of the first ``newer``."""
        return self._contents.tree.consistency(older, newer)

    def entry(self, index: int) -> bytes:
        """Return leaf ``index``, checked against its hash.

        Raises:
            NotGenuine: ``log.altered``.
            Unreachable: it can not be read.
        """
        with store.naming(self._folder):
            return store.read_leaf(self._folder, self._contents, index)

    def entries(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield leaves ``start`` to ``end``, each as :meth:`entry` does."""
        for index in range(start, self.size if end is None else end):
            yield self.entry(index)

    def verify(self) -> Head:
        """Return the head, after every leaf was read from the disk again.

        Raises:
            NotGenuine: ``log.altered`` or ``log.shorter``.
            Unreachable: they can not be read.
        """
        with store.naming(self._folder):
            store.scan_again(self._folder, self._contents)
        return self.head()

    def close(self) -> None:
        """Let another writer have the log."""
        with self._writing:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_waiting(self) -> None:
        """Append everything that waits as one write; called by one thread at a time."""
        with self._queue:
            batch, self._waiting = self._waiting, []
        first = self.size
        try:
            self._write([leaf for item in batch for leaf in item.leaves])
        except Exception as error:
            for item in batch:
                item.error = error
            return
        for item in batch:
            item.first = first
            first += len(item.leaves)

    def _write(self, leaves: Sequence[bytes]) -> None:
        if self._lock is None:
            raise ValueError("this log is not open for appending")
        if self._broken:
            message = f"transparency log: {self._folder}: a write failed; the log has to be opened again"
            raise Unreachable(message, code="log.unwritable")
        if not leaves:
            return
        try:
            store.append(self._folder, self._contents, leaves)
            store.advance(self._folder, self._contents)
        except OSError as error:
            self._broken = isinstance(error, store.Uncertain)
            message = f"transparency log: {self._folder}: {error.strerror}"
            raise Unreachable(message, code="log.unwritable") from None
