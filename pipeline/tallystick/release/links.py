"""Rebuild links: one independent builder's signed word that it got the same bytes from the same inputs.

Source: in-toto specification 1.0, section 4.4 (link). DSSE links of in-toto 3.1 carry ``_type: link``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed
from tallystick.formats.dsse import Envelope
from tallystick.release.envelope import seal, unseal
from tallystick.release.index import tree_digest
from tallystick.release.keys import Signatory
from tallystick.release.layout_lint import MEASUREMENTS, STEP
from tallystick.release.records import Index

FOLDER = "links"
_WHAT = "rebuild link"
_FIELDS = ("_type", "byproducts", "command", "environment", "materials", "name", "products")
_TREES = ("nix", "seeds")  # materials that stand for every file of the index below them


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifacts:
    """What went into a build and what came out, as a link records it."""

    materials: tuple[tuple[str, Digest], ...]  # sorted by name
    products: tuple[tuple[str, Digest], ...]  # sorted by path


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A parsed link. Nothing in it is verified."""

    file: str  # "build.1a2b3c4d.link"
    release: Digest  # the release that was rebuilt
    artifacts: Artifacts
    keyid: str  # who says it signed
    envelope: Envelope
    digest: Digest  # of the file


def expected(index: Index) -> Artifacts:
    """Return the artifacts that a link for the release of ``index`` must name."""
    recipe = index.file("recipe.yaml")
    materials = [(name, tree_digest(index, f"{name}/")) for name in _TREES]
    if recipe is not None:
        materials.append((recipe.path, recipe.digest))
    measured = index.file(MEASUREMENTS)
    files = (*index.product_files(), *((measured,) if measured is not None else ()))
    products = [(entry.path, entry.digest) for entry in files]
    return Artifacts(materials=tuple(sorted(materials)), products=tuple(sorted(products)))


def make(release: Digest, artifacts: Artifacts, who: Signatory) -> bytes:
    """Return a link over what the rebuild of ``release`` really used and made, signed by ``who``."""
    document = {
        "_type": "link",
        "byproducts": {"release": str(release)},
        "command": [],
        "environment": {},
        "materials": {name: {"sha256": digest.hex} for name, digest in artifacts.materials},
        "name": STEP,
        "products": {path: {"sha256": digest.hex} for path, digest in artifacts.products},
    }
    return seal(document, [who])


def file_name(keyid: str) -> str:
    """Return the name that in-toto looks for: ``build.<first 8 hex digits>.link``."""
    return f"{STEP}.{keyid[:8]}.link"


def parse(file: str, data: bytes) -> Link:
    """Return the link in the file called ``file``. Its signature is not checked.

    Raises:
        Malformed: not a link of ours in its one spelling, or under another name than its key's.
    """
    envelope, document = unseal(data, f"{_WHAT} {file}", "link")
    if sorted(document) != sorted(_FIELDS):
        raise _bad(file, "fields", ", ".join(_FIELDS), ", ".join(sorted(document)))
    byproducts = document["byproducts"]
    if not isinstance(byproducts, dict) or sorted(byproducts) != ["release"]:
        raise _bad(file, "byproducts", "the release digest", repr(byproducts))
    if (document["name"], document["command"], document["environment"]) != (STEP, [], {}):
        raise _bad(file, "name, command, environment", f"{STEP}, none, none", "others")
    if len(envelope.signatures) != 1 or envelope.signatures[0].keyid is None:
        raise _bad(file, "signatures", "one, with its key id", f"{len(envelope.signatures)}")
    keyid = envelope.signatures[0].keyid
    if file != file_name(keyid):
        raise _bad(file, "name", file_name(keyid), file)
    if not isinstance(byproducts["release"], str):
        raise _bad(file, "byproducts.release", "a digest", repr(byproducts["release"]))
    return Link(
        file=file,
        release=Digest.parse(byproducts["release"]),
        artifacts=Artifacts(
            materials=_artifacts(file, "materials", document["materials"]),
            products=_artifacts(file, "products", document["products"]),
        ),
        keyid=keyid,
        envelope=envelope,
        digest=Digest.of(data),
    )


def _artifacts(file: str, at: str, value: Any) -> tuple[tuple[str, Digest], ...]:
    """An empty list is refused: in-toto's recorder writes one when it found nothing to record."""
    if not isinstance(value, Mapping) or not value:
        raise _bad(file, at, "at least one artifact", repr(value))
    found = []
    for name, digests in value.items():
        hex_digits = digests.get("sha256") if isinstance(digests, dict) and len(digests) == 1 else None
        if not isinstance(hex_digits, str) or re.fullmatch("[0-9a-f]{64}", hex_digits) is None:
            raise _bad(file, f"{at}.{name}", "one sha256", repr(digests))
        found.append((name, Digest(Algorithm.SHA256, bytes.fromhex(hex_digits))))
    return tuple(sorted(found))


def _bad(file: str, at: str, want: str, got: str) -> Malformed:
    return Malformed(f"{_WHAT} {file}", at=at, want=want, got=got)
