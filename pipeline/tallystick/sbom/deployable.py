"""The facts of a component that lie in bytes: who made it, its SHA-512, and what kind of file it is.

Source: BSI TR-03183-2, version 2.1.0, sections 3.2.1 (logical components), 5.2.2 and 8.1.4 to 8.1.6, and BSI's
CycloneDX property taxonomy (``bsi:component:*``); CycloneDX 1.6, ``component.manufacturer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from tallystick.build.seedfacts import Party, SeedFacts
from tallystick.core.digests import Algorithm, Digest
from tallystick.formats import cyclonedx
from tallystick.formats.cyclonedx import Document

FILENAME = "bsi:component:filename"
EXECUTABLE = "bsi:component:executable"
ARCHIVE = "bsi:component:archive"
STRUCTURED = "bsi:component:structured"
WITHOUT_FILE = "tallystick:without-file"  # a logical component: there is no one file that it is


class Kind(Enum):
    """What a file is to BSI: (executable, archive, structured)."""

    ARCHIVE = ("non-executable", "archive", "structured")  # its parts can be taken out again
    PROGRAM = ("executable", "archive", "structured")  # a PE image: started, and its sections are parts
    FIRMWARE = ("executable", "archive", "unstructured")  # of many parts, and no list of them

    def properties(self) -> dict[str, str]:
        """Return the properties that say it."""
        executable, archive, structured = self.value
        return {EXECUTABLE: executable, ARCHIVE: archive, STRUCTURED: structured}


_BEGINNINGS = (
    (0, b"MZ", Kind.PROGRAM),
    (0, b"!<arch>\n", Kind.ARCHIVE),
    (0, b"PK\x03\x04", Kind.ARCHIVE),
    (0, b".eif", Kind.ARCHIVE),
    (0, b"0707", Kind.ARCHIVE),
    (
        0,
        b"\xfd7zXZ\x00",
        Kind.ARCHIVE,
    ),  # "compression alone does not change this property": what is in it is a cpio
    (0, b"\x1f\x8b", Kind.ARCHIVE),
    (257, b"ustar", Kind.ARCHIVE),
    (40, b"_FVH", Kind.FIRMWARE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """One file of a release."""

    sha512: Digest
    kind: Kind | None  # None: of a kind that nothing is said about


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What was read from a release's own files, beyond its contents lists and derivations."""

    manufacturer: Party | None = None  # who answers for the image and for this project's own code
    files: Mapping[str, FileFacts] = field(
        default_factory=dict
    )  # products and firmware, by path in the release
    seeds: Mapping[str, tuple[SeedFacts, FileFacts]] = field(default_factory=dict)  # by file name
    trees: Mapping[Digest, Digest] = field(
        default_factory=dict
    )  # SHA-256 of a source tree's NAR -> its SHA-512


NOTHING = Known()


def of_file(data: bytes) -> FileFacts:
    """Return the facts of the file whose bytes are ``data``."""
    kinds = [kind for at, magic, kind in _BEGINNINGS if data[at : at + len(magic)] == magic]
    return FileFacts(sha512=Digest.of(data, Algorithm.SHA512), kind=kinds[0] if kinds else None)


def party(who: Party) -> Document:
    """Return ``who`` as CycloneDX writes an organisation."""
    made: Document = {"name": who.name}
    if who.url:
        made["url"] = [who.url]
    if who.email:
        made["contact"] = [{"email": who.email}]
    return made


def distribution(url: str, *digests: Digest) -> Document:
    """Return the reference to the deployable file, which BSI wants with its SHA-512."""
    return {"type": "distribution", "url": url, "hashes": [cyclonedx.hash_of(one) for one in digests]}
