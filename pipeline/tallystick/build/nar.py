"""The NAR of a file or folder: the bytes that Nix hashes. No Nix is needed.

Source: E. Dolstra, The Purely Functional Software Deployment Model, figure 5.2.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed


def digest(path: Path, algorithm: Algorithm = Algorithm.SHA256) -> Digest:
    """Return the digest of the NAR of ``path``; Nix itself takes SHA-256.

    Raises:
        Malformed: something in it is neither a file, a folder nor a symbolic link.
    """
    hasher = hashlib.new(algorithm.label)
    for part in (_string(b"nix-archive-1"), *_node(path)):
        hasher.update(part)
    return Digest(algorithm, hasher.digest())


def _string(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text + b"\0" * (-len(text) % 8)


def _node(path: Path) -> Iterator[bytes]:
    yield from map(_string, (b"(", b"type"))
    if path.is_symlink():
        yield from map(_string, (b"symlink", b"target", os.fsencode(os.readlink(path))))
    elif path.is_dir():
        yield _string(b"directory")
        for name in sorted(os.listdir(os.fsencode(path))):
            yield from map(_string, (b"entry", b"(", b"name", name, b"node"))
            yield from _node(path / os.fsdecode(name))
            yield _string(b")")
    elif path.is_file():
        yield _string(b"regular")
        if path.stat().st_mode & 0o100:
            yield from map(_string, (b"executable", b""))
        yield from map(_string, (b"contents", path.read_bytes()))
    else:
        raise Malformed("NAR", at=str(path), want="a file, folder or symbolic link", got="something else")
    yield _string(b")")
