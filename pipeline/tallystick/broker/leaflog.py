"""The transparency log in the store, read: heads, proofs, and leaves that are checked against the head."""

from __future__ import annotations

from collections.abc import Iterator

from tallystick.broker.store import Store, StoredDecision
from tallystick.core.errors import NotGenuine
from tallystick.core.findings import Finding
from tallystick.tlog.mark import Head
from tallystick.tlog.merkle import Frontier, leaf_hash, verify_inclusion
from tallystick.tlog.tiles import TiledTree


class LeafLog:
    """The log as it was when this was made; what is appended later is not in it."""

    __slots__ = ("_head", "_store", "_tree")

    def __init__(self, store: Store) -> None:
        """Take the head that the store has now."""
        self._store = store
        self._head = store.head()
        self._tree = TiledTree(self._head.size, store.tile, self._leaves)

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self._head.size

    def head(self) -> Head:
        """Return the size and the root."""
        return self._head

    def root(self, size: int) -> bytes:
        """Return the root over the first ``size`` leaves."""
        return self._tree.root(size)

    def inclusion(self, index: int) -> tuple[bytes, ...]:
        """Return the audit path of leaf ``index``."""
        return self._tree.inclusion(index)

    def consistency(self, older: int) -> tuple[bytes, ...]:
        """Return the proof that the first ``older`` leaves are a prefix of all."""
        return self._tree.consistency(older)

    def leaf(self, kept: StoredDecision) -> bytes:
        """Return a decision's leaf, which is in the log where the store says.

        Raises:
            NotGenuine: ``log.altered`` or ``log.inclusion``.
        """
        hashes = self.inclusion(kept.position)
        verify_inclusion(leaf_hash(kept.leaf), kept.position, self.size, hashes, self._head.root)
        return kept.leaf

    def decisions(self, start: int = 0) -> Iterator[StoredDecision]:
        """Yield every decision from leaf ``start`` on; at the end, all leaves from the first on have held.

        Raises:
            NotGenuine: leaves are missing, were added or altered (``log.altered``).
        """
        tree = Frontier()
        for kept in self._store.decisions(0, self.size):
            if kept.position != tree.size:
                raise _altered(f"leaf {tree.size}", "a leaf", "none")
            tree.grow(leaf_hash(kept.leaf))
            if kept.position >= start:
                yield kept
        if tree.root() != self._head.root or tree.size != self.size:
            raise _altered(f"root over {self.size} leaves", self._head.root.hex(), tree.root().hex())

    def _leaves(self, start: int, end: int) -> bytes:
        found = [leaf_hash(kept.leaf) for kept in self._store.decisions(start, end)]
        if len(found) != end - start:
            raise _altered(f"leaves {start} to {end}", f"{end - start}", f"{len(found)}")
        return b"".join(found)


def _altered(where: str, want: str, got: str) -> NotGenuine:
    finding = Finding("log.altered", where, want, got)
    return NotGenuine(f"transparency log: {finding.message}", findings=[finding])
