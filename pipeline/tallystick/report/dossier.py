"""The compliance dossier: clauses, the evidence that speaks to each, and what attestation does not cover.

Every piece of evidence is a digest and a place where its bytes lie; ``check`` reads them all again. A line says
"evidenced" only when each kind that it rests on is there: taking a piece away turns the line red.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.findings import Finding

SCHEMA = "tallystick/dossier/v1"
KINDS = {  # kind -> what it is; the catalogue names no other
    "release": "release index: every file of the release by digest",
    "sbom": "CycloneDX SBOM, a signed statement",
    "provenance": "SLSA provenance, a signed statement",
    "measurements": "release tuples, a signed statement",
    "contents": "contents list of a product",
    "signature": "Sigstore bundle over a statement",
    "rebuild": "in-toto link of an independent rebuild",
    "verdict": "VSA of the promotion, a signed statement",
    "policy": "policy as people wrote it",
    "compiled": "compiled policy in force",
    "revocation": "one person's revocation",
    "approval": "channel metadata, signed by the author and the approvers",
    "people": "channel root: who holds keys, and how many must sign",
    "roots": "trust file: pinned roots, identities and thresholds",
    "attestation": "leaf: evidence was genuine, fresh and bound",
    "key-release": "leaf: a key left, wrapped",
    "refusal": "leaf: a key, an attestation or an enrolment was refused",
    "key-custody": "leaf: a key was generated, imported, rotated or destroyed",
    "log-head": "root of the transparency log",
}
NOT_COVERED = (
    "Attestation says which code was launched, not that the code is right: faults of a release are attested with it.",
    "The hardware maker is trusted: whoever can forge its signatures can forge evidence.",
    "Side channels, physical attacks beyond the maker's claims, denial of service by the host, and traffic analysis.",
    "A key that left can not be called back; revocation stops the next release of it.",
    "What a workload does with data once it has the key, and what it writes outside of encrypted artifacts.",
    "People: who may see the application, their training, contracts, legal bases, the organisation's own procedures.",
    "State that is loaded after the launch and measured nowhere.",
    "Systems outside of the measured images, the broker's own host among them.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One piece of evidence."""

    kind: str  # one of KINDS
    what: str  # for people
    digest: Digest
    where: str  # "channel:targets/…", "trust:", "log:leaf/7", "log:head/42"

    @property
    def id(self) -> str:
        """How lines name it."""
        return f"{self.kind}:{self.digest.hex[:16]}"

    def document(self) -> dict[str, str]:
        """Return it as a JSON value."""
        return {
            "id": self.id,
            "kind": self.kind,
            "what": self.what,
            "digest": str(self.digest),
            "where": self.where,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One clause."""

    clause: str
    title: str
    how: str
    left: str  # with the organisation
    evidence: tuple[str, ...]  # ids of items
    missing: tuple[str, ...]  # kinds that nothing was found of

    @property
    def evidenced(self) -> bool:
        """Whether every kind is there."""
        return not self.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """One catalogue of clauses."""

    id: str
    name: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dossier:
    """All of it."""

    made_at: datetime
    made_by: str
    channel: str
    frameworks: tuple[Framework, ...]
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the dossier as its JSON document."""
        return {
            "schema": SCHEMA,
            "made_at": f"{self.made_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "made_by": self.made_by,
            "channel": self.channel,
            "catalogue": str(catalogue_digest()),
            "frameworks": [_framework(one) for one in self.frameworks],
            "evidence": [one.document() for one in self.items],
            "notes": list(self.notes),
            "not_covered": list(NOT_COVERED),
        }


def make(
    items: Iterable[Item], *, channel: str, made_at: datetime, made_by: str, notes: Iterable[str] = ()
) -> Dossier:
    """Return the dossier that ``items`` amount to."""
    found = tuple(dict.fromkeys(sorted(items, key=lambda one: (list(KINDS).index(one.kind), one.where))))
    ids: dict[str, list[str]] = {}
    for one in found:
        ids.setdefault(one.kind, []).append(one.id)
    return Dossier(
        made_at=made_at,
        made_by=made_by,
        channel=channel,
        frameworks=tuple(
            Framework(
                id=entry["id"],
                name=entry["name"],
                lines=tuple(_line(line, ids) for line in entry["lines"]),
            )
            for entry in _catalogue()["framework"]
        ),
        items=found,
        notes=tuple(notes),
    )


def check(data: bytes, resolve: Callable[[str], bytes | None], *, channel: str) -> Iterator[Finding]:
    """Yield what in the dossier ``data`` does not resolve or does not follow; nothing when all of it holds.

    Args:
        resolve: gives the bytes at a place; None when nothing is there. A place in a log gives the leaf, or the root.

    Raises:
        Malformed: no dossier. Unsupported: of another version, or made with another catalogue.
    """
    document, items = _parse(data)
    if document["channel"] != channel:
        yield Finding("dossier.channel", "channel", channel, document["channel"])
    for one in items:
        found = resolve(one.where)
        # the log's head is no file: its root is the digest itself
        got = None if found is None else found.hex() if one.kind == "log-head" else Digest.of(found).hex
        if got != one.digest.hex:
            yield Finding(
                "dossier.evidence", one.where, str(one.digest), "nothing" if got is None else f"sha256:{got}"
            )
    said = make(
        items,
        channel=document["channel"],
        made_at=datetime.fromisoformat(document["made_at"]),
        made_by=document["made_by"],
        notes=document["notes"],
    ).document()
    for name in said:
        if document.get(name) != said[name]:
            yield Finding("dossier.altered", name, "what follows from the evidence", "something else")


def catalogue_digest() -> Digest:
    """Return the digest of the catalogue of clauses."""
    return Digest.of(_catalogue_bytes())


@cache
def _catalogue_bytes() -> bytes:
    return resources.files("tallystick.report").joinpath("controls.toml").read_bytes()


@cache
def _catalogue() -> Mapping[str, Any]:
    return tomllib.loads(_catalogue_bytes().decode("utf-8"))


def _line(line: list[Any], ids: Mapping[str, list[str]]) -> Line:
    clause, title, how, kinds, left = line
    return Line(
        clause=clause,
        title=title,
        how=how,
        left=left,
        evidence=tuple(one for kind in kinds for one in ids.get(kind, ())),
        missing=tuple(kind for kind in kinds if kind not in ids),
    )


def _framework(one: Framework) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "lines": [
            {
                "clause": line.clause,
                "title": line.title,
                "how": line.how,
                "left": line.left,
                "evidenced": line.evidenced,
                "evidence": list(line.evidence),
                "missing": list(line.missing),
            }
            for line in one.lines
        ],
    }


