"""How complete an SBOM is: each element that a published list asks for, and for how many components it is there.

A score says what is stated, never that it is true; ``sbom.check`` and ``sbom.coverage`` ask that.

Source: NTIA, "The Minimum Elements For a Software Bill of Materials" (2021-07-12); CISA, "2025 Minimum Elements for a
Software Bill of Materials", draft (2025-08); BSI TR-03183-2, version 2.1.0, section 5.2, whose CycloneDX fields are
those of its property taxonomy ``bsi:component``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.formats import cyclonedx
from tallystick.formats.cyclonedx import Document
from tallystick.sbom.deployable import ARCHIVE, EXECUTABLE, FILENAME, STRUCTURED, WITHOUT_FILE

_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One thing that a list asks for: of the document once, or of every component."""

    name: str
    of_document: Callable[[Document], bool] | None = None
    of_component: Callable[[Document, _Context], bool] | None = None
    of_file: bool = False  # asked only of components that are a file (BSI TR-03183-2, section 3.2.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """How often one element is there."""

    element: str
    met: int
    of: int
    missing: tuple[str, ...]  # bom-refs or names of the first components without it; "document"
    without_file: int = 0  # components that are no file, and are not asked for what only a file has


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One list, element by element."""

    standard: str  # "bsi"
    title: str
    elements: tuple[Scored, ...]

    @property
    def met(self) -> int:
        """How many elements are there for all."""
        return sum(one.met == one.of for one in self.elements)

    @property
    def percent(self) -> int:
        """The mean over the elements, rounded down: 100 only when nothing is missing."""
        return int(100 * sum(one.met / one.of if one.of else 1 for one in self.elements) / len(self.elements))

    def document(self) -> dict[str, Any]:
        """Return the score as a JSON value."""
        return {
            "title": self.title,
            "percent": self.percent,
            "elements": [
                {
                    "name": one.element,
                    "met": one.met,
                    "of": one.of,
                    "missing": list(one.missing),
                    "without_file": one.without_file,
                }
                for one in self.elements
            ],
        }


@dataclass(frozen=True, slots=True)
class _Context:
    """What is asked of the document for each component."""

    related: frozenset[str]  # bom-refs whose dependencies are listed, or said to be unknown


def scores(document: Document) -> tuple[Score, ...]:
    """Return how ``document`` fares under each list.

    Args:
        document: one that follows the CycloneDX schema.
    """
    parts = list(cyclonedx.components(document))
    context = _Context(_related(document))
    return tuple(
        Score(
            standard=name, title=title, elements=tuple(_scored(e, document, parts, context) for e in elements)
        )
        for name, (title, elements) in STANDARDS.items()
    )


def _scored(element: Element, document: Document, parts: list[Document], context: _Context) -> Scored:
    if element.of_document is not None:
        there = element.of_document(document)
        missing = () if there else ("document",)
        return Scored(element=element.name, met=int(there), of=1, missing=missing)
    asked = element.of_component
    logical = [part for part in parts if element.of_file and cyclonedx.property_of(part, WITHOUT_FILE)]
    counted = [part for part in parts if part not in logical] if logical else parts
    without = [part for part in counted if asked is None or not asked(part, context)]
    shown = tuple(str(part.get("bom-ref") or part.get("name")) for part in without[:_MOST_SHOWN])
    return Scored(
        element=element.name,
        met=len(counted) - len(without),
        of=len(counted),
        missing=shown,
        without_file=len(logical),
    )


def _related(document: Document) -> frozenset[str]:
    """Return the components whose relations are listed; "unknown" is a statement too, silence is none."""
    found = {str(edge.get("ref")) for edge in document.get("dependencies") or []}
    for one in document.get("compositions") or []:
        found |= set(map(str, one.get("dependencies") or ()))
    return frozenset(found)


def _metadata(*names: str) -> Callable[[Document], bool]:
    def there(document: Document) -> bool:
        metadata = document.get("metadata") or {}
        return any(metadata.get(name) for name in names)

    return there


def _has(*names: str) -> Callable[[Document, _Context], bool]:
    def there(part: Document, context: _Context) -> bool:
        return any(part.get(name) for name in names)

    return there


def _hash(algorithms: Iterable[str]) -> Callable[[Document, _Context], bool]:
    wanted = frozenset(algorithms)

    def there(part: Document, context: _Context) -> bool:
        listed = list(part.get("hashes") or ())
        for reference in part.get("externalReferences") or ():
            if reference.get("type") in ("distribution", "distribution-intake"):
                listed += reference.get("hashes") or ()
        return any(one.get("alg") in wanted for one in listed)

    return there


def _deployable(part: Document, context: _Context) -> bool:
    """BSI's CycloneDX mapping: SHA-512, in the reference to the distributed file."""
    references = [one for one in part.get("externalReferences") or () if one.get("type") == "distribution"]
    return any(
        one.get("alg") == "SHA-512" for reference in references for one in reference.get("hashes") or ()
    )


