"""Files that hold secrets: made 0600 in a 0700 folder, and refused when somebody else could read them."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tallystick.core.errors import Malformed, Misuse, NotGenuine, TallystickError, Unreachable
from tallystick.core.files import write_file

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def private_folder(path: Path) -> Path:
    """Return ``path`` as a folder that only its owner may enter, made when it is missing.

    Raises:
        Unreachable: the system would not make it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise Unreachable(f"{path}: {error.strerror}", code="file.unwritable") from None
    return path


def write_secret(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` whole and durably, readable by its owner alone."""
    private_folder(path.parent)
    write_file(path, data, mode=0o600)


def read_secret(path: Path, what: str, *, max_bytes: int) -> bytes:
    """Return the bytes of ``path``.

    The mode and the bytes come from one open file, so nobody can swap the file in between.

    Raises:
        Misuse: there is no such file (``file.missing``).
        NotGenuine: somebody other than its owner may read or write it, or it is not ours
            (``file.not-private``).
        Malformed: longer than ``max_bytes``.
        Unreachable: the system would not read it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Misuse(f"{what}: there is no file {path}", code="file.missing") from None
    except OSError as error:
        raise Unreachable(f"{what}: {path}: {error.strerror}", code="file.unreadable") from None
    with os.fdopen(handle, "rb") as stream:
        found = os.fstat(stream.fileno())
        if found.st_mode & _OTHERS or found.st_uid not in (0, os.geteuid()):
            mode = f"mode {stat.S_IMODE(found.st_mode):04o}, owner {found.st_uid}"
            raise NotGenuine(
                f"{what}: {path}: want mode 0600 and an owner who is us or root, got {mode}",
                code="file.not-private",
            )
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise Malformed(what, at=str(path), want=f"at most {max_bytes} bytes", got="more")
    return data


@contextmanager
def locked(path: Path, *, busy: TallystickError | None = None) -> Iterator[None]:
    """Hold the lock file at ``path`` against every other process and thread that asks for it.

    Args:
        busy: raised when somebody else holds it; without it, this waits.
    """
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy is not None else 0))
        except BlockingIOError:
            if busy is None:
                raise
            raise busy from None
        yield
    finally:
        os.close(handle)