def _parse(data: bytes) -> tuple[dict[str, Any], tuple[Item, ...]]:
    what = "dossier"
    document = jsondoc.loads(data, what)
    if not isinstance(document, dict):
        raise Malformed(what, at="document", want="an object", got=type(document).__name__)
    if document.get("schema") != SCHEMA:
        raise Unsupported(what, at="schema", want=SCHEMA, got=str(document.get("schema")))
    if document.get("catalogue") != str(catalogue_digest()):
        raise Unsupported(
            what, at="catalogue", want=str(catalogue_digest()), got=str(document.get("catalogue"))
        )
    texts = ("made_at", "made_by", "channel")
    lists = ("evidence", "notes")
    good = all(isinstance(document.get(name), str) for name in texts)
    good = good and all(isinstance(document.get(name), list) for name in lists)
    try:
        if not good or not all(isinstance(note, str) for note in document["notes"]):
            raise ValueError("fields")
        if datetime.fromisoformat(document["made_at"]).tzinfo is None:
            raise ValueError("no time zone")
        items = tuple(_item(entry) for entry in document["evidence"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Malformed(
            what, at="evidence", want="times, texts, kinds, digests and places", got="others"
        ) from None
    return document, items


def _item(entry: Mapping[str, str]) -> Item:
    if (
        entry["kind"] not in KINDS
        or not isinstance(entry["what"], str)
        or not isinstance(entry["where"], str)
    ):
        raise ValueError("no kind of evidence")
    return Item(
        kind=entry["kind"], what=entry["what"], digest=Digest.parse(entry["digest"]), where=entry["where"]
    )
