"""A Merkle tree that lies in tiles: runs of 256 hashes of one level, kept once they are whole and never changed.

Source: C2SP tlog-tiles, section "Merkle Tree".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from tallystick.tlog.merkle import HASH_BYTES, Frontier, Subtrees

HEIGHT = 8
WIDTH = 1 << HEIGHT  # hashes in a whole tile

Whole = Callable[[int, int], bytes]  # level and number of a whole tile -> its 256 hashes
Leaves = Callable[[int, int], bytes]  # first and last + 1 -> hashes of leaves that no whole tile holds yet
_CACHED = 512  # tiles: 4 MiB


class TiledTree(Subtrees):
    """The tree of ``size`` leaves whose tiles are fetched when a proof needs them."""

    __slots__ = ("_entries", "_size")

    def __init__(self, size: int, whole: Whole, leaves: Leaves) -> None:
        self._size = size

        def entries(level: int, number: int) -> bytes:
            """Return the hashes of a tile, whole or not."""
            start, end = number * WIDTH, min((number + 1) * WIDTH, size >> HEIGHT * level)
            if end - start == WIDTH:
                return whole(level, number)
            if level == 0:
                return leaves(start, end)
            return b"".join(subtree(self._entries(level - 1, at)) for at in range(start, end))

        self._entries = lru_cache(_CACHED)(entries)

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self._size

    def _node(self, level: int, at: int) -> bytes:
        tile, inside = divmod(level, HEIGHT)
        number, offset = divmod(at << inside, WIDTH)
        hashes = self._entries(tile, number)
        return subtree(hashes[offset * HASH_BYTES : (offset + (1 << inside)) * HASH_BYTES])


def subtree(hashes: bytes) -> bytes:
    """Return the root over ``hashes``, one after another, a power of two of them."""
    tree = Frontier()
    for at in range(0, len(hashes), HASH_BYTES):
        tree.grow(hashes[at : at + HASH_BYTES])
    return tree.root()


def completed(older: int, newer: int) -> tuple[tuple[int, int], ...]:
    """Return level and number of the tiles that become whole as a tree grows, those of lower levels first."""
    found: list[tuple[int, int]] = []
    level = 0
    while newer >> HEIGHT * (level + 1):
        span = HEIGHT * (level + 1)
        found.extend((level, number) for number in range(older >> span, newer >> span))
        level += 1
    return tuple(found)
