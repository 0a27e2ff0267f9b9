"""Whether an SBOM holds: by the published schema, by its own references, and by what it says is inside.

The schema alone takes a BOM whose dependencies point nowhere or whose references name two things.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from tallystick.build.records import Component, Contents, ContentsFile
from tallystick.core.digests import Digest
from tallystick.core.findings import Finding
from tallystick.formats import cyclonedx
from tallystick.formats.cyclonedx import Document
from tallystick.sbom import parts, schema
from tallystick.sbom.deployable import ARCHIVE, EXECUTABLE, FILENAME, NOTHING, STRUCTURED, Known, party
from tallystick.sbom.vendored import Inside

_NONE: Mapping[str, Digest] = {}
_COMPARED = ("name", "version", "purl", "licenses", "hashes")
_KNOWN = ("manufacturer", "supplier", "externalReferences")  # from the seeds themselves, where they are there
# Nothing that purl-spec could refuse: types without rules of their own for these parts, every sign in its plain form.
_PLAIN_PURL = re.compile(
    r"pkg:(?:deb|generic|golang|cargo|npm|pypi)(?:/(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+)+"
    r"(?:@(?:[A-Za-z0-9._~:-]|%[0-9A-F]{2})+)?(?:\?[a-z_]+=[A-Za-z0-9._~:-]+(?:&[a-z_]+=[A-Za-z0-9._~:-]+)*)?"
)
_PROPERTIES = ("nix:narHash", "tallystick:seed", FILENAME, EXECUTABLE, ARCHIVE, STRUCTURED)


def check_document(document: Document) -> tuple[Finding, ...]:
    """Return what is wrong with ``document`` by itself, whatever it describes."""
    found = list(schema.findings(document))
    if found:  # what follows walks the document as the schema shapes it
        return tuple(found)
    return (*_identity(document), *_references(document), *_purls(document))


def check_contents(
    document: Document,
    products: Mapping[str, Digest],
    lists: Iterable[Contents],
    firmware: Mapping[str, Digest] = _NONE,
    known: Known = NOTHING,
) -> tuple[Finding, ...]:
    """Return where ``document`` says something else than the products and their contents lists.

    Args:
        known: what the release's files say themselves; of a file that it does not hold, nothing is asked.
        document: one that :func:`check_document` has nothing to say about.
        products: name -> digest of the product's file.
        firmware: name -> digest of the firmware's file.
    """
    stated = {str(part.get("bom-ref")): part for part in document.get("components") or []}
    packages, files = _merged(lists)
    named = {parts.product_ref(name): digest for name, digest in products.items()}
    named |= {parts.firmware_ref(name): digest for name, digest in firmware.items()}
    expected = named.keys() | packages.keys() | _firmware_packages(document, firmware)
    found = [
        Finding("sbom.component.extra", ref, "only what the contents lists name", "a component that none has")
        for ref in sorted(stated.keys() - expected)
    ]
    found += _manufacturer(document, known)
    for ref, digest in sorted(named.items()):
        found += _compare_file(ref, stated.get(ref), digest, known)
    for ref, component in sorted(packages.items()):
        found += _compare_package(component, stated.get(ref), files.get(ref, []), known)
    return (*found, *_unexplained(document, products, lists))


def _identity(document: Document) -> Iterator[Finding]:
    if not document.get("serialNumber"):
        yield Finding("sbom.serial", "serialNumber", "a serial number", "none")
    if not (document.get("metadata") or {}).get("timestamp"):
        yield Finding("sbom.timestamp", "metadata.timestamp", "the time it was made", "none")


def _references(document: Document) -> Iterator[Finding]:
    defined, used = cyclonedx.references(document)
    for ref, count in sorted(Counter(defined).items()):
        if count > 1:
            yield Finding("sbom.ref.duplicate", ref, "one part with this bom-ref", f"{count}")
    known = set(defined)
    for place, ref in sorted(used):
        if ref not in known and not ref.startswith("urn:cdx:"):  # a BOM-Link names another document
            yield Finding("sbom.ref.dangling", place, "a bom-ref of this document", ref)
    stated = Counter(str(edge.get("ref")) for edge in document.get("dependencies") or [])
    for ref, count in sorted(stated.items()):
        if count > 1:
            yield Finding("sbom.dependency.duplicate", ref, "its dependencies once", f"{count} times")


def _purls(document: Document) -> Iterator[Finding]:
    from packageurl import PackageURL

    for component in cyclonedx.components(document):
        if (purl := component.get("purl")) is None or _PLAIN_PURL.fullmatch(purl):
            continue
        try:
            PackageURL.from_string(purl)
        except ValueError as error:
            where = f"{component.get('bom-ref') or component.get('name')} purl"
            yield Finding("sbom.purl", where, "a package URL", f"{purl}: {error}")


def _merged(
    lists: Iterable[Contents],
) -> tuple[dict[str, Component], dict[str, list[tuple[str, ContentsFile]]]]:
    packages: dict[str, Component] = {}
    files: dict[str, list[tuple[str, ContentsFile]]] = {}
    for contents in sorted(lists, key=lambda c: c.product):
        packages |= {component.ref: component for component in contents.components}
        for file in contents.files:
            if not file.nested:
                files.setdefault(file.component, []).append((contents.product, file))
    return packages, files


def _firmware_packages(document: Document, firmware: Mapping[str, Digest]) -> set[str]:
    """What the firmware came out of: no list has it, and the provenance has its hash."""
    refs = {parts.firmware_ref(name) for name in firmware}
    edges = document.get("dependencies") or []
    return {needed for edge in edges if edge.get("ref") in refs for needed in edge.get("dependsOn") or []}


def check_inside(document: Document, inside: Mapping[str, Inside]) -> tuple[Finding, ...]:
    """Return where ``document`` lists other vendored components than the files themselves say.

    Args:
        inside: component ref -> what was found (``sbom.vendored.of_release``).
    """
    found = []
    for part in document.get("components") or []:
        ref = str(part.get("bom-ref"))
        stated = {str(one.get("bom-ref")): one for one in part.get("components") or []}
        looked = inside[ref].components if ref in inside else ()
        expected = {str(one["bom-ref"]): one for one in looked}
        for name in sorted(expected.keys() | stated.keys()):
            if name not in stated:
                found.append(Finding("sbom.vendored.missing", name, "a component for it", "none"))
            elif name not in expected:
                found.append(Finding("sbom.vendored.extra", name, "only what files say", "a component"))
            elif stated[name] != expected[name]:
                where = "what its file says"
                found.append(Finding("sbom.vendored.differs", name, where, "something else"))
    return tuple(found)


def _manufacturer(document: Document, known: Known) -> Iterator[Finding]:
    stated = (document.get("metadata") or {}).get("manufacturer")
    if known.manufacturer is not None and stated != party(known.manufacturer):
        want, got = str(party(known.manufacturer)), str(stated or "none")
        yield Finding("sbom.manufacturer", "metadata.manufacturer", want, got)


def _compare_file(ref: str, stated: Document | None, digest: Digest, known: Known) -> Iterator[Finding]:
    if stated is None:
        yield Finding("sbom.component.missing", ref, "a component for it", "none")
        return
    path = cyclonedx.property_of(stated, "tallystick:path") or ""
    if path in known.files:
        expected = [cyclonedx.hash_of(digest), cyclonedx.hash_of(known.files[path].sha512)]
        references = stated.get("externalReferences") or [{}]
        if references[0].get("hashes") != expected:
            got = str(references[0].get("hashes", "none"))
            yield Finding("sbom.product.sha512", ref, str(known.files[path].sha512), got)
    want = [cyclonedx.hash_of(digest)]
    if stated.get("hashes") != want:
        got = ", ".join(str(one.get("content")) for one in stated.get("hashes") or []) or "none"
        yield Finding("sbom.product.hash", ref, digest.hex, got)


def _compare_package(
    component: Component, stated: Document | None, files: list[tuple[str, ContentsFile]], known: Known
) -> Iterator[Finding]:
    if stated is None:
        yield Finding("sbom.component.missing", component.ref, "a component for it", "none")
        return
    expected = parts.package(component, None, files, known)
    is_known = component.seed in known.seeds if component.seed else component.digest in known.trees
    for field in (*_COMPARED, *(_KNOWN if is_known else ())):
        if stated.get(field) != expected.get(field):
            want, got = str(expected.get(field, "none")), str(stated.get(field, "none"))
            yield Finding(f"sbom.component.{field}", component.ref, want, got)
    for name in _PROPERTIES if is_known else _PROPERTIES[:2]:
        want, got = (str(cyclonedx.property_of(part, name)) for part in (expected, stated))
        if want != got:
            yield Finding("sbom.component.property", f"{component.ref} {name}", want, got)
    wanted, told = _occurrences(expected), _occurrences(stated)
    for place in sorted(wanted.keys() | told.keys()):
        if wanted.get(place) != told.get(place):
            want, got = wanted.get(place, "no such file"), told.get(place, "no such file")
            yield Finding("sbom.file", f"{component.ref} {place}", want, got)


def _occurrences(part: Document) -> dict[str, str]:
    listed = (part.get("evidence") or {}).get("occurrences") or []
    return {str(one.get("location")): str(one.get("additionalContext")) for one in listed}


def _unexplained(
    document: Document, products: Mapping[str, Digest], lists: Iterable[Contents]
) -> Iterator[Finding]:
    lost = [file for contents in lists for file in parts.unexplained(contents, products)]
    counts = {
        "tallystick:unexplained-files": str(len(lost)),
        "tallystick:unexplained-bytes": str(sum(file.size_bytes for file in lost)),
    }
    for name, want in counts.items():
        got = str(cyclonedx.property_of(document.get("metadata") or {}, name))
        if got != want:
            yield Finding("sbom.unexplained", f"metadata {name}", want, got)
