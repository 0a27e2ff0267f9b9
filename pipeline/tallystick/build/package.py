"""One file out of a Debian package, and what the package says of itself, without dpkg.

Source: deb(5): an ar archive whose member data.tar.* holds the files, and control.tar.* the file ``control``, which is
a stanza of deb-control(5).
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
_MAX_CONTROL_BYTES = 1 << 20
_MAX_UNPACKED_BYTES = 64 << 20  # of control.tar: maintainer scripts, lists of files and their hashes
_XZ_MEMORY_BYTES = 128 << 20  # xz -9 needs 65 MiB


def member(data: bytes, path: str) -> bytes:
    """Return the bytes of the regular file ``path`` inside the package ``data``.

    Raises:
        Malformed: not a package, or it has no such file.
    """
    return _file(_archive(data, b"data.tar"), path, "data archive", -1)


def control(data: bytes) -> dict[str, str]:
    """Return the fields of the package's ``control``: name -> value, the lines of a long one joined by newlines.

    Raises:
        Malformed: not a package, or its ``control`` is not one stanza.
    """
    archive = _bounded(_archive(data, b"control.tar"))
    text = _file(archive, "control", "control archive", _MAX_CONTROL_BYTES)
    fields: dict[str, str] = {}
    name = ""
    for line in text.decode("utf-8", "replace").strip("\n").split("\n"):
        if line[:1] in (" ", "\t") and name:
            fields[name] += "\n" + line.strip()
            continue
        name, colon, value = line.partition(":")
        if not colon or name in fields:
            raise Malformed(_WHAT, at="control", want="fields, each once", got=line)
        fields[name] = value.strip()
    return fields


def _bounded(data: bytes) -> bytes:
    """Return a control archive unpacked; one that unpacks to more than any real one is refused before it does."""
    try:
        if data.startswith(b"\xfd7zXZ\x00"):
            stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
            unpacked = stream.decompress(data, _MAX_UNPACKED_BYTES)
            whole = stream.eof
        elif data.startswith(b"\x1f\x8b"):
            zipped = zlib.decompressobj(wbits=31)
            unpacked = zipped.decompress(data, _MAX_UNPACKED_BYTES)
            whole = zipped.eof
        else:
            return data
    except (lzma.LZMAError, zlib.error) as error:
        raise Malformed(_WHAT, at="control archive", want="a tar archive", got=str(error)) from None
    if not whole:
        want = f"at most {_MAX_UNPACKED_BYTES} bytes, and all of them"
        raise Malformed(_WHAT, at="control archive", want=want, got="more, or an end too early")
    return unpacked


def _file(archive: bytes, path: str, at: str, most: int) -> bytes:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r|*") as tar:
            for entry in tar:
                if entry.name.removeprefix("./") == path and entry.isreg():
                    stream = tar.extractfile(entry)
                    return stream.read(most) if stream is not None else b""
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError, OverflowError) as error:
        raise Malformed(_WHAT, at=at, want="a tar archive", got=str(error)) from None
    raise Malformed(_WHAT, at=at, want=f"the file {path}", got="no such file")


def _archive(data: bytes, name: bytes) -> bytes:
    if not data.startswith(_MAGIC):
        raise Malformed(_WHAT, at="first bytes", want="an ar archive", got=data[:8].hex())
    at = len(_MAGIC)
    while at + _HEADER_BYTES <= len(data):
        header = data[at : at + _HEADER_BYTES]
        size = header[48:58].strip()
        if not size.isdigit():
            raise Malformed(_WHAT, at=f"ar member at {at}", want="a size", got=size.hex())
        at += _HEADER_BYTES
        if header[:16].rstrip(b" /").startswith(name):
            return data[at : at + int(size)]
        at += int(size) + int(size) % 2
    raise Malformed(_WHAT, at="members", want=name.decode(), got="no such member")
