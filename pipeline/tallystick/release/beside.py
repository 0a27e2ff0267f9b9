"""Adding a file to a release: whole or not at all, and a crash leaves nothing in the release."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from tallystick.core.errors import Unreachable
from tallystick.core.files import write_file


def add(folder: Path, path: str, data: bytes) -> None:
    """Write ``data`` to ``path`` inside the release ``folder``; what is there is replaced.

    The file is made outside the release and moved in: in a release every file means something, so that the
    half-written file of a process that was killed would make it refused until somebody took it away.

    Raises:
        Unreachable: the disk is full or the folder can not be written.
    """
    place = folder / path
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{folder.name}.", dir=folder.resolve().parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                os.fchmod(stream.fileno(), 0o644)
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(name, place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EACCES, errno.EROFS):  # the release is a mount of its own
            write_file(place, data)
            return
        raise Unreachable(f"{place}: {error.strerror}", code="file.unwritable") from None
