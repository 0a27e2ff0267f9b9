"""Debian packages made at test time."""

from __future__ import annotations

import io
import tarfile


def deb(files: dict[str, bytes], *, data_name: str = "data.tar.xz", control: bytes | None = None) -> bytes:
    """Return a Debian package of ``files``; without ``control``, its control archive is none."""
    out = b"!<arch>\n"
    for name, data in (
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", b"odd" if control is None else _tar({"control": control})),
        (data_name, _tar(files)),
    ):
        out += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
            + data
            + b"\n" * (len(data) % 2)
        )
    return out


def _tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()
