"""A release as a command line names it: by its digest, or by its directory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.core.digests import Digest


def digest_of(text: str) -> Digest:
    """Return the release digest that ``text`` is, or that the directory ``text`` has.

    Raises:
        Misuse: neither.
    """
    from tallystick.core.digests import Digest
    from tallystick.release import index

    if re.fullmatch("(sha256:)?[0-9a-f]{64}", text):
        return Digest.parse(text if ":" in text else f"sha256:{text}")
    if not (Path(text) / index.FILE).is_file():
        raise Misuse(f"{text[:80]} is neither a release digest nor a release directory", code="release.what")
    return index.read(Path(text)).digest
