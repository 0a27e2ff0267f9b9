"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Misuse, Unreachable


def read_file(path: Path, what: str, *, max_bytes: int = 1 << 30) -> bytes:
    """Return the bytes of ``path``.

    Raises:
        Misuse: there is no such file (``file.missing``).
        Malformed: it is larger than ``max_bytes``.
        Unreachable: the system would not read it.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise Misuse(f"{what}: {path} is a folder, not a file", code="file.is-folder")
        if size > max_bytes:
            raise Malformed(what, at=str(path), want=f"at most {max_bytes} bytes", got=f"{size}")
        if path.is_file():
            return path.read_bytes()
        with path.open("rb") as stream:  # a pipe or a device says nothing of its size
            data = stream.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise Malformed(what, at=str(path), want=f"at most {max_bytes} bytes", got="more")
        return data
    except FileNotFoundError:
        raise Misuse(f"{what}: there is no file {path}", code="file.missing") from None
    except OSError as error:
        raise Unreachable(f"{what}: {path}: {error.strerror}", code="file.unreadable") from None


def file_digest(path: Path, algorithm: Algorithm = Algorithm.SHA256) -> Digest:
    """Return the digest of the file at ``path``, in constant memory."""
    try:
        with path.open("rb", buffering=0) as stream:
            return Digest.of_stream(stream, algorithm)
    except FileNotFoundError:
        raise Misuse(f"there is no file {path}", code="file.missing") from None
    except OSError as error:
        raise Unreachable(f"{path}: {error.strerror}", code="file.unreadable") from None


def write_file(path: Path, data: bytes, *, mode: int = 0o644, aside: Path | None = None) -> None:
    """Write ``data`` to ``path`` whole, durably, and under its name only when complete.

    Args:
        aside: folder of the same file system that holds the file until then, and after a kill. Default: its own.

    Raises:
        Unreachable: the disk is full or the folder can not be written (``file.unwritable``).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=aside or path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                os.fchmod(stream.fileno(), mode)
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise Unreachable(f"{path}: {error.strerror}", code="file.unwritable") from None


@contextmanager
def whole_folder(path: Path, aside: Path | None = None) -> Iterator[Path]:
    """Give an empty folder beside ``path`` that takes its name only when the block ends well.

    An existing folder at ``path`` is replaced; whatever goes wrong, Ctrl-C included, it stays as it was.

    Args:
        aside: as for :func:`write_file`.

    Raises:
        Unreachable: the disk is full or the folder can not be written (``file.unwritable``).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=aside or path.parent))
    except OSError as error:
        raise Unreachable(f"{path}: {error.strerror}", code="file.unwritable") from None
    try:
        yield work
        work.chmod(0o755)
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=aside or path.parent)) / path.name
        if path.exists():
            path.rename(old)
        work.rename(path)
        shutil.rmtree(old.parent, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise Unreachable(f"{path}: {error.strerror or error}", code="file.unwritable") from None
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
