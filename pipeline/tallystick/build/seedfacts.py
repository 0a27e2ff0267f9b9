"""What a seed file says of itself: who made it, from which source packages, and the SBOMs that it brings along.

Debian packages say it in ``control``, wheels in ``METADATA`` and in ``sboms/``. Nothing of it is believed beyond that
the pinned file says so.

Source: deb-control(5), "Maintainer", "Homepage", "Source", "Built-Using"; Python packaging, core metadata
("Author-email", "Maintainer-email", "Project-URL"); PEP 770 (SBOMs in ``.dist-info/sboms/``).
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from dataclasses import dataclass
from email.parser import BytesParser
from email.utils import getaddresses

from tallystick.build import package
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed

_WHEEL = "wheel"
_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")
_SBOM = re.compile(r"[^/]+\.dist-info/sboms/[^/]+\.json")
_SOURCE = re.compile(r"(?P<name>[a-z0-9][a-z0-9.+-]+)(?: \((?P<version>[^()\s]+)\))?")
_USED = re.compile(r"([a-z0-9][a-z0-9.+-]+) \(= ([^()\s]+)\)")
_MAX_MEMBER_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Somebody who made or answers for something, and how to reach them."""

    name: str
    email: str  # or ""
    url: str  # or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedFacts:
    """One seed file."""

    sha512: Digest
    maker: Party | None  # who maintains it, as it says itself
    homepage: str  # of the software; "" when it names none
    sources: tuple[tuple[str, str], ...]  # Debian source packages: its own first, then what was built into it
    sboms: tuple[tuple[str, bytes], ...] = ()  # (path inside the file, bytes), sorted


def read(name: str, data: bytes) -> SeedFacts:
    """Return what the seed file called ``name`` says of itself; of another kind than .deb and .whl, its hash alone.

    Raises:
        Malformed: a package or wheel that is none.
    """
    sha512 = Digest.of(data, Algorithm.SHA512)
    if name.endswith(".deb"):
        return _deb(data, sha512)
    if name.endswith(".whl"):
        return _wheel(data, sha512)
    return SeedFacts(sha512=sha512, maker=None, homepage="", sources=())


def _deb(data: bytes, sha512: Digest) -> SeedFacts:
    fields = package.control(data)
    own = (fields.get("Package", ""), fields.get("Version", ""))
    match = _SOURCE.fullmatch(fields.get("Source", ""))
    source = (match["name"], match["version"] or own[1]) if match else own
    inside = (_USED.findall(fields.get(name, "")) for name in ("Built-Using", "Static-Built-Using"))
    return SeedFacts(
        sha512=sha512,
        maker=_party(fields.get("Maintainer", ""), ""),
        homepage=fields.get("Homepage", ""),
        sources=(source, *sorted({one for found in inside for one in found} - {source})),
    )


def _wheel(data: bytes, sha512: Digest) -> SeedFacts:
    files = dict(_members(data))
    metadata = [path for path in files if _METADATA.fullmatch(path)]
    if len(metadata) != 1:
        raise Malformed(_WHEEL, at="METADATA", want="one", got=f"{len(metadata)}")
    fields = BytesParser().parsebytes(files[metadata[0]], headersonly=True)
    urls = {}
    for line in fields.get_all("Project-URL", []):
        label, _, url = str(line).partition(",")
        urls[label.strip().lower()] = url.strip()
    homepage = str(fields.get("Home-page") or urls.get("homepage") or next(iter(urls.values()), ""))
    maker = None
    for prefix in ("Author", "Maintainer"):
        said = str(fields.get(f"{prefix}-email") or "")
        maker = maker or _party(said, str(fields.get(prefix) or ""))
    if maker is not None and not maker.email:
        maker = Party(name=maker.name, email="", url=homepage)
    return SeedFacts(
        sha512=sha512,
        maker=maker,
        homepage=homepage,
        sources=(),
        sboms=tuple(sorted((path, body) for path, body in files.items() if _SBOM.fullmatch(path))),
    )


def _members(data: bytes) -> list[tuple[str, bytes]]:
    """Return the wheel's metadata and SBOMs; nothing else is unpacked."""
    found = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                if not (_METADATA.fullmatch(entry.filename) or _SBOM.fullmatch(entry.filename)):
                    continue
                if entry.file_size > _MAX_MEMBER_BYTES:
                    want = f"at most {_MAX_MEMBER_BYTES} bytes"
                    raise Malformed(_WHEEL, at=entry.filename, want=want, got=f"{entry.file_size}")
                found.append((entry.filename, archive.read(entry)))
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise Malformed(_WHEEL, at="archive", want="a zip archive", got=str(error)) from None
    return found


def _party(addresses: str, name: str) -> Party | None:
    """Return the first of ``addresses``, or whoever is just named."""
    for shown, email in getaddresses([addresses]):
        if shown or "@" in email:
            return Party(name=shown or name or email, email=email if "@" in email else "", url="")
    return Party(name=name, email="", url="") if name else None