def _concluded(part: Document, context: _Context) -> bool:
    """BSI's CycloneDX mapping: SPDX identifiers or expressions, as concluded licences."""
    for item in part.get("licenses") or ():
        licence = item.get("license") or {}
        stated = item.get("expression") or licence.get("id")
        if stated and (item.get("acknowledgement") or licence.get("acknowledgement")) == "concluded":
            return True
    return False


def _reachable(holder: Mapping[str, Any], *names: str) -> bool:
    """Say whether one of the parties has an e-mail address or a URL: a name alone is not enough for BSI."""
    for name in names:
        listed = holder.get(name) or []
        for party in listed if isinstance(listed, list) else [listed]:
            contacts = party.get("contact") or ()
            if any(party.get("url") or ()) or party.get("email") or any(one.get("email") for one in contacts):
                return True
    return False


def _related_part(part: Document, context: _Context) -> bool:
    return part.get("bom-ref") in context.related


def _property(name: str) -> Callable[[Document, _Context], bool]:
    return lambda part, context: cyclonedx.property_of(part, name) is not None


def _tools(document: Document) -> bool:
    tools = (document.get("metadata") or {}).get("tools") or {}
    listed = (
        tools
        if isinstance(tools, list)
        else [*(tools.get("components") or ()), *(tools.get("services") or ())]
    )
    return any(isinstance(tool, Mapping) and tool.get("name") for tool in listed)


_PARTIES = ("manufacturer", "supplier", "authors")
_AUTHOR = _metadata("authors", "manufacturer", "supplier")
_CREATOR = _has("supplier", "manufacturer", "authors", "author", "publisher")
_COMMON = (
    Element(name="component name", of_component=_has("name")),
    Element(name="component version", of_component=_has("version")),
    Element(name="dependency relationship", of_component=_related_part),
)
STANDARDS: dict[str, tuple[str, tuple[Element, ...]]] = {
    "ntia": (
        "NTIA minimum elements (2021)",
        (
            Element(name="supplier name", of_component=_CREATOR),
            *_COMMON,
            Element(
                name="other unique identifiers",
                of_component=_has("purl", "cpe", "swid", "omniborId", "swhid"),
            ),
            Element(name="author of SBOM data", of_document=_AUTHOR),
            Element(name="timestamp", of_document=_metadata("timestamp")),
        ),
    ),
    "cisa": (
        "CISA minimum elements (2025 draft)",
        (
            Element(name="software producer", of_component=_CREATOR),
            *_COMMON,
            Element(
                name="software identifiers", of_component=_has("purl", "cpe", "swid", "omniborId", "swhid")
            ),
            Element(
                name="component hash",
                of_component=_hash(("SHA-256", "SHA-384", "SHA-512", "SHA3-256")),
                of_file=True,
            ),
            Element(name="licence", of_component=_has("licenses")),
            Element(name="SBOM author", of_document=_AUTHOR),
            Element(name="timestamp", of_document=_metadata("timestamp")),
            Element(name="tool name", of_document=_tools),
            Element(name="generation context", of_document=_metadata("lifecycles")),
        ),
    ),
    "bsi": (
        "BSI TR-03183-2 2.1.0, required fields",
        (
            Element(
                name="creator of the SBOM",
                of_document=lambda d: _reachable(d.get("metadata") or {}, *_PARTIES),
            ),
            Element(name="timestamp", of_document=_metadata("timestamp")),
            Element(name="component creator", of_component=lambda part, context: _reachable(part, *_PARTIES)),
            *_COMMON,
            Element(name="filename", of_component=_property(FILENAME), of_file=True),
            Element(name="distribution licences", of_component=_concluded),
            Element(name="hash of the deployable component", of_component=_deployable, of_file=True),
            Element(name="executable property", of_component=_property(EXECUTABLE), of_file=True),
            Element(name="archive property", of_component=_property(ARCHIVE), of_file=True),
            Element(name="structured property", of_component=_property(STRUCTURED), of_file=True),
        ),
    ),
}
