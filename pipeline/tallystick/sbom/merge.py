"""Several CycloneDX documents as one: an image, the firmware that starts it, the model that runs in it. Pure.

Documents stay plain JSON and keep every field. What can not be kept is refused, or named in the result: a signature is
of the document that it was made over.

Source: CycloneDX 1.6 and 1.7, the schemas; BOM-Link (``urn:cdx:<serial>/<version>``).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tallystick.core.digests import Digest
from tallystick.core.errors import Refused
from tallystick.core.findings import Finding
from tallystick.formats import cyclonedx
from tallystick.formats.cyclonedx import Document

ROOT_REF = "merged"
_SERIAL_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://tallystick.dev/sbom/merge/v1")
_LISTS = (
    "services",
    "compositions",
    "formulation",
    "annotations",
    "externalReferences",
    "properties",
    "citations",
)
_OWN = {
    "$schema",
    "bomFormat",
    "specVersion",
    "serialNumber",
    "version",
    "metadata",
    "components",
    "dependencies",
}
_PARTIES = ("manufacturer", "supplier", "authors")
_REFS = {"bom-ref", "ref"}  # keys whose text is a reference; of these lists, every text
_REF_LISTS = {
    "dependsOn", "provides", "assemblies", "dependencies", "vulnerabilities", "subjects", "claims", "evidence",
    "counterClaims", "counterEvidence", "mitigationStrategies", "targets",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The one document, and what could not come along."""

    document: Document
    left_out: tuple[str, ...]  # "b: signature"


def merge(documents: Iterable[tuple[str, Document]], *, name: str, version: str) -> Merged:
    """Return one BOM of what all of ``documents`` describe; the same ones in the same order give the same bytes.

    A component that two documents describe alike is there once. References that name different things are told apart by
    the document that they come from.

    Args:
        documents: (what errors call it, a BOM that follows its schema and its own references).
        name, version: of what the documents are put together to.

    Raises:
        Refused: vulnerabilities, which are no part of an SBOM, or a section that is not known here.
    """
    given = [(what, document) for what, document in documents]
    findings = [one for what, document in given for one in _unmergeable(what, document)]
    if findings:
        raise Refused("not merged: something would be lost", findings=findings)
    renamed = _told_apart(given)
    left = [f"{what}: {field}" for what, document in given for field in ("signature",) if field in document]
    components: dict[str, Document] = {}
    anonymous: list[Document] = []
    edges: dict[str, dict[str, Any]] = {}
    roots = []
    lists: dict[str, list[Any]] = {}
    for what, document in renamed:
        root = _root(what, document)
        roots.append(root["bom-ref"])
        for part in (root, *(document.get("components") or ())):
            if "bom-ref" in part:
                components.setdefault(part["bom-ref"], part)
            else:
                anonymous.append(part)
        for edge in document.get("dependencies") or ():
            _join(edges, edge)
        for field in _LISTS:
            lists.setdefault(field, []).extend(document.get(field) or ())
        left += [f"{what}: metadata {field}" for field in _left(document)]
    edges[ROOT_REF] = {"ref": ROOT_REF, "dependsOn": sorted(set(roots))}
    version_of = max(str(document["specVersion"]) for _, document in given)
    made: Document = {
        "$schema": f"http://cyclonedx.org/schema/bom-{version_of}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": version_of,
        "serialNumber": f"urn:uuid:{_serial(given, name, version)}",
        "version": 1,
        "metadata": _metadata(given, name, version),
        "components": [*(components[ref] for ref in sorted(components)), *_distinct(anonymous)],
        "dependencies": [edges[ref] for ref in sorted(edges)],
    }
    lists["externalReferences"] += [_origin(document) for _, document in given]
    made |= {field: _distinct(values) for field, values in lists.items() if values}
    return Merged(document=made, left_out=tuple(left))


def _unmergeable(what: str, document: Document) -> Iterable[Finding]:
    for field in sorted(set(document) - _OWN - {*_LISTS, "signature"}):
        want = (
            "no vulnerabilities: they are no part of an SBOM"
            if field == "vulnerabilities"
            else "no such section"
        )
        yield Finding("sbom.merge.section", f"{what} {field}", want=want, got="one")


def _told_apart(given: list[tuple[str, Document]]) -> list[tuple[str, Document]]:
    """Rename references that mean another thing in an earlier document; "release" is in every BOM of ours."""
    seen: dict[str, bytes] = {ROOT_REF: b""}
    found = []
    for what, document in given:
        own: dict[str, bytes] = {}
        names: dict[str, str] = {}
        mark = _link(document).removeprefix("urn:cdx:")
        for ref, part in _parts(document):
            body = cyclonedx.canonical(part)
            if seen.get(ref, body) != body:
                names[ref] = f"{mark}#{ref}"
            own[names.get(ref, ref)] = body
        seen |= own
        found.append((what, _rename(document, names) if names else document))
    return found


