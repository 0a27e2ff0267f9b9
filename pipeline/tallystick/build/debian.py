"""Debian's package index, as far as a lock needs it: stanzas, and the first dependency of a package.

Source: Debian policy manual, chapter 5 (control files).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tallystick.build.lock import Seed
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed
from tallystick.formats import versions

_FIELD = re.compile(r"^([A-Za-z0-9-]+): (.*)$", re.MULTILINE)
_CHECKSUM = re.compile(r"^ ([0-9a-f]{64}) ([0-9]+) (\S+)$", re.MULTILINE)
_NOT_IN_STORE_NAMES = re.compile(r"[^0-9A-Za-z+._?=-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One version of a package in an index."""

    name: str
    version: str
    architecture: str
    path: str
    size_bytes: int
    digest: Digest
    depends: tuple[str, ...]  # names, first alternative each


def packages(index: str, names: frozenset[str], what: str) -> Iterator[Package]:
    """Yield the stanzas of a Packages file that are about ``names``.

    Raises:
        Malformed: such a stanza lacks a field.
    """
    for stanza in index.split("\n\n"):
        head = stanza.partition("\n")[0].removeprefix("Package: ")
        if head in names:
            yield _package(dict(_FIELD.findall(stanza)), what)


def source_files(index: str, name: str, what: str) -> Iterator[Package]:
    """Yield the archives (.tar.*) of the source package ``name``, each as a package of architecture ``source``.

    The .dsc beside them repeats their hashes, which apt has verified in the index.

    Raises:
        Malformed: a stanza lacks a field.
    """
    for stanza in index.split("\n\n"):
        fields = dict(_FIELD.findall(stanza))
        if fields.get("Package") != name:
            continue
        if missing := {"Version", "Directory"} - set(fields):
            raise Malformed(what, at=name, want=", ".join(sorted(missing)), got="no such field")
        for digest, size, file in _CHECKSUM.findall(stanza.partition("\nChecksums-Sha256:")[2]):
            if ".tar." in file and not file.endswith(".asc"):
                yield Package(
                    name=name,
                    version=fields["Version"],
                    architecture="source",
                    path=f"{fields['Directory']}/{file}",
                    size_bytes=int(size),
                    digest=Digest.parse(f"sha256:{digest}"),
                    depends=(),
                )


def newest(found: list[Package]) -> Package:
    """Return the package with the highest version."""
    best = found[0]
    for package in found[1:]:
        if versions.debian(package.version, best.version) > 0:
            best = package
    return best


def seed(package: Package, *, suite: str, licence: str) -> Seed:
    """Return ``package`` as a lock pins it."""
    from packageurl import PackageURL

    purl = PackageURL(
        "deb", "debian", package.name, package.version, {"arch": package.architecture, "distro": suite}
    )
    return Seed(
        package=package.name,
        version=package.version,
        architecture=package.architecture,
        path=package.path,
        file=_NOT_IN_STORE_NAMES.sub("-", package.path.rpartition("/")[2]),
        size_bytes=package.size_bytes,
        digest=package.digest,
        purl=purl.to_string(),
        licence=licence,
    )


def _package(fields: dict[str, str], what: str) -> Package:
    missing = {"Package", "Version", "Architecture", "Filename", "Size", "SHA256"} - set(fields)
    if missing:
        raise Malformed(
            what, at=fields.get("Package", "stanza"), want=", ".join(sorted(missing)), got="no such field"
        )
    if not fields["Size"].isdecimal():
        raise Malformed(what, at=f"{fields['Package']} Size", want="a number of bytes", got=fields["Size"])
    depends = (entry.split("|")[0] for entry in fields.get("Depends", "").split(","))
    return Package(
        name=fields["Package"],
        version=fields["Version"],
        architecture=fields["Architecture"],
        path=fields["Filename"],
        size_bytes=int(fields["Size"]),
        digest=Digest.parse(f"sha256:{fields['SHA256']}"),
        depends=tuple(re.split(r"[\s(:]", entry.strip())[0] for entry in depends if entry.strip()),
    )
