"""Everything in a release that an advisory can be about: packages, what they were built from, what they vendor. Pure.

Contents lists say what is in which product; the SBOM adds what only it has: the source packages that advisories of
Debian name, vendored components, and the packages that firmware was taken out of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tallystick.build.records import Component, Contents
from tallystick.formats.cyclonedx import Document
from tallystick.sbom import parts

_RELEASE = "release"  # bom-ref of the whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing with a name and a version."""

    ref: str  # bom-ref
    name: str
    version: str
    purl: str  # "" where nothing is known of that
    products: tuple[
        str, ...
    ]  # products that hold it, nested or not, and "firmware:…" that was made from it; sorted
    sources: tuple[tuple[str, str], ...] = ()  # (name, version) of source packages
    owner: str = ""  # of what is vendored: the ref of the package whose file holds it
    link: str = ""  # BOM-Link: how another document names this one's part


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The parts of one release, and the names of the whole."""

    parts: tuple[Part, ...]  # by ref
    names: tuple[str, ...]  # purls and BOM-Links of the release and its products


def of_release(lists: Iterable[Contents], document: Document) -> Inventory:
    """Return what is in a release.

    Args:
        document: its SBOM, which was compared with the lists.
    """
    contents = tuple(lists)
    holders = _holders(contents)
    link = f"{_link(document)}#"
    stated = {str(part.get("bom-ref")): part for part in document.get("components") or []}
    found: dict[str, Part] = {}
    for component in (one for listed in contents for one in listed.components):
        found[component.ref] = _package(component, stated.get(component.ref, {}), holders, link)
    for firmware, refs in _firmware(document):
        for ref in refs:
            if ref in stated:
                found[ref] = _stated(stated[ref], (*holders.get(ref, ()), firmware), link)
    for ref in tuple(found):
        for inner in _nested(stated.get(ref, {})):
            found[str(inner["bom-ref"])] = _vendored(inner, found[ref], link)
    return Inventory(parts=tuple(found[ref] for ref in sorted(found)), names=tuple(_names(document, link)))


def _holders(lists: tuple[Contents, ...]) -> dict[str, tuple[str, ...]]:
    """Return the products that hold each component, those too that hold one of these."""
    inside = {one.product: {file.nested for file in one.files} - {""} for one in lists}
    found: dict[str, set[str]] = {}
    for listed in lists:
        waiting, products = [listed.product], set[str]()
        while waiting:
            product = waiting.pop()
            products.add(product)
            waiting += [
                outer for outer, nested in inside.items() if product in nested and outer not in products
            ]
        for component in listed.components:
            found.setdefault(component.ref, set()).update(products)
    return {ref: tuple(sorted(products)) for ref, products in found.items()}


def _package(
    component: Component, stated: Document, holders: Mapping[str, tuple[str, ...]], link: str
) -> Part:
    return Part(
        ref=component.ref,
        name=component.name,
        version=component.version,
        purl=component.purl,
        products=holders[component.ref],
        sources=tuple(_sources(stated)),
        link=link + quote(component.ref, safe=""),
    )


def _stated(part: Document, products: Iterable[str], link: str) -> Part:
    ref = str(part.get("bom-ref"))
    return Part(
        ref=ref,
        name=str(part.get("name")),
        version=str(part.get("version", "")),
        purl=str(part.get("purl", "")),
        products=tuple(sorted(set(products))),
        sources=tuple(_sources(part)),
        link=link + quote(ref, safe=""),
    )


def _vendored(part: Document, owner: Part, link: str) -> Part:
    ref = str(part["bom-ref"])
    return Part(
        ref=ref,
        name=str(part.get("name")),
        version=str(part.get("version", "")),
        purl=str(part.get("purl", "")),
        products=owner.products,
        owner=owner.ref,
        link=link + quote(ref, safe=""),
    )


def _sources(part: Document) -> Iterator[tuple[str, str]]:
    for one in (part.get("pedigree") or {}).get("ancestors") or ():
        if str(one.get("purl", "")).startswith("pkg:deb/"):
            yield str(one.get("name")), str(one.get("version", ""))


def _nested(part: Document) -> Iterator[Document]:
    waiting: list[Any] = list(part.get("components") or ())
    while waiting:
        inner = waiting.pop()
        waiting += inner.get("components") or ()
        if "bom-ref" in inner:
            yield inner


def _firmware(document: Document) -> Iterator[tuple[str, tuple[str, ...]]]:
    for edge in document.get("dependencies") or []:
        if str(edge.get("ref")).startswith(parts.firmware_ref("")):
            yield str(edge["ref"]), tuple(edge.get("dependsOn") or ())


def _link(document: Document) -> str:
    """Return the BOM-Link of the document (CycloneDX, ``urn:cdx:<serial>/<version>``)."""
    serial = str(document.get("serialNumber", "")).removeprefix("urn:uuid:")
    return f"urn:cdx:{serial}/{document.get('version', 1)}"


def _names(document: Document, link: str) -> Iterator[str]:
    whole = (document.get("metadata") or {}).get("component") or {}
    for part in (whole, *(document.get("components") or ())):
        ref = str(part.get("bom-ref"))
        if ref == _RELEASE or ref.startswith(parts.product_ref("")):
            yield link + quote(ref, safe="")
            if "purl" in part:
                yield str(part["purl"])
