"""Adding to a release: whole or not at all, and a process that is killed leaves nothing in the release.

In a release every file means something: what a killed process left there would make it refused until somebody
took it away. So what is not complete yet lies outside.
"""

from __future__ import annotations

import os
from pathlib import Path

from tallystick.core.errors import Unreachable
from tallystick.core.files import write_file


def add(folder: Path, path: str, data: bytes) -> None:
    """Write ``data`` to ``path`` inside the release ``folder``; what is there is replaced.

    Raises:
        Unreachable: the disk is full or the folder can not be written.
    """
    write_file(folder / path, data, aside=outside(folder))


def outside(folder: Path) -> Path:
    """Return a folder outside the release from which a file can be moved in: the one that holds it.

    A release that is a mount of its own, or lies in a folder that can not be written, has none but itself.
    """
    parent = folder.resolve().parent
    try:
        same = parent.stat().st_dev == folder.stat().st_dev
    except OSError as error:
        raise Unreachable(f"{folder}: {error.strerror}", code="file.unreadable") from None
    return parent if same and os.access(parent, os.W_OK) else folder
