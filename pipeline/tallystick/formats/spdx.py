"""SPDX 2.3 out of a CycloneDX document, as far as SPDX 2.3 has a place for what it says; the rest is counted by name.

Source: SPDX specification 2.3 (ISO/IEC 5962 and its successor), clauses 6 to 11 and the JSON schema's field names.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any

from tallystick.formats import cyclonedx
from tallystick.formats.cyclonedx import Document

VERSION = "SPDX-2.3"
_NOTHING_SAID = "NOASSERTION"
_DOCUMENT = "SPDXRef-DOCUMENT"
_PURPOSES = {  # CycloneDX component type -> PrimaryPackagePurpose; the others have none
    "application": "APPLICATION",
    "framework": "FRAMEWORK",
    "library": "LIBRARY",
    "container": "CONTAINER",
    "operating-system": "OPERATING-SYSTEM",
    "device": "DEVICE",
    "firmware": "FIRMWARE",
    "file": "FILE",
}
_ALGORITHMS = {
    "SHA-1": "SHA1",
    "SHA-256": "SHA256",
    "SHA-384": "SHA384",
    "SHA-512": "SHA512",
    "MD5": "MD5",
    "SHA3-256": "SHA3-256",
    "SHA3-384": "SHA3-384",
    "SHA3-512": "SHA3-512",
    "BLAKE3": "BLAKE3",
}
_CARRIED = {  # what of a component goes into its package
    "bom-ref", "type", "name", "version", "purl", "cpe", "hashes", "licenses", "supplier", "manufacturer",
    "components", "description", "copyright",
}  # fmt: skip
_SECTIONS = {
    "$schema",
    "bomFormat",
    "specVersion",
    "serialNumber",
    "version",
    "metadata",
    "components",
    "dependencies",
}
_METADATA = {"timestamp", "tools", "manufacturer", "component"}
_FILENAME = "bsi:component:filename"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An SPDX document, and what of the CycloneDX document it has no place for."""

    document: dict[str, Any]
    left_out: tuple[tuple[str, int], ...]  # ("component evidence", 23), sorted


