"""Where the vault's sealed documents lie. A place keeps bytes under names; it never sees what is sealed in them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tallystick.broker.secretfiles import locked, private_folder, read_secret, write_secret
from tallystick.core.errors import Refused

MAX_DOCUMENT_BYTES = 128 << 10
NEW = 0  # the version of what is not there yet


@dataclass(frozen=True, slots=True)
class Kept:
    """One document as a place keeps it."""

    data: bytes
    version: int  # changes with every write; what it counts is the place's own business


class Place(Protocol):
    """Keeps sealed documents by name: lower-case hex, one for each key."""

    def read(self, name: str) -> Kept | None:
        """Return the document, or None when there never was one."""
        ...

    def write(self, name: str, data: bytes, *, after: int) -> None:
        """Keep ``data``, and nothing of what was there before, when that is still at the version ``after``.

        Raises:
            Refused: somebody else wrote meanwhile (``key.raced``).
        """
        ...

    def names(self) -> tuple[str, ...]:
        """Return the names of all documents, sorted."""
        ...


class FolderPlace:
    """One file for each document, readable by its owner alone."""

    __slots__ = ("_folder",)

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self) -> None:
        """Make the folder."""
        private_folder(self._folder / "keys")

    def read(self, name: str) -> Kept | None:
        """Return the document, as :meth:`Place.read`; errors as :func:`secretfiles.read_secret`."""
        path = self.path(name)
        if not path.exists():
            return None
        data = read_secret(path, "key file", max_bytes=MAX_DOCUMENT_BYTES)
        return Kept(data, int.from_bytes(hashlib.sha256(data).digest()[:7]) | 1)

    def write(self, name: str, data: bytes, *, after: int) -> None:
        """Keep ``data``, as :meth:`Place.write`."""
        with locked(self._folder / "lock"):
            found = self.read(name)
            if (found.version if found else NEW) != after:
                raise raced()
            write_secret(self.path(name), data)

    def names(self) -> tuple[str, ...]:
        """Return the names of all documents, sorted."""
        return tuple(sorted(path.stem for path in (self._folder / "keys").glob("*.json")))

    def path(self, name: str) -> Path:
        """Return where a document lies."""
        return self._folder / "keys" / f"{name}.json"


def raced() -> Refused:
    """Return the error of a write that came second; the caller raises it."""
    return Refused("somebody else changed this key at the same moment: look, and try again", code="key.raced")
