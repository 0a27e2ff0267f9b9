"""CycloneDX JSON as plain documents: read strictly, written to the same bytes every time, references walked.

Documents stay plain JSON on purpose: the typed model of cyclonedx-python-lib drops sections that it does
not know (compositions, formulation, model cards), so a document that went through it has lost statements.

Source: CycloneDX 1.6 (ECMA-424) and 1.7, the JSON schemas and the reference guide.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Unsupported

PREDICATE_TYPE = "https://cyclonedx.org/bom"  # of an in-toto statement that holds a BOM
SPEC_VERSIONS = ("1.6", "1.7")
MAX_BYTES = 256 << 20

Document = dict[str, Any]

_HASH_NAMES = {Algorithm.SHA256: "SHA-256", Algorithm.SHA384: "SHA-384", Algorithm.SHA512: "SHA-512"}
_WORD = re.compile(r"\s*(\(|\)|[A-Za-z0-9.\-]+(?::[A-Za-z0-9.\-]+)?\+?)")
_OWN_LICENCE = re.compile(r"(DocumentRef-[A-Za-z0-9.\-]+:)?LicenseRef-[A-Za-z0-9.\-]+")

# Where one part of a document names another by its bom-ref: the key of a list, or of one text.
_NESTED = (dict, list)
_WITHOUT_REFS = {"hashes", "properties"}  # nothing in them can name or be named
_Place = tuple[Any, ...]  # () or (the place around it, key or index)
_LISTS = {"dependsOn", "provides", "assemblies", "vulnerabilities", "subjects", "dependencies"}


def parse(data: bytes, what: str = "SBOM") -> Document:
    """Return the BOM that the JSON text ``data`` holds.

    Raises:
        Malformed: not JSON, or no BOM at all. Whether it follows the schema is ``sbom.check``'s question.
        Unsupported: a version of CycloneDX that is not read here.
    """
    return checked(jsondoc.loads(data, what, max_bytes=MAX_BYTES), what)


def checked(document: object, what: str = "SBOM") -> Document:
    """Return ``document`` when it says that it is a BOM of a version read here."""
    if not isinstance(document, dict) or document.get("bomFormat") != "CycloneDX":
        raise Malformed(what, at="bomFormat", want="CycloneDX", got="something else")
    if document.get("specVersion") not in SPEC_VERSIONS:
        got = repr(document.get("specVersion"))
        raise Unsupported(what, at="specVersion", want=" or ".join(SPEC_VERSIONS), got=got)
    return document


def canonical(document: Document) -> bytes:
    """Return the bytes of ``document``: sorted keys, no spaces.

    These are the RFC 8785 bytes as long as keys are ASCII and numbers are whole, which is all that is ever
    written here (``core.jsondoc.is_plain``).
    """
    return jsondoc.canonical(document)


def hash_of(digest: Digest) -> dict[str, str]:
    """Return ``digest`` as CycloneDX writes it."""
    return {"alg": _HASH_NAMES[digest.algorithm], "content": digest.hex}


def licences(text: str, spdx_ids: Container[str], acknowledgement: str) -> list[Document]:
    """Return the ``licenses`` of a component whose licence is ``text``.

    A text that is not an SPDX expression over known identifiers stays a name: it is not guessed at.

    Args:
        acknowledgement: "concluded" where a person looked, "declared" where the component says so itself.
    """
    if text in ("", "NOASSERTION", "NONE"):
        return []
    if is_expression(text, spdx_ids):
        return [{"expression": text, "acknowledgement": acknowledgement}]
    return [{"license": {"name": text, "acknowledgement": acknowledgement}}]


def is_expression(text: str, spdx_ids: Container[str]) -> bool:
    """Say whether ``text`` is an SPDX licence expression.

    Source: SPDX 2.3, Annex D. Operators are upper case, and ``WITH`` takes one exception.
    """
    words, at = [], 0
    while match := _WORD.match(text, at):
        words.append(match[1])
        at = match.end()
    if text[at:].strip() or not words:
        return False
    depth, wants_term = 0, True
    for before, word in zip(["", *words], words, strict=False):
        if word in ("AND", "OR", "WITH"):
            if wants_term or (word == "WITH" and before == ")"):
                return False
            wants_term = True
        elif word == "(":
            if not wants_term or before == "WITH":
                return False
            depth += 1
        elif word == ")":
            depth -= 1
            if wants_term or depth < 0:
                return False
        elif not wants_term or not _is_licence(word, spdx_ids):
            return False
        else:
            wants_term = False
    return depth == 0 and not wants_term


def components(document: Document) -> Iterator[Document]:
    """Every component, the nested ones and those of the metadata too, in document order."""
    metadata = document.get("metadata")
    waiting: list[Any] = list(reversed(document.get("components") or []))
    if isinstance(metadata, dict) and isinstance(metadata.get("component"), dict):
        waiting.append(metadata["component"])
    while waiting:
        component = waiting.pop()
        if isinstance(component, dict):
            yield component
            nested = component.get("components")
            waiting += reversed(nested if isinstance(nested, list) else [])


def references(document: Document) -> tuple[list[str], list[tuple[str, str]]]:
    """Return every ``bom-ref`` that the document defines, and every (place, bom-ref) that it uses."""
    defined: list[str] = []
    used: list[tuple[str, str]] = []
    waiting: list[tuple[_Place, Any]] = [((), document)]
    while waiting:
        place, value = waiting.pop()
        if type(value) is list:
            waiting += [((place, index), item) for index, item in enumerate(value) if type(item) in _NESTED]
            continue
        for key, item in value.items():
            if type(item) is str:
                if key == "bom-ref":
                    defined.append(item)
                elif key == "ref" and _words(place).startswith("dependencies["):
                    used.append((_words((place, key)), item))
            elif key not in _WITHOUT_REFS and type(item) in _NESTED:
                if key in _LISTS and type(item) is list and all(type(one) is str for one in item):
                    used += [(_words(((place, key), index)), one) for index, one in enumerate(item)]
                else:
                    waiting.append(((place, key), item))
    return defined, used


def _words(place: _Place) -> str:
    """Return the place as people read it: ``dependencies[3].ref``. Most places are never asked for."""
    steps: list[str] = []
    while place:
        place, step = place
        steps.append(f"[{step}]" if type(step) is int else f".{step}")
    return "".join(reversed(steps)).removeprefix(".")


def property_of(part: Document, name: str) -> str | None:
    """Return the value of the first property called ``name``, or None."""
    for item in part.get("properties") or []:
        if item.get("name") == name:
            value = item.get("value")
            return value if isinstance(value, str) else None
    return None


def _is_licence(word: str, spdx_ids: Container[str]) -> bool:
    return word.removesuffix("+") in spdx_ids or _OWN_LICENCE.fullmatch(word) is not None