@dataclass(slots=True)
class _Work:
    """What is gathered while the parts are walked."""

    spdx_ids: Container[str]
    packages: list[dict[str, Any]] = field(default_factory=list)
    relations: list[dict[str, str]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # LicenseRef -> the licence as it is called
    left: Counter[str] = field(default_factory=Counter)


def export(document: Document, tool: str, spdx_ids: Container[str]) -> Exported:
    """Return ``document`` as SPDX 2.3; the same document gives the same bytes.

    Args:
        document: a CycloneDX BOM that follows its schema and its own references.
        tool: who writes this: "tallystick-0.1.0".
        spdx_ids: the identifiers of the SPDX licence list.
    """
    work, metadata = _Work(spdx_ids), document.get("metadata") or {}
    root = metadata.get("component")
    parts = [*([root] if root else ()), *(document.get("components") or ())]
    for part in parts:
        _package(part, work)
    described = [root] if root else parts
    for part in described:
        work.relations.append(_relation(_DOCUMENT, "DESCRIBES", _id(part)))
    _edges(document, work)
    for name in sorted(set(document) - _SECTIONS):
        work.left[f"section {name}"] += 1
    for name in sorted(set(metadata) - _METADATA):
        work.left[f"metadata {name}"] += 1
    serial = str(document.get("serialNumber") or "").removeprefix("urn:uuid:")
    serial = serial or hashlib.sha256(cyclonedx.canonical(document)).hexdigest()
    name = str((root or {}).get("name") or "sbom")
    made = {
        "spdxVersion": VERSION,
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": name,
        "documentNamespace": f"https://tallystick.dev/spdx/{serial}",
        "comment": f"Made from the CycloneDX document {document.get('serialNumber')}, version "
        f"{document.get('version', 1)}, which says more than SPDX 2.3 has fields for.",
        "creationInfo": {
            "created": _seconds(str(metadata.get("timestamp") or "1970-01-01T00:00:00Z")),
            "creators": [f"Tool: {tool}", *_creators(metadata)],
        },
        "packages": sorted(work.packages, key=lambda one: str(one["SPDXID"])),
        "relationships": sorted(work.relations, key=lambda one: tuple(one.values())),
    }
    if work.texts:
        made["hasExtractedLicensingInfos"] = [
            {"licenseId": ref, "name": text, "extractedText": text}
            for ref, text in sorted(work.texts.items())
        ]
    return Exported(document=made, left_out=tuple(sorted(work.left.items())))


def _package(part: Document, work: _Work) -> None:
    concluded, declared = _licences(part, work)
    checksums = {one["alg"]: one["content"] for one in _hashes(part)}
    made: dict[str, Any] = {
        "SPDXID": _id(part),
        "name": str(part.get("name")),
        "downloadLocation": _NOTHING_SAID,
        "filesAnalyzed": False,
        "licenseConcluded": concluded,
        "licenseDeclared": declared,
        "copyrightText": str(part.get("copyright") or _NOTHING_SAID),
    }
    if part.get("version"):
        made["versionInfo"] = str(part["version"])
    if name := cyclonedx.property_of(part, _FILENAME):
        made["packageFileName"] = name
    for ours, theirs in (("supplier", "supplier"), ("manufacturer", "originator")):
        if who := part.get(ours):
            made[theirs] = _party(who)
    if purpose := _PURPOSES.get(str(part.get("type"))):
        made["primaryPackagePurpose"] = purpose
    if part.get("description"):
        made["description"] = str(part["description"])
    known = {_ALGORITHMS[alg]: content for alg, content in checksums.items() if alg in _ALGORITHMS}
    if known:
        made["checksums"] = [{"algorithm": alg, "checksumValue": known[alg]} for alg in sorted(known)]
    references = [
        {"referenceCategory": category, "referenceType": kind, "referenceLocator": str(part[key])}
        for key, category, kind in (("purl", "PACKAGE-MANAGER", "purl"), ("cpe", "SECURITY", "cpe23Type"))
        if part.get(key)
    ]
    if references:
        made["externalRefs"] = references
    work.packages.append(made)
    for name in set(part) - _CARRIED:
        work.left[f"component {name}"] += 1
    for inner in part.get("components") or ():
        _package(inner, work)
        work.relations.append(_relation(_id(part), "CONTAINS", _id(inner)))


def _hashes(part: Document) -> Iterator[dict[str, str]]:
    """The component's own hashes, and those of the file that is distributed (BSI's place for SHA-512)."""
    for reference in part.get("externalReferences") or ():
        if reference.get("type") == "distribution":
            yield from reference.get("hashes") or ()
    yield from part.get("hashes") or ()


def _licences(part: Document, work: _Work) -> tuple[str, str]:
    said: dict[str, list[str]] = {"concluded": [], "declared": []}
    for item in part.get("licenses") or ():
        licence = item.get("license") or {}
        kind = item.get("acknowledgement") or licence.get("acknowledgement") or "declared"
        text = str(item.get("expression") or licence.get("id") or licence.get("name") or "")
        if text:
            said[kind].append(text if cyclonedx.is_expression(text, work.spdx_ids) else _own(text, work))
    return tuple(_all(texts) for texts in (said["concluded"], said["declared"]))  # type: ignore[return-value]


def _all(texts: list[str]) -> str:
    if not texts:
        return _NOTHING_SAID
    return " AND ".join(f"({text})" if " " in text and len(texts) > 1 else text for text in texts)


def _own(text: str, work: _Work) -> str:
    ref = f"LicenseRef-{_safe(text)}"
    work.texts[ref] = text
    return ref


def _edges(document: Document, work: _Work) -> None:
    """Dependencies as they are listed; where they are said to be unknown, that is said (clause 11.1)."""
    by_ref = {str(part.get("bom-ref")): _id(part) for part in cyclonedx.components(document)}
    stated: set[str] = set()
    for edge in document.get("dependencies") or ():
        ref = str(edge.get("ref"))
        for needed in edge.get("dependsOn") or ():
            if ref in by_ref and needed in by_ref:
                stated.add(ref)
                work.relations.append(_relation(by_ref[ref], "DEPENDS_ON", by_ref[needed]))
        if edge.get("provides"):
            work.left["dependency provides"] += 1
    for one in document.get("compositions") or ():
        if one.get("aggregate") == "unknown":
            for ref in one.get("dependencies") or ():
                if ref in by_ref and ref not in stated:
                    work.relations.append(_relation(by_ref[ref], "DEPENDS_ON", _NOTHING_SAID))
                    stated.add(ref)


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _id(part: Document) -> str:
    """Return an identifier that no other part of the document has: readable, and the reference's own hash."""
    ref = str(part.get("bom-ref") or f"{part.get('name')}@{part.get('version', '')}")
    return f"SPDXRef-{_safe(str(part.get('name')))}-{hashlib.sha256(ref.encode()).hexdigest()[:12]}"


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")[:80] or "x"


def _party(who: Document) -> str:
    contacts = who.get("contact") or ()
    email = next((one["email"] for one in contacts if one.get("email")), "")
    name = re.sub(r"[()\s]+", " ", str(who.get("name") or email)).strip()
    return f"Organization: {name} ({email})" if email else f"Organization: {name}"


def _creators(metadata: Document) -> list[str]:
    who = metadata.get("manufacturer")
    return [_party(who)] if who else []


def _seconds(time: str) -> str:
    """SPDX takes UTC in whole seconds."""
    from datetime import UTC, datetime

    return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
