"""The folder that a log lies in, and the lock that gives it to one writer at a time.

``leaves`` holds the frames and is the truth; ``index`` is a cache of their hashes and ends, made anew when it
does not fit; ``mark`` is the high-water mark; ``lock`` is held by whoever may append.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tallystick.core.errors import NotGenuine, Unreachable
from tallystick.core.findings import Finding
from tallystick.tlog import frames, mark
from tallystick.tlog.mark import Head
from tallystick.tlog.merkle import HASH_BYTES, Tree, leaf_hash

_RECORD = struct.Struct(f">{HASH_BYTES}sQ")  # leaf hash, offset behind its frame
_POLL_SECONDS = 0.02


class Uncertain(OSError):
    """A write that may or may not be on the disk."""


@dataclass(slots=True)
class Contents:
    """What a folder holds, in memory: the tree, and where each leaf's frame ends."""

    tree: Tree = field(default_factory=Tree)
    ends: list[int] = field(default_factory=list)
    indexed: int = 0  # how many leaves the index on disk is right about
    sequence: int = 0  # of the mark

    @property
    def end(self) -> int:
        """Offset behind the last whole frame."""
        return self.ends[-1] if self.ends else 0

    def take(self, leaf: bytes, end: int) -> None:
        """Add a leaf *hash* whose frame ends at ``end``."""
        self.ends.append(end)
        self.tree.grow(leaf)

    def check_reaches(self, head: Head, folder: Path) -> None:
        """Check that these leaves begin with those under ``head``.

        Raises:
            NotGenuine: ``log.shorter`` or ``log.altered``.
        """
        if self.tree.size < head.size:
            raise refuse("log.shorter", folder, "whole leaves", f"{head.size}", f"{self.tree.size}")
        root = self.tree.root(head.size)
        if root != head.root:
            raise refuse("log.altered", folder, f"root at {head.size}", head.root.hex(), root.hex())


def take_lock(folder: Path, wait_seconds: float) -> int:
    """Return a handle that holds the lock of ``folder``, which is made when it is not there.

    Raises:
        Unreachable: ``log.locked``: another writer held it all the time; or the folder can not be made.
    """
    with naming(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    until = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES) or time.monotonic() >= until:
                os.close(handle)
                message = f"transparency log: {folder} is being written by another process"
                raise Unreachable(message, code="log.locked") from None
            time.sleep(_POLL_SECONDS)
        else:
            return handle


def create(folder: Path) -> None:
    """Write what an empty log has, unless it is there. The mark first: leaves without one are refused."""
    marked, filled = (folder / "mark").exists(), (folder / "leaves").exists()
    if not marked and not filled:
        mark.create(folder / "mark")
    if not filled:
        os.close(os.open(folder / "leaves", os.O_CREAT | os.O_RDWR, 0o600))
        _sync(folder)


def load_all(folder: Path) -> Contents:
    """Return what ``folder`` holds, with the whole leaves behind the mark that a writer who died had written.

    Raises:
        NotGenuine: ``log.mark-missing``, ``log.mark-damaged``, ``log.shorter`` or ``log.altered``.
        OSError: a file can not be read.
    """
    sequence, head = _read_mark(folder)
    return _load(folder, sequence, head, None)


def load_acknowledged(folder: Path) -> Contents:
    """Return what ``folder`` holds up to its mark; a writer may be at work behind it.

    Raises:
        NotGenuine, OSError: as :func:`load_all`.
    """
    sequence, head = _read_mark(folder)
    return _load(folder, sequence, head, head.size)


def settle(folder: Path, contents: Contents) -> None:
    """Cut a torn tail, bring the index up to date, and let the mark reach every whole leaf. Durable."""
    with (folder / "leaves").open("r+b") as stream:
        if os.fstat(stream.fileno()).st_size != contents.end:
            stream.truncate(contents.end)
        os.fsync(stream.fileno())
    handle = os.open(folder / "index", os.O_CREAT | os.O_RDWR, 0o600)
    with os.fdopen(handle, "r+b") as stream:
        stream.truncate(contents.indexed * _RECORD.size)
    _write_index(folder, contents)
    _, head = mark.read(folder / "mark")
    if contents.tree.size > head.size:
        advance(folder, contents)


def append(folder: Path, contents: Contents, leaves: Sequence[bytes]) -> None:
    """Write ``leaves`` behind ``contents`` with one fsync, then take them into it.

    Raises:
        OSError: the disk would not take them, and the file is as it was.
        Uncertain: nobody knows what the disk has; the log has to be opened again.
    """
    start = contents.end
    with (folder / "leaves").open("r+b", buffering=0) as stream:
        try:
            _write_all(stream.fileno(), b"".join(map(frames.frame, leaves)), start)
        except OSError:
            with _uncertain():
                stream.truncate(start)
            raise
        with _uncertain():
            os.fdatasync(stream.fileno())
    for leaf in leaves:
        start += frames.HEADER_BYTES + len(leaf)
        contents.take(leaf_hash(leaf), start)
    _write_index(folder, contents)


