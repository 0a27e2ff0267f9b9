"""The Merkle tree of RFC 6962: hashes, and inclusion and consistency proofs made and checked. Pure.

Source: RFC 6962, section 2.1, and RFC 9162, sections 2.1.3 and 2.1.4 (the verification algorithms).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

from tallystick.core.errors import NotGenuine
from tallystick.core.findings import Finding

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()  # RFC 6962, section 2.1: the hash of an empty list


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf that holds ``data``."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the node over two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Subtrees(ABC):
    """A tree whose complete subtrees can be asked for. ``root``, ``inclusion`` and ``consistency`` answer for any
    size that it has had.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def size(self) -> int:
        """How many leaves there are."""

    @abstractmethod
    def _node(self, level: int, at: int) -> bytes:
        """Return the hash of complete subtree number ``at`` of those over ``2**level`` leaves."""

    def leaf(self, index: int) -> bytes:
        """Return the hash of leaf ``index``."""
        if not 0 <= index < self.size:
            raise ValueError(f"there is no leaf {index} among {self.size}")
        return self._node(0, index)

    def root(self, size: int | None = None) -> bytes:
        """Return the root over the first ``size`` leaves (all of them when not given)."""
        count = self._known(self.size if size is None else size)
        return self._range(0, count) if count else EMPTY_ROOT

    def inclusion(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the audit path of leaf ``index`` in the tree of the first ``size`` leaves."""
        count = self._known(self.size if size is None else size)
        if not 0 <= index < count:
            raise ValueError(f"there is no leaf {index} among {count}")
        path: list[bytes] = []
        start, end = 0, count
        while end - start > 1:
            split = start + _split(end - start)
            if index < split:
                path.append(self._range(split, end))
                end = split
            else:
                path.append(self._range(start, split))
                start = split
        return tuple(reversed(path))

    def consistency(self, older: int, newer: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that the first ``older`` leaves are a prefix of the first ``newer``."""
        count = self._known(self.size if newer is None else newer)
        if not 0 <= older <= count:
            raise ValueError(f"size {older} does not lie within {count}")
        if older in (0, count):
            return ()
        path: list[bytes] = []
        start, end, whole = 0, count, True  # whole: the older tree is this very subtree so far
        while older != end:
            split = start + _split(end - start)
            if older <= split:
                path.append(self._range(split, end))
                end = split
            else:
                path.append(self._range(start, split))
                start, whole = split, False
        if not whole:
            path.append(self._range(start, end))
        return tuple(reversed(path))

    def _known(self, size: int) -> int:
        if not 0 <= size <= self.size:
            raise ValueError(f"this tree has had 0 to {self.size} leaves, not {size}")
        return size

    def _range(self, start: int, end: int) -> bytes:
        """Return the hash over leaves ``start`` to ``end``, where ``start`` is where a subtree begins."""
        size = end - start
        if size & (size - 1) == 0:
            level = size.bit_length() - 1
            return self._node(level, start >> level)
        split = start + _split(size)
        return node_hash(self._range(start, split), self._range(split, end))


class Tree(Subtrees):
    """The hashes of every complete subtree, in memory: growing costs one hash on average and a proof log² n."""

    __slots__ = ("_levels", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._levels: list[bytearray] = [bytearray()]  # [k] holds the subtrees over 2**k leaves, in order

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self._size

    def grow(self, leaf: bytes) -> None:
        """Take ``leaf`` (a leaf *hash*) as the next one.

        Raises:
            ValueError: not a hash. A caller's bug, so not a TallystickError.
        """
        level, node = 0, _checked(leaf)
        self._levels[0] += node
        while len(self._levels[level]) // HASH_BYTES % 2 == 0:
            node = node_hash(*self._pair(level))
            level += 1
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += node
        self._size += 1  # last: another thread that asks meanwhile gets an answer for the size before

    def _node(self, level: int, at: int) -> bytes:
        return bytes(self._levels[level][at * HASH_BYTES : (at + 1) * HASH_BYTES])

    def _pair(self, level: int) -> tuple[bytes, bytes]:
        last = len(self._levels[level]) // HASH_BYTES - 1
        return self._node(level, last - 1), self._node(level, last)


class Frontier:
    """The roots of the complete subtrees that a tree falls into, the largest first: all that growing it needs."""

    __slots__ = ("_peaks", "_size")

    def __init__(self, size: int = 0, peaks: bytes = b"") -> None:
        """Take up a tree of ``size`` leaves where :attr:`peaks` left it.

        Raises:
            ValueError: so many leaves do not have these subtrees.
        """
        if size < 0 or len(peaks) != size.bit_count() * HASH_BYTES:
            raise ValueError(f"a tree of {size} leaves has other subtrees")
        self._size = size
        self._peaks = [peaks[at : at + HASH_BYTES] for at in range(0, len(peaks), HASH_BYTES)]

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self._size

    @property
    def peaks(self) -> bytes:
        """The roots, one after another."""
        return b"".join(self._peaks)

    def grow(self, leaf: bytes) -> None:
        """Take ``leaf`` (a leaf *hash*) as the next one; errors as :meth:`Tree.grow`."""
        node, rest = _checked(leaf), self._size
        while rest & 1:
            node, rest = node_hash(self._peaks.pop(), node), rest >> 1
        self._peaks.append(node)
        self._size += 1

    def root(self) -> bytes:
        """Return the root over all leaves."""
        if not self._peaks:
            return EMPTY_ROOT
        *larger, root = self._peaks
        for peak in reversed(larger):
            root = node_hash(peak, root)
        return root


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf with hash ``leaf`` is number ``index`` of the ``size`` leaves under ``root``.

    Source: RFC 9162, section 2.1.3.2.

    Raises:
        NotGenuine: ``log.inclusion``.
    """
    if not 0 <= index < size or len(leaf) != HASH_BYTES:
        raise _refuse("log.inclusion", "leaf index", f"0 to {size - 1}", f"{index}")
    first, last, node = index, size - 1, leaf
    for step in proof:
        if last == 0:
            raise _refuse("log.inclusion", "proof", "no more hashes", f"{len(proof)} hashes")
        if first & 1 or first == last:
            node = node_hash(step, node)
            while first and not first & 1:
                first, last = first >> 1, last >> 1
        else:
            node = node_hash(node, step)
        first, last = first >> 1, last >> 1
    if last:
        raise _refuse("log.inclusion", "proof", "more hashes", f"{len(proof)} hashes")
    if node != root:
        raise _refuse("log.inclusion", "root hash", root.hex(), node.hex())


def verify_consistency(
    older: int, older_root: bytes, newer: int, newer_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of ``older`` leaves under ``older_root`` is a prefix of the newer one.

    Source: RFC 9162, section 2.1.4.2. An empty older tree proves nothing about a newer one and is refused.

    Raises:
        NotGenuine: ``log.consistency``.
    """
    if older == newer >= 0:
        _check_same(older, older_root, newer_root, proof)
        return
    if not 0 < older < newer:
        raise _refuse("log.consistency", "older size", f"1 to {newer}", f"{older}")
    steps = list(proof)
    if older & (older - 1) == 0:
        steps.insert(0, older_root)
    if not steps:
        raise _refuse("log.consistency", "proof", "hashes", "none")
    first, last = older - 1, newer - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    old_node = new_node = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise _refuse("log.consistency", "proof", "no more hashes", f"{len(proof)} hashes")
        if first & 1 or first == last:
            old_node, new_node = node_hash(step, old_node), node_hash(step, new_node)
            while first and not first & 1:
                first, last = first >> 1, last >> 1
        else:
            new_node = node_hash(new_node, step)
        first, last = first >> 1, last >> 1
    if last:
        raise _refuse("log.consistency", "proof", "more hashes", f"{len(proof)} hashes")
    for name, want, got in (("older root", older_root, old_node), ("newer root", newer_root, new_node)):
        if want != got:
            raise _refuse("log.consistency", name, want.hex(), got.hex())


def _check_same(size: int, older_root: bytes, newer_root: bytes, proof: Sequence[bytes]) -> None:
    """Check two trees of one size, which need no proof."""
    if proof:
        raise _refuse("log.consistency", "proof", "no hashes", f"{len(proof)} hashes")
    if older_root != newer_root:
        raise _refuse("log.consistency", "roots of one size", older_root.hex(), newer_root.hex())
    if size == 0 and older_root != EMPTY_ROOT:
        raise _refuse("log.consistency", "root of an empty tree", EMPTY_ROOT.hex(), older_root.hex())


def _checked(leaf: bytes) -> bytes:
    if len(leaf) != HASH_BYTES:
        raise ValueError(f"a leaf hash has {HASH_BYTES} bytes, not {len(leaf)}")
    return leaf


def _split(size: int) -> int:
    """Return the largest power of two below ``size`` (RFC 6962: ``k < n <= 2k``)."""
    return 1 << (size - 1).bit_length() - 1


def _refuse(code: str, where: str, want: str, got: str) -> NotGenuine:
    finding = Finding(code, where, want, got)
    return NotGenuine(f"transparency log: {finding.message}", findings=[finding])
