"""in-toto Statement v1: read strictly, write canonically.

Source: in-toto/attestation, spec/v1/statement.md, resource_descriptor.md and digest_set.md.

Plain JSON on purpose. The protobuf model turns every number into a float (``4`` comes back as ``4.0``), and
typed digest names refuse legitimate statements: a subject may be named by ``gitCommit`` or ``narHash``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Unsupported

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"  # DSSE payloadType of every statement
_WHAT = "in-toto statement"
_HEX_DIGITS = {algorithm.label: 2 * algorithm.size_bytes for algorithm in Algorithm}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a statement is about: a name and every digest it gives, those with unknown algorithms too."""

    name: str
    digests: tuple[tuple[str, str], ...]  # (algorithm name as written, value as written), sorted

    def has(self, digest: Digest) -> bool:
        """Say whether this subject names ``digest``, by its own algorithm."""
        return dict(self.digests).get(digest.algorithm.label) == digest.hex


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A parsed statement. ``document`` is all of it, unknown fields included."""

    subjects: tuple[Subject, ...]
    predicate_type: str
    predicate: dict[str, Any]
    document: dict[str, Any]

    def names(self, digest: Digest) -> bool:
        """Say whether some subject names ``digest``."""
        return any(subject.has(digest) for subject in self.subjects)


def parse(data: bytes, what: str = _WHAT) -> Statement:
    """Return the statement that the JSON text ``data`` holds.

    Fields that the specification does not know are kept in ``document`` and mean nothing here.

    Raises:
        Malformed: not JSON, a field missing or of another type, no subject, a subject without digest, or a
            digest of a known algorithm that is not its lower-case hex.
        Unsupported: another statement type or version.
    """
    return _statement(jsondoc.loads(data, what), what)


def _statement(document: Any, what: str) -> Statement:
    if not isinstance(document, dict):
        raise Malformed(what, at="document", want="an object", got=type(document).__name__)
    kind = _text(document, "_type", what, "document")
    if kind != STATEMENT_TYPE:
        raise Unsupported(what, at="_type", want=STATEMENT_TYPE, got=kind)
    predicate = document.get("predicate", {})  # statement.md: optional
    if not isinstance(predicate, dict):
        raise Malformed(what, at="predicate", want="an object", got=type(predicate).__name__)
    return Statement(
        subjects=_subjects(document.get("subject"), what),
        predicate_type=_text(document, "predicateType", what, "document"),
        predicate=predicate,
        document=document,
    )


def make(
    subjects: Iterable[tuple[str, Mapping[str, str]]],
    predicate_type: str,
    predicate: Mapping[str, Any],
    annotations: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the RFC 8785 bytes of a statement over ``subjects`` (name, digests by algorithm name).

    Args:
        annotations: of every subject; a Source VSA names the branches there.

    Raises:
        ValueError: what was given is no statement that :func:`parse` reads back, or holds a value that
            RFC 8785 can not write. A caller's bug, so not a TallystickError.
    """
    import rfc8785

    noted = {"annotations": dict(annotations)} if annotations else {}
    document: dict[str, Any] = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": dict(digests)} | noted for name, digests in subjects],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }
    try:
        if jsondoc.is_plain(document):
            data = jsondoc.canonical(document)
            _statement(document, "statement")
        else:
            data = rfc8785.dumps(document)
            parse(data)
    except (rfc8785.CanonicalizationError, Malformed) as error:
        raise ValueError(str(error)) from error
    return data


def _subjects(value: Any, what: str) -> tuple[Subject, ...]:
    if not isinstance(value, list) or not value:
        raise Malformed(what, at="subject", want="a list of at least one subject", got=repr(value))
    return tuple(_subject(item, what, f"subject[{index}]") for index, item in enumerate(value))


def _subject(value: Any, what: str, at: str) -> Subject:
    if not isinstance(value, dict):
        raise Malformed(what, at=at, want="an object", got=type(value).__name__)
    name = value.get("name", "")  # resource_descriptor.md: optional
    if not isinstance(name, str):
        raise Malformed(what, at=f"{at}.name", want="a text", got=type(name).__name__)
    digests = value.get("digest")
    if not isinstance(digests, dict) or not digests:
        raise Malformed(what, at=f"{at}.digest", want="at least one digest", got=repr(digests))
    for algorithm, text in digests.items():
        _check_digest(algorithm, text, what, f"{at}.digest.{algorithm}")
    return Subject(name=name, digests=tuple(sorted(digests.items())))


def _check_digest(algorithm: str, text: Any, what: str, at: str) -> None:
    """Hold a known algorithm to its hex; a name we do not know only has to have a value."""
    if not isinstance(text, str) or not text:
        raise Malformed(what, at=at, want="a text", got=repr(text))
    digits = _HEX_DIGITS.get(algorithm)
    if digits is not None and re.fullmatch(f"[0-9a-f]{{{digits}}}", text) is None:
        raise Malformed(what, at=at, want=f"{digits} lower-case hex digits", got=text)


def _text(document: dict[str, Any], name: str, what: str, at: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise Malformed(what, at=f"{at}.{name}", want="a text", got=repr(value))
    return value
