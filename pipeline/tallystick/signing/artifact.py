"""The file that a bundle is about: on this machine, or known by its digest alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Misuse, Unsupported
from tallystick.core.files import file_digest, read_file

_MAX_BYTES = 1 << 30  # of a file that a signature without prehash needs whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file, or what is known of one."""

    sha256: Digest
    path: Path | None = None  # None: only the digest is known

    def digest(self, algorithm: Algorithm) -> Digest:
        """Return the digest by ``algorithm``.

        Raises:
            Unsupported: the file is not here, and its digest by that algorithm is not known.
        """
        if algorithm is Algorithm.SHA256:
            return self.sha256
        if self.path is None:
            raise Unsupported(
                "artifact", at="digest", want=f"the file, for its {algorithm.label}", got="its sha256"
            )
        return file_digest(self.path, algorithm)

    def digests(self) -> tuple[Digest, ...]:
        """Return the digests by every algorithm that can be told."""
        return (
            (self.sha256,) if self.path is None else tuple(self.digest(algorithm) for algorithm in Algorithm)
        )

    def content(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            Unsupported: the file is not here.
        """
        if self.path is None:
            raise Unsupported(
                "artifact", at="content", want="the file, which this key signs whole", got="its sha256"
            )
        return read_file(self.path, "artifact", max_bytes=_MAX_BYTES)


def of(text: str) -> Artifact:
    """Return what ``text`` names: ``sha256:<hex>``, or else a file.

    Raises:
        Misuse: there is no such file.
    """
    if re.fullmatch(r"sha256:[0-9a-f]{64}", text) and not Path(text).exists():
        return Artifact(sha256=Digest.parse(text))
    path = Path(text)
    if path.is_dir():
        raise Misuse(f"artifact: {path} is a folder, not a file", code="file.is-folder")
    return Artifact(sha256=file_digest(path), path=path)
