"""The data disk: a tar with the init-data, the encrypted artifacts and perhaps a prompt. The host made it.

Nothing on it is believed for being there: the init-data is measured before it is used, and every other file is
checked against digests in the init-data. The prompt is the host's question and no secret.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, Unreachable
from tallystick.core.findings import Finding
from tallystick.handshake.manifest import Artifact

INIT_DATA = "initdata.toml"
PROMPT = "prompt.txt"

_WHAT = "data disk"
_MAX_FILES = 256


class DataDisk:
    """A data disk that is open for reading."""

    def __init__(self, path: Path) -> None:
        """Read the disk's table of contents.

        Raises:
            Unreachable: there is no disk.
            Malformed: it is not a tar.
        """
        try:
            self._stream = path.open("rb")
        except OSError as error:
            raise Unreachable(f"{_WHAT}: {path}: {error.strerror}", code="disk.missing") from None
        self._files: dict[str, tarfile.TarInfo] = {}
        try:
            self._tar = tarfile.open(fileobj=self._stream, mode="r:")  # noqa: SIM115 - closed in __exit__
            self._list()
        except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
            self._stream.close()
            raise Malformed(_WHAT, at="tar", want="a tar archive", got=str(error)) from None

    def _list(self) -> None:
        for number, member in enumerate(self._tar):
            if number >= _MAX_FILES:
                raise Malformed(_WHAT, at="tar", want=f"at most {_MAX_FILES} files", got="more")
            if member.isreg():
                self._files.setdefault(member.name, member)

    def __enter__(self) -> DataDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()
        self._stream.close()

    def has(self, name: str) -> bool:
        """Whether the disk has a file called ``name``."""
        return name in self._files

    def open(self, name: str) -> BinaryIO:
        """Return the file called ``name``.

        Raises:
            Malformed: there is none.
        """
        if name not in self._files:
            raise Malformed(_WHAT, at=name, want="a file", got="none of that name")
        return cast(BinaryIO, self._tar.extractfile(self._files[name]))

    def read(self, name: str, *, max_bytes: int) -> bytes:
        """Return the bytes of the file called ``name``.

        Raises:
            Malformed: there is none, or it is longer than ``max_bytes`` or than the disk.
        """
        try:
            with self.open(name) as stream:
                data = stream.read(max_bytes + 1)
        except (tarfile.TarError, OSError) as error:
            raise Malformed(_WHAT, at=name, want="a whole file", got=str(error)) from None
        if len(data) > max_bytes:
            raise Malformed(_WHAT, at=name, want=f"at most {max_bytes} bytes", got="more")
        return data

    def check(self, artifact: Artifact) -> None:
        """Check that the disk holds the encrypted file that the measured manifest names.

        This is for a clear answer before a key is asked for. What is decrypted is checked again.

        Raises:
            NotGenuine: it is another file (``artifact.ciphertext``).
        """
        try:
            with self.open(artifact.file) as stream:
                found = Digest.of_stream(stream)
        except (tarfile.TarError, OSError) as error:
            raise Malformed(_WHAT, at=artifact.file, want="a whole file", got=str(error)) from None
        if found != artifact.ciphertext:
            finding = Finding("artifact.ciphertext", artifact.file, str(artifact.ciphertext), str(found))
            raise NotGenuine(f"{_WHAT}: {finding.message}", findings=[finding])