def advance(folder: Path, contents: Contents) -> None:
    """Make the mark say that all of ``contents`` is acknowledged. Durable.

    Raises:
        Uncertain: nobody knows which mark the disk has; the log has to be opened again.
    """
    head = Head(size=contents.tree.size, root=contents.tree.root())
    with _uncertain():
        mark.advance(folder / "mark", contents.sequence + 1, head)
    contents.sequence += 1


def read_leaf(folder: Path, contents: Contents, index: int) -> bytes:
    """Return leaf ``index``.

    Raises:
        NotGenuine: ``log.altered``: it does not have the hash that it had.
        OSError: it can not be read.
    """
    want = contents.tree.leaf(index)
    start = contents.ends[index - 1] if index else 0
    with (folder / "leaves").open("rb", buffering=0) as stream:
        data = os.pread(stream.fileno(), contents.ends[index] - start, start)
    leaf = frames.open_frame(data)
    if leaf is None or leaf_hash(leaf) != want:
        got = "no whole frame" if leaf is None else leaf_hash(leaf).hex()
        raise refuse("log.altered", folder, f"leaf {index}", want.hex(), got)
    return leaf


def scan_again(folder: Path, contents: Contents) -> None:
    """Read every leaf from the disk and check that together they have the root of ``contents``.

    Raises:
        NotGenuine: ``log.altered`` or ``log.shorter``.
        OSError: they can not be read.
    """
    fresh = Contents()
    _scan(folder, fresh, contents.tree.size)
    fresh.check_reaches(Head(size=contents.tree.size, root=contents.tree.root()), folder)


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Turn the system's refusals into ours, naming ``folder``.

    Raises:
        Unreachable: ``log.unreadable`` or ``log.unwritable``.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
        message = f"transparency log: {folder}: {error.strerror}"
        raise Unreachable(message, code="log.unwritable" if full else "log.unreadable") from None


def refuse(code: str, folder: Path, where: str, want: str, got: str) -> NotGenuine:
    """Return the error that says what is wrong with the log in ``folder``; the caller raises it."""
    finding = Finding(code, f"{folder}: {where}", want, got)
    return NotGenuine(f"transparency log: {finding.message}", findings=[finding])


def _read_mark(folder: Path) -> tuple[int, Head]:
    path = folder / "mark"
    if not path.exists() and (folder / "leaves").exists():
        raise refuse("log.mark-missing", folder, "mark", "the mark of these leaves", "no such file")
    return mark.read(path)


def _load(folder: Path, sequence: int, head: Head, limit: int | None) -> Contents:
    """Load by the index where it fits ``head``, and else from the leaves themselves."""
    contents = _by_index(folder, head, limit)
    if contents is None:
        contents = Contents()
        _scan(folder, contents, limit)
        contents.check_reaches(head, folder)
    contents.sequence = sequence
    return contents


def _by_index(folder: Path, head: Head, limit: int | None) -> Contents | None:
    """Take the index's word for the leaves under ``head``, whose root then has to match; scan the rest."""
    contents = Contents()
    try:
        data = (folder / "index").read_bytes()[: head.size * _RECORD.size]
        for leaf, end in _RECORD.iter_unpack(data[: len(data) // _RECORD.size * _RECORD.size]):
            if end < contents.end + frames.HEADER_BYTES:
                return None
            contents.take(leaf, end)
        if contents.end > (folder / "leaves").stat().st_size:
            return None
        contents.indexed = contents.tree.size
        _scan(folder, contents, limit)
        contents.check_reaches(head, folder)
    except (NotGenuine, FileNotFoundError):
        return None
    return contents


def _scan(folder: Path, contents: Contents, limit: int | None) -> None:
    """Take the whole leaves that lie behind ``contents``, up to ``limit`` of them in all."""
    with (folder / "leaves").open("rb") as stream:
        for leaf, end in frames.scan(stream, contents.end):
            if contents.tree.size == limit:
                break
            contents.take(leaf_hash(leaf), end)


def _write_index(folder: Path, contents: Contents) -> None:
    """Write to the index what it lacks. Neither durable nor needed: a wrong index is seen and made anew."""
    lacking = range(contents.indexed, contents.tree.size)
    records = b"".join(_RECORD.pack(contents.tree.leaf(at), contents.ends[at]) for at in lacking)
    with suppress(OSError), (folder / "index").open("r+b") as stream:
        _write_all(stream.fileno(), records, contents.indexed * _RECORD.size)
        contents.indexed = contents.tree.size


def _write_all(handle: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, at)
        view, at = view[written:], at + written


@contextmanager
def _uncertain() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Uncertain(error.errno, error.strerror) from error


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
