"""What is inside the files of an image or of a seed without being a file: vendored Go modules, crates, npm packages.

The image itself is asked: Go's build information, the list of cargo-auditable, ``node_modules`` and lock files, and the
SBOMs that Python packages bring along (PEP 770). A program of another making keeps its libraries to itself, so nothing
found is no proof that nothing is there.

Source: purl-spec, types golang, cargo, npm; CycloneDX 1.6, ``evidence.identity.methods.technique``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tallystick.build.records import Contents
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import cargo_auditable, cyclonedx, elf, gobuildinfo, npm
from tallystick.formats.cyclonedx import Document
from tallystick.sbom.deployable import WITHOUT_FILE, Known
from tallystick.sbom.scan import Found
from tallystick.sbom.schema import spdx_ids

_INSTALLED = re.compile(r"(?:^|.*/)node_modules/(?:@[^/]+/)?[^/@]+/package\.json")
_LOCKED = re.compile(
    r"(?:^|(?:.*/)?)(?:package-lock|npm-shrinkwrap)\.json|(?:.*/)?node_modules/\.package-lock\.json"
)
_SBOM = re.compile(r"(?:.*/)?[^/]+\.dist-info/sboms/[^/]+\.json")
_BINARY, _MANIFEST = "binary-analysis", "manifest-analysis"
_FOREIGN_VERSIONS = ("1.4", "1.5", "1.6", "1.7")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendored:
    """One component inside another's file."""

    ref: str  # unique below its owner
    part: Document  # as it goes into the SBOM, without bom-ref
    where: str  # the file that says it: "initramfs:usr/bin/tool", "seeds/a.whl:a.dist-info/sboms/b.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What one component brings along."""

    components: tuple[Document, ...]  # nested components, by bom-ref
    unreadable: tuple[str, ...]  # files whose own list does not parse


def of_release(
    lists: Iterable[Contents], scanned: Mapping[str, Iterable[Found]], known: Known
) -> dict[str, Inside]:
    """Return what each component brings along, by its ref; of an unexplained file, nothing.

    Args:
        scanned: product name -> the files that were found in it.
    """
    found: dict[str, list[Vendored]] = {}
    unreadable: dict[str, list[str]] = {}
    for owner, where, says in _sources(tuple(lists), scanned, known):
        try:
            listed = tuple(says)
        except (Malformed, Unsupported):
            unreadable.setdefault(owner, []).append(where)
            continue
        if listed:
            found.setdefault(owner, []).extend(listed)
    return {
        owner: Inside(
            components=tuple(_merged(owner, found.get(owner, []))),
            unreadable=tuple(sorted(set(unreadable.get(owner, [])))),
        )
        for owner in sorted(found.keys() | unreadable.keys())
    }


def _sources(
    lists: tuple[Contents, ...], scanned: Mapping[str, Iterable[Found]], known: Known
) -> Iterator[tuple[str, str, Iterator[Vendored]]]:
    """Give (component ref, file, what it says) for every file of the products, and every SBOM in a seed."""
    for contents in lists:
        owners = {file.path: file.component for file in contents.files if file.component and not file.nested}
        for file in scanned.get(contents.product, ()):
            if file.path in owners:
                where = f"{contents.product}:{file.path}"
                yield owners[file.path], where, of_file(file.path, file.data, where)
    components = {one.ref: one for contents in lists for one in contents.components}
    for ref, component in sorted(components.items()):
        for path, data in known.seeds[component.seed][0].sboms if component.seed in known.seeds else ():
            where = f"seeds/{component.seed}:{path}"
            yield ref, where, foreign(data, where)


def of_file(path: str, data: memoryview, where: str) -> Iterator[Vendored]:
    """Give what the file at ``path`` says that it was made from.

    Raises:
        Malformed, Unsupported: it says so in a form that does not parse.
    """
    if elf.is_elf(data):
        yield from _elf(data, where)
    elif _INSTALLED.fullmatch(path):
        if (package := npm.installed(bytes(data))) is not None:
            yield _npm(package, where)
    elif _LOCKED.fullmatch(path):
        yield from (_npm(package, where) for package in npm.locked(bytes(data)))
    elif _SBOM.fullmatch(path):
        yield from foreign(bytes(data), where)