def _parts(document: Document) -> Iterable[tuple[str, Document]]:
    """Every object with a ``bom-ref``, wherever it lies; the root of each document stands for its whole."""
    waiting: list[Any] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("bom-ref"), str):
                whole = document if value is (document.get("metadata") or {}).get("component") else value
                yield value["bom-ref"], whole
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _rename(value: Any, names: dict[str, str], key: str = "") -> Any:
    if isinstance(value, dict):
        return {field: _rename(inner, names, field) for field, inner in value.items()}
    if isinstance(value, list):
        return [_rename(inner, names, key if key in _REF_LISTS else "") for inner in value]
    if isinstance(value, str) and (key in _REFS or key in _REF_LISTS):
        return names.get(value, value)
    return value


def _root(what: str, document: Document) -> Document:
    """Return the thing that a document is about, with what only its metadata said of it."""
    metadata = document.get("metadata") or {}
    root = dict(metadata.get("component") or {"type": "application", "name": what})
    root.setdefault("bom-ref", f"{_link(document).removeprefix('urn:cdx:')}#")
    for field in _PARTIES:
        if field in metadata:
            root.setdefault(field, metadata[field])
    for field in ("licenses", "properties"):
        if metadata.get(field):
            root[field] = [*(root.get(field) or ()), *metadata[field]] if field == "properties" else (
                root.get(field) or metadata[field]
            )  # fmt: skip
    return root


def _left(document: Document) -> list[str]:
    kept = {"timestamp", "tools", "lifecycles", "component", "licenses", "properties", *_PARTIES}
    return sorted(set(document.get("metadata") or {}) - kept)


def _join(edges: dict[str, dict[str, Any]], edge: Document) -> None:
    ref = str(edge["ref"])
    known = edges.setdefault(ref, {"ref": ref})
    for field in ("dependsOn", "provides"):
        if field in edge or field in known:
            known[field] = sorted({*known.get(field, ()), *edge.get(field, ())})


def _metadata(given: list[tuple[str, Document]], name: str, version: str) -> Document:
    times = [_time(document) for _, document in given]
    lifecycles = [
        one for _, document in given for one in (document.get("metadata") or {}).get("lifecycles") or ()
    ]
    tools = [one for _, document in given for one in _tools(document)]
    made: Document = {
        "timestamp": max(times).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "component": {
            "bom-ref": ROOT_REF,
            "type": "application",
            "name": name,
            "version": version,
            "properties": [{"name": "tallystick:without-file", "value": "true"}],
        },
    }
    if lifecycles:
        made["lifecycles"] = _once(lifecycles)
    if tools:
        made["tools"] = {"components": _once(tools)}
    makers = _once(
        [who for _, document in given if (who := (document.get("metadata") or {}).get("manufacturer"))]
    )
    if len(makers) == 1:
        made["manufacturer"] = makers[0]
    return made


def _tools(document: Document) -> list[Document]:
    """Tools as components; the older form, which is a list, becomes them."""
    tools = (document.get("metadata") or {}).get("tools") or {}
    if isinstance(tools, dict):
        return list(tools.get("components") or ())
    kept = ("name", "version", "hashes", "externalReferences")
    return [
        {"type": "application"} | {key: one[key] for key in kept if key in one}
        for one in tools
        if "name" in one
    ]


def _once(values: list[Any]) -> list[Any]:
    return sorted(_distinct(values), key=lambda value: cyclonedx.canonical({"": value}))


def _distinct(values: list[Any]) -> list[Any]:
    """Return the values in their order, each once: the schema asks for that, and equal ones say nothing more."""
    return list({cyclonedx.canonical({"": value}): value for value in values}.values())


def _origin(document: Document) -> Document:
    hashes = [cyclonedx.hash_of(Digest.of(cyclonedx.canonical(document)))]
    return {
        "type": "bom",
        "url": _link(document),
        "hashes": hashes,
        "comment": "merged from; hash of its RFC 8785 bytes",
    }


def _link(document: Document) -> str:
    serial = str(document.get("serialNumber") or "").removeprefix("urn:uuid:")
    serial = serial or str(uuid.uuid5(_SERIAL_SPACE, Digest.of(cyclonedx.canonical(document)).hex))
    return f"urn:cdx:{serial}/{document.get('version', 1)}"


def _serial(given: list[tuple[str, Document]], name: str, version: str) -> uuid.UUID:
    digests = [Digest.of(cyclonedx.canonical(document)).hex for _, document in given]
    return uuid.uuid5(_SERIAL_SPACE, "\n".join([name, version, *digests]))


def _time(document: Document) -> datetime:
    text = (document.get("metadata") or {}).get("timestamp")
    return datetime.fromisoformat(text).astimezone(UTC) if text else datetime.fromtimestamp(0, UTC)
