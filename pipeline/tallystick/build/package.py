"""One file out of a Debian package, without dpkg.

Source: deb(5): an ar archive whose member data.tar.* holds the files.
"""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib

from tallystick.core.errors import Malformed

_MAGIC = b"!<arch>\n"
_HEADER_BYTES = 60
_WHAT = "Debian package"


def member(data: bytes, path: str) -> bytes:
    """Return the bytes of the regular file ``path`` inside the package ``data``.

    Raises:
        Malformed: not a package, or it has no such file.
    """
    archive = _data_archive(data)
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r|*") as tar:
            for entry in tar:
                if entry.name.removeprefix("./") == path and entry.isreg():
                    stream = tar.extractfile(entry)
                    return stream.read() if stream is not None else b""
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError, OverflowError) as error:
        raise Malformed(_WHAT, at="data archive", want="a tar archive", got=str(error)) from None
    raise Malformed(_WHAT, at="data archive", want=f"the file {path}", got="no such file")


def _data_archive(data: bytes) -> bytes:
    if not data.startswith(_MAGIC):
        raise Malformed(_WHAT, at="first bytes", want="an ar archive", got=data[:8].hex())
    at = len(_MAGIC)
    while at + _HEADER_BYTES <= len(data):
        header = data[at : at + _HEADER_BYTES]
        size = header[48:58].strip()
        if not size.isdigit():
            raise Malformed(_WHAT, at=f"ar member at {at}", want="a size", got=size.hex())
        at += _HEADER_BYTES
        if header[:16].rstrip(b" /").startswith(b"data.tar"):
            return data[at : at + int(size)]
        at += int(size) + int(size) % 2
    raise Malformed(_WHAT, at="members", want="data.tar", got="no such member")