def foreign(data: bytes, where: str) -> Iterator[Vendored]:
    """Give the components of an SBOM that somebody else made, each as it is; nothing that it says is left out.

    Raises:
        Malformed: not JSON, or no components.
        Unsupported: another format, or another version of CycloneDX.
    """
    document = jsondoc.loads(data, where)
    if not isinstance(document, dict) or document.get("specVersion") not in _FOREIGN_VERSIONS:
        raise Unsupported(where, at="specVersion", want="CycloneDX 1.4 to 1.7", got="another document")
    for index, part in enumerate(document.get("components") or ()):
        if not isinstance(part, dict) or not isinstance(part.get("name"), str):
            raise Malformed(where, at=f"components[{index}]", want="a component", got=repr(part))
        ref = str(part.get("bom-ref") or part.get("purl") or f"{part['name']}@{part.get('version', '')}")
        yield Vendored(ref=ref, part={key: part[key] for key in part if key != "bom-ref"}, where=where)


def _elf(data: memoryview, where: str) -> Iterator[Vendored]:
    try:
        crates, info = cargo_auditable.find(data), gobuildinfo.find(data)
    except Unsupported as error:
        if "class and byte order" in str(error):  # a file for another machine, which nothing here loads
            return
        raise
    for crate in crates:
        yield _made("cargo", "", crate.name, crate.version, where, _BINARY)
    if info is None:
        return
    yield _made("golang", "", "stdlib", info.go.removeprefix("go").split(" ")[0], where, _BINARY)
    for module in (*((info.main,) if info.main else ()), *info.modules):
        space, _, name = module.path.rpartition("/")
        version = "" if module.version == "(devel)" else module.version
        yield _made("golang", space, name, version, where, _BINARY)


def _npm(package: npm.Package, where: str) -> Vendored:
    space, _, name = package.name.rpartition("/")
    return _made("npm", space, name, package.version, where, _MANIFEST, package.licence)


def _made(
    kind: str, space: str, name: str, version: str, where: str, technique: str, licence: str = ""
) -> Vendored:
    from packageurl import PackageURL

    try:
        purl = PackageURL(kind, space or None, name, version or None).to_string()
    except ValueError as error:
        raise Malformed(where, at=f"name {space}/{name}", want=f"a {kind} package", got=str(error)) from None
    method = {"technique": technique, "confidence": 1}
    part: Document = {
        "type": "library",
        "name": f"{space}/{name}" if space else name,
        "purl": purl,
        "evidence": {"identity": [{"field": "purl", "confidence": 1, "methods": [method]}]},
    }
    if version:
        part["version"] = version
    if said := cyclonedx.licences(licence, spdx_ids(), "declared"):
        part["licenses"] = said
    return Vendored(ref=purl, part=part, where=where)


def _merged(owner: str, listed: Iterable[Vendored]) -> Iterator[Document]:
    """Each component once, however many files say it; nested ones get a bom-ref that no other owner has."""
    parts: dict[str, Document] = {}
    places: dict[str, set[str]] = {}
    for one in listed:
        ref = f"{owner}#{one.ref}"
        parts.setdefault(ref, one.part)
        places.setdefault(ref, set()).add(one.where)
    for ref in sorted(parts):
        part = parts[ref]
        evidence = dict(part.get("evidence") or {})
        evidence["occurrences"] = [
            *(evidence.get("occurrences") or ()),
            *({"location": where} for where in sorted(places[ref])),
        ]
        properties = [*(part.get("properties") or ()), {"name": WITHOUT_FILE, "value": "true"}]
        nested = (
            {"components": [_renamed(owner, one) for one in part["components"]]}
            if "components" in part
            else {}
        )
        yield part | nested | {"bom-ref": ref, "evidence": evidence, "properties": properties}


def _renamed(owner: str, part: Document) -> Document:
    made = dict(part)
    if "bom-ref" in made:
        made["bom-ref"] = f"{owner}#{made['bom-ref']}"
    if "components" in made:
        made["components"] = [_renamed(owner, one) for one in made["components"]]
    return made
