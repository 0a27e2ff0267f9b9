"""The SBOM of a build: CycloneDX of what is in its products, from the contents lists and the derivations.

Nothing is guessed from names: every file was written down by the step that put it in, with the component
that it came from. The same build gives the same bytes.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from tallystick import __version__
from tallystick.build.records import Build, Component, Contents, ContentsFile, Product
from tallystick.core.errors import Malformed
from tallystick.formats import cyclonedx, drvgraph, intoto
from tallystick.formats.cyclonedx import Document
from tallystick.formats.drvgraph import Graph
from tallystick.sbom import parts
from tallystick.sbom.deployable import NOTHING, WITHOUT_FILE, Known, party
from tallystick.sbom.origins import Origin, materials_of, origins, packages_of
from tallystick.sbom.schema import spdx_ids
from tallystick.sbom.vendored import Inside

RELEASE_REF = "release"
_SERIAL_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://tallystick.dev/sbom/v1")


def make(
    build: Build,
    *,
    created: datetime,
    links: Mapping[str, Iterable[str]] | None = None,
    known: Known = NOTHING,
    inside: Mapping[str, Inside] | None = None,
    spec_version: str = "1.6",
) -> Document:
    """Return the BOM of ``build``.

    Args:
        created: when the BOM says it was made; :func:`created_of` makes it repeatable.
        links: component ref -> refs it needs at run time, where they have been looked up in the files
            themselves (``sbom.links``). Without them the BOM says that these relations are not known.
        known: what was read from products, firmware and seeds themselves.
        inside: component ref -> what it vendors, where that was looked for (``sbom.vendored``).

    Raises:
        Malformed: two contents lists that describe one component differently, or a list of no product.
    """
    graph = drvgraph.read(build.derivations)
    sources = {item.name: packages_of(graph, item) for item in build.firmware}
    packages = _packages(build.contents)
    for component in (one for listed in sources.values() for one in listed):
        packages.setdefault(component.ref, component)
    found = origins(graph, packages.values())
    files = _files_by_component(build)
    digests = parts.digests(build)
    lost = [file for contents in build.contents for file in parts.unexplained(contents, digests)]
    brought = inside or {}
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{spec_version}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": spec_version,
        "serialNumber": f"urn:uuid:{_serial(build.products)}",
        "version": 1,
        "metadata": _metadata(build, created, lost, known),
        "components": [
            *(
                parts.firmware(item, sources[item.name], known)
                for item in sorted(build.firmware, key=lambda f: f.name)
            ),
            *(
                parts.product(product, build, known, parts.all_licences(_inside(product.name, build)))
                for product in sorted(build.products, key=lambda p: p.name)
            ),
            *(
                parts.package(packages[ref], found.get(ref), files.get(ref, ()), known, brought.get(ref))
                | _pedigree(graph, found.get(ref))
                for ref in sorted(packages)
            ),
        ],
        "dependencies": _dependencies(build, packages, sources, links),
        "compositions": _compositions(build, packages, links, brought, complete=not lost),
        "formulation": parts.build_inputs(graph, found.values()),
    }  # fmt: skip


def _pedigree(graph: Graph, origin: Origin | None) -> Document:
    """Say what a released file was made from: no package of this build, and yet in it."""
    found = materials_of(graph, origin) if origin is not None else ()
    return (
        {"pedigree": {"ancestors": [parts.ancestor(purl, digest) for purl, digest in found]}} if found else {}
    )


def _inside(product: str, build: Build) -> set[Component]:
    """Return the components of a product and of the products that are nested in it."""
    found: set[Component] = set()
    for contents in build.contents:
        if contents.product == product:
            found |= set(contents.components)
            for nested in {file.nested for file in contents.files} - {""}:
                found |= _inside(nested, build)
    return found


def statement(build: Build, bom: Document) -> bytes:
    """Return the in-toto statement that ``bom`` is the BOM of every product of ``build``.

    The bytes are those of ``intoto.make``, at a tenth of its time: a BOM has tens of thousands of entries.
    """
    return cyclonedx.canonical(
        {
            "_type": intoto.STATEMENT_TYPE,
            "subject": [
                {"name": product.path, "digest": {"sha256": product.digest.hex}} for product in build.products
            ],
            "predicateType": cyclonedx.PREDICATE_TYPE,
            "predicate": bom,
        }
    )


def created_of(build: Build) -> datetime:
    """Return the time that the build itself works with: the latest SOURCE_DATE_EPOCH of its products' steps.

    Source: reproducible-builds.org, SOURCE_DATE_EPOCH specification. Where no step sets it, the epoch.
    """
    graph = drvgraph.read(build.derivations)
    texts = [graph[product.drv].variable("SOURCE_DATE_EPOCH") for product in build.products]
    seconds = [int(text) for text in texts if re.fullmatch(r"[0-9]{1,11}", text)]
    return datetime.fromtimestamp(max(seconds, default=0), UTC)


def _serial(products: Iterable[Product]) -> uuid.UUID:
    """The same products have the same serial number, and no others do."""
    named = "".join(sorted(f"{product.name} {product.digest}\n" for product in products))
    return uuid.uuid5(_SERIAL_SPACE, named)


def _packages(lists: Iterable[Contents]) -> dict[str, Component]:
    found: dict[str, Component] = {}
    for contents in lists:
        for component in contents.components:
            if found.setdefault(component.ref, component) != component:
                raise Malformed(
                    f"contents of {contents.product}",
                    at=component.ref,
                    want="the component that another product's list has",
                    got="the same ref for another one",
                )
    return found


def _files_by_component(build: Build) -> dict[str, list[tuple[str, ContentsFile]]]:
    products = {product.name for product in build.products}
    found: dict[str, list[tuple[str, ContentsFile]]] = {}
    for contents in sorted(build.contents, key=lambda c: c.product):
        if contents.product not in products:
            want = "one of " + ", ".join(sorted(products))
            raise Malformed("contents", at="product", want=want, got=contents.product)
        for file in contents.files:
            if not file.nested:
                found.setdefault(file.component, []).append((contents.product, file))
    return found


def _metadata(build: Build, created: datetime, lost: list[ContentsFile], known: Known) -> Document:
    from packageurl import PackageURL

    release: Document = {
        "bom-ref": RELEASE_REF,
        "type": "application",
        "name": build.name,
        "version": build.version,
        "purl": PackageURL("generic", None, build.name, build.version).to_string(),
        "properties": parts.properties({WITHOUT_FILE: "true"}),
    }
    everything = {component for contents in build.contents for component in contents.components}
    if said := cyclonedx.licences(parts.all_licences(everything), spdx_ids(), "concluded"):
        release["licenses"] = said
    who = {} if known.manufacturer is None else {"manufacturer": party(known.manufacturer)}
    return {
        "timestamp": created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycles": [{"phase": "build"}],
        "tools": {"components": [{"type": "application", "name": "tallystick", "version": __version__}]},
        **who,
        "component": release | who,
        "properties": parts.properties(
            {
                "tallystick:unexplained-files": str(len(lost)),
                "tallystick:unexplained-bytes": str(sum(file.size_bytes for file in lost)),
            }
        ),
    }


def _dependencies(
    build: Build,
    packages: Mapping[str, Component],
    sources: Mapping[str, Iterable[Component]],
    links: Mapping[str, Iterable[str]] | None,
) -> list[Document]:
    products = {parts.product_ref(product.name) for product in build.products}
    edges: dict[str, set[str]] = {RELEASE_REF: products | {parts.firmware_ref(name) for name in sources}}
    for name, found in sources.items():
        edges[parts.firmware_ref(name)] = {component.ref for component in found}
    for contents in build.contents:
        used = edges.setdefault(parts.product_ref(contents.product), set())
        for file in contents.files:
            if file.nested:
                used.add(parts.product_ref(file.nested))
            elif file.component in packages:
                used.add(file.component)
    for ref, needed in (links or {}).items():
        edges.setdefault(ref, set()).update(needed)
    for ref in (*packages, *products):  # CycloneDX: what depends on nothing is an empty element
        edges.setdefault(ref, set())
    return [{"ref": ref, "dependsOn": sorted(edges[ref])} for ref in sorted(edges)]


def _compositions(
    build: Build,
    packages: Mapping[str, Component],
    links: Mapping[str, Iterable[str]] | None,
    inside: Mapping[str, Inside],
    *,
    complete: bool,
) -> list[Document]:
    """Say what is known to be all there is, and what is not (CycloneDX, ``compositions.aggregate``)."""
    listed = {contents.product for contents in build.contents}
    products = sorted(parts.product_ref(p.name) for p in build.products if p.name in listed)
    unlisted = sorted(parts.product_ref(p.name) for p in build.products if p.name not in listed)
    made: list[Document] = []
    if products:
        kind = "complete" if complete else "incomplete"
        made.append({"aggregate": kind, "assemblies": products, "dependencies": products})
    if unlisted:
        made.append({"aggregate": "unknown", "assemblies": unlisted, "dependencies": unlisted})
    known = sorted(ref for ref in packages if ref in (links or {}))
    unknown = sorted(set(packages) - set(known))
    if (
        known
    ):  # found by reading the files' own loader tables, which do not tell of what a program opens later
        made.append({"aggregate": "incomplete", "dependencies": known})
    if unknown:
        made.append({"aggregate": "unknown", "dependencies": unknown})
    brought = sorted(ref for ref in packages if ref in inside and inside[ref].components)
    if brought:  # each was found in a list of its own making; another file may keep its own to itself
        made.append({"aggregate": "incomplete", "assemblies": brought})
        nested = [part["bom-ref"] for ref in brought for part in inside[ref].components]
        made.append({"aggregate": "unknown", "assemblies": nested, "dependencies": nested})
    if silent := sorted(set(packages) - set(brought)):  # no file of theirs says what it vendors
        made.append({"aggregate": "unknown", "assemblies": silent})
    return made
