"""A channel's folder on disk: read, proposed to, and published so that every reader sees a whole state.

``metadata/`` and ``targets/`` are an ordinary TUF repository with consistent snapshots. Files are only added;
the one file that is replaced is ``timestamp.json``, last and atomically, so a crash at any point leaves the
state before or the state after. ``pending/<role>.json`` is the proposed next version with its signatures.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tallystick.core.errors import Misuse, Unreachable
from tallystick.core.files import read_file, write_file
from tallystick.release import metadata, roles
from tallystick.release.changes import target_file_path
from tallystick.release.index import safe_path
from tallystick.release.metadata import Read, State
from tallystick.release.records import HighWater

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Targets

_TIMESTAMP = "metadata/timestamp.json"
_MAX_FILE_BYTES = 256 << 20
ONLINE_KEY = "online.key"
NEXT_ONLINE_KEY = "online-next.key"  # until the rotation that exchanges it is live


class Folder:
    """One channel's folder."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes | None:
        """Return the bytes of the file ``name`` inside the folder, or None when there is none."""
        if not safe_path(name):
            return None
        place = self.path / name
        return read_file(place, "channel", max_bytes=_MAX_FILE_BYTES) if place.is_file() else None

    def verify(
        self,
        pinned_root: bytes,
        channel: str,
        now: datetime,
        seen: HighWater,
        max_age: timedelta | None = metadata.MAX_AGE,
    ) -> State:
        """Return the verified state; see :func:`metadata.verify`.

        Raises:
            Misuse: there is no channel here (``release.channel.none``).
        """
        self._check_there()
        return metadata.verify(self.read, pinned_root, channel, now, seen, max_age)

    def _check_there(self) -> None:
        if not (self.path / _TIMESTAMP).is_file():
            raise Misuse(f"there is no channel in {self.path}", code="release.channel.none")

    def with_files(self, files: Mapping[str, bytes]) -> Read:
        """Return a reader that finds ``files`` before what is on disk: the state as it would be."""
        return lambda name: files[name] if name in files else self.read(name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the channel for one change. A second process waits.

        Raises:
            Misuse: there is no channel here (``release.channel.none``). Unreachable: it can not be written.
        """
        self._check_there()
        try:
            stream = (self.path / ".lock").open("ab")
        except OSError as error:
            raise Unreachable(f"{self.path}: {error.strerror}", code="file.unwritable") from None
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def publish(self, files: Mapping[str, bytes]) -> None:
        """Write ``files``; the timestamp, which makes them the state, last."""
        for name, data in files.items():
            if name != _TIMESTAMP:
                write_file(self.path / name, data)
        if _TIMESTAMP in files:
            write_file(self.path / _TIMESTAMP, files[_TIMESTAMP])

    def add_targets(self, targets: Mapping[str, bytes]) -> None:
        """Write target files under their digests. Nothing lists them yet, so this changes no state."""
        for path, data in targets.items():
            place = self.path / target_file_path(path, data)
            if not place.is_file() or place.read_bytes() != data:
                write_file(place, data)

    def pending(self, state: State) -> dict[str, Metadata[Targets]]:
        """Return the proposed versions by role. One whose version is published already is forgotten.

        Raises:
            Malformed: a proposal that is not TUF metadata.
        """
        found: dict[str, Metadata[Targets]] = {}
        for role in roles.SHARED:
            data = self.read(f"pending/{role}.json")
            if data is None:
                continue
            proposed: Metadata[Targets] = metadata.parse(data, role)
            if proposed.signed.version == state.delegated[role].signed.version + 1:
                found[role] = proposed
        return found

    def keep_pending(self, role: str, proposed: Metadata[Targets]) -> None:
        """Keep ``proposed`` until enough people approved it."""
        write_file(self.path / "pending" / f"{role}.json", proposed.to_bytes())

    def drop_pending(self, role: str) -> None:
        """Forget what is proposed for ``role``."""
        (self.path / "pending" / f"{role}.json").unlink(missing_ok=True)
