"""cpio archives made up at test time: right ones, and wrong ones on request."""

from __future__ import annotations

from collections.abc import Iterable


def entry(
    name: str | bytes,
    data: bytes = b"",
    mode: int = 0o100644,
    *,
    nlink: int = 1,
    inode: int = 1,
    size: int = -1,
) -> bytes:
    """Return one entry; ``size`` lies about the length of ``data``."""
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    length = len(data) if size < 0 else size
    fields = (inode, mode, 0, 0, nlink, 0, length, 0, 0, 0, 0, len(raw) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw + b"\0"
    return _padded(head) + _padded(data)


def trailer() -> bytes:
    """Return the entry that ends an archive."""
    return entry("TRAILER!!!", mode=0)


def archive(files: Iterable[tuple[str, bytes, int]]) -> bytes:
    """Return an archive of (path, data, mode), folders first where the caller puts them."""
    return b"".join(entry(path, data, mode) for path, data, mode in files) + trailer()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
