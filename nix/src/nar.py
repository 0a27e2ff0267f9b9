"""The NAR hash of a tree (Dolstra, The Purely Functional Software Deployment Model, figure 5.2)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """Return the sha256 of ``path``'s NAR serialisation, in hex."""
    hasher = hashlib.sha256()
    _string(hasher, b"nix-archive-1")
    _node(hasher, path)
    return hasher.hexdigest()


def _string(hasher: Any, text: bytes) -> None:
    hasher.update(len(text).to_bytes(8, "little") + text + b"\0" * (-len(text) % 8))


def _node(hasher: Any, path: Path) -> None:
    def say(*words: bytes) -> None:
        for word in words:
            _string(hasher, word)

    say(b"(", b"type")
    if path.is_symlink():
        say(b"symlink", b"target", os.readlink(path).encode())
    elif path.is_dir():
        say(b"directory")
        for name in sorted(os.listdir(os.fsencode(path))):
            say(b"entry", b"(", b"name", name, b"node")
            _node(hasher, path / os.fsdecode(name))
            say(b")")
    else:
        say(b"regular")
        if path.stat().st_mode & 0o111:
            say(b"executable", b"")
        say(b"contents", path.read_bytes())
    say(b")")
