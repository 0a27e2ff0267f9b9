"""Debian packages, wheels and unpacked folders, read without dpkg or pip."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

_AR_MAGIC = b"!<arch>\n"  # deb(5)
_AR_HEADER_BYTES = 60


def data_archive(package: bytes) -> bytes:
    """Return the data.tar.* member of a .deb."""
    if not package.startswith(_AR_MAGIC):
        raise SystemExit("not a Debian package: no ar magic")
    at = len(_AR_MAGIC)
    while at < len(package):
        header = package[at : at + _AR_HEADER_BYTES]
        size = int(header[48:58])
        at += _AR_HEADER_BYTES
        if header[:16].strip().rstrip(b"/").startswith(b"data.tar"):
            return package[at : at + size]
        at += size + size % 2
    raise SystemExit("not a Debian package: no data archive")


def members(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield (path without leading slash, file mode, contents or link target) of every file and symbolic link."""
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            yield (
                file.relative_to(path).as_posix(),
                stat.S_IFREG | (file.stat().st_mode & 0o777),
                file.read_bytes(),
            )
        return
    if path.name.endswith(".whl"):
        with zipfile.ZipFile(path) as wheel:
            for entry in wheel.infolist():
                if not entry.is_dir():
                    mode = 0o755 if entry.external_attr >> 16 & 0o111 else 0o644
                    yield entry.filename, stat.S_IFREG | mode, wheel.read(entry)
        return
    with tarfile.open(fileobj=io.BytesIO(data_archive(path.read_bytes())), mode="r|*") as archive:
        for member in archive:
            name = member.name.removeprefix("./").lstrip("/")
            if member.issym():
                yield name, stat.S_IFLNK | 0o777, member.linkname.encode()
            elif member.isreg():
                stream = archive.extractfile(member)
                assert stream is not None
                yield name, stat.S_IFREG | (member.mode & 0o777), stream.read()
            elif member.islnk():
                raise SystemExit(f"{path.name}: {name}: hard links are not supported")
