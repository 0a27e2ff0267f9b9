"""Known vulnerabilities in files: OSV records, and VEX statements about them. Read; nothing is believed here.

Source: ossf/osv-schema 1.7 (fields ``id``, ``aliases``, ``upstream``, ``affected``: ``package``, ``versions``,
``ranges``, and its algorithm "evaluation"); OpenVEX 0.2.0; CycloneDX 1.6, ``vulnerabilities.analysis`` and BOM-Link.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import cyclonedx, versions

_OPENVEX = "https://openvex.dev/ns"
_MAX_BYTES = 256 << 20
_EVENTS = ("introduced", "fixed", "last_affected", "limit")
NEVER = datetime.min.replace(tzinfo=UTC)  # of a statement that does not say when
_OPEN = ("", "0")  # "introduced": "0" is every version from the first one on
_STATES = {  # CycloneDX -> OpenVEX
    "resolved": "fixed",
    "resolved_with_pedigree": "fixed",
    "exploitable": "affected",
    "in_triage": "under_investigation",
    "false_positive": "not_affected",
    "not_affected": "not_affected",
}
STATUSES = ("not_affected", "affected", "fixed", "under_investigation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The events of one OSV range: (kind, version), in the record's order, which says nothing."""

    events: tuple[tuple[str, str], ...]  # kind: "introduced", "fixed", "last_affected" or "limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Affected:
    """A package and the versions of it that are affected; with neither versions nor ranges, all are."""

    ecosystem: str  # "Debian:12", "PyPI"
    name: str
    purl: str  # without version and qualifiers; "" when the record has none
    versions: tuple[str, ...]
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Advisory:
    """One OSV record."""

    id: str
    aliases: tuple[str, ...]
    affected: tuple[Affected, ...]

    def called(self, name: str) -> bool:
        """Say whether this is the vulnerability ``name``, by its id or an alias."""
        return name in (self.id, *self.aliases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One VEX statement."""

    names: tuple[str, ...]  # of the vulnerability
    products: tuple[str, ...]  # purls or BOM-Links, as written
    status: str  # one of STATUSES
    within: tuple[str, ...] = ()  # with any, only where they are a part of one of these
    at: datetime = NEVER  # when it was said; a later one replaces an earlier one


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What one file says."""

    advisories: tuple[Advisory, ...]
    verdicts: tuple[Verdict, ...]


def parse(data: bytes, what: str = "advisories") -> Document:
    """Return what the file says: one OSV record, a list of them, ``{"vulns": […]}``, an OpenVEX or a CycloneDX VEX.

    Raises:
        Malformed: a field missing or of another type.
        Unsupported: none of these formats; withdrawn OSV records are left out.
    """
    document = jsondoc.loads(data, what, max_bytes=_MAX_BYTES)
    if isinstance(document, dict) and str(document.get("@context", "")).startswith(_OPENVEX):
        return Document(advisories=(), verdicts=_verdicts(document, what))
    if (
        isinstance(document, dict)
        and document.get("bomFormat") == "CycloneDX"
        and "vulnerabilities" in document
    ):
        return Document(advisories=(), verdicts=_cyclonedx(document, what))
    records = document.get("vulns") if isinstance(document, dict) and "vulns" in document else document
    records = [records] if isinstance(records, dict) else records
    if not isinstance(records, list) or not all(isinstance(one, dict) and "id" in one for one in records):
        raise Unsupported(
            what, at="document", want="OSV, OpenVEX or CycloneDX VEX", got=type(document).__name__
        )
    return Document(
        advisories=tuple(_advisory(one, what) for one in records if not one.get("withdrawn")), verdicts=()
    )


def plain_purl(purl: str) -> str:
    """Return ``purl`` without version, qualifiers and subpath, and without percent signs: makers escape differently."""
    scoped = purl.startswith("pkg:npm/@")  # the one "@" that is no version's
    start = len("pkg:npm/@") if scoped else 0
    return unquote(purl[:start] + re.split(r"[@?#]", purl[start:], maxsplit=1)[0])


def holds(affected: Affected, version: str) -> bool:
    """Say whether ``version`` is affected. What can not be told apart counts as affected."""
    if not affected.versions and not affected.ranges:
        return True
    if version in affected.versions:
        return True
    mine = versions.key(affected.ecosystem, version)
    return any(mine is None or _inside(one, affected.ecosystem, mine) for one in affected.ranges)


def _inside(one: Range, ecosystem: str, mine: Any) -> bool:
    """OSV's own algorithm: the events in the order of their versions, each turning it on or off."""
    keyed = []
    for kind, version in one.events:
        if (place := versions.key(ecosystem, version)) is None and version not in _OPEN:
            return True  # an event with no place in the order leaves the range without ends
        keyed.append((kind, version in _OPEN, place))
    vulnerable = False
    starts: list[Any] = [place for kind, is_open, place in keyed if kind == "introduced" and not is_open]
    begun = [place for place in starts if mine >= place]
    if begun or any(kind == "introduced" and is_open for kind, is_open, _ in keyed):
        latest = max(begun) if begun else None
        ends = [(kind, place) for kind, _, place in keyed if kind != "introduced" and place is not None]
        after = [(kind, place) for kind, place in ends if latest is None or place >= latest]
        vulnerable = not any(
            mine > place if kind == "last_affected" else mine >= place for kind, place in after
        )
    return vulnerable


def _advisory(record: dict[str, Any], what: str) -> Advisory:
    affected = record.get("affected", [])
    if not isinstance(affected, list):
        raise Malformed(what, at=f"{record['id']}.affected", want="a list", got=type(affected).__name__)
    try:
        return Advisory(
            id=_text(record["id"]),
            aliases=tuple(
                _text(name) for field in ("aliases", "upstream") for name in record.get(field) or ()
            ),
            affected=tuple(_affected(one) for one in affected),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Malformed(what, at=str(record.get("id"))[:60], want="an OSV record", got=str(error)) from None


def _affected(one: dict[str, Any]) -> Affected:
    package = one["package"]
    ranges = [made for spec in one.get("ranges") or () for made in _ranges(spec)]
    return Affected(
        ecosystem=_text(package["ecosystem"]),
        name=_text(package["name"]),
        purl=plain_purl(_text(package.get("purl") or "")),
        versions=tuple(_text(version) for version in one.get("versions") or ()),
        ranges=tuple(ranges),
    )


def _ranges(spec: dict[str, Any]) -> list[Range]:
    """Return the range. Commits are not versions: of a GIT range alone, everything is affected."""
    if spec["type"] == "GIT":
        return []
    events = [(kind, _text(event[kind])) for event in spec["events"] for kind in _EVENTS if kind in event]
    if not any(kind == "introduced" for kind, _ in events):
        raise ValueError("want an event that says since when, got none")
    return [Range(events=tuple(event for event in events if event != ("limit", "*")))]


def _verdicts(document: dict[str, Any], what: str) -> tuple[Verdict, ...]:
    statements = document.get("statements")
    if not isinstance(statements, list):
        raise Malformed(what, at="statements", want="a list", got=type(statements).__name__)
    found = []
    for index, one in enumerate(statements):
        try:
            said = one["vulnerability"]
            names = (_text(said["name"]), *(_text(alias) for alias in said.get("aliases") or ()))
            products = tuple(name for product in one["products"] for name in _named(product))
            status, at = _text(one["status"]), _time(one.get("timestamp") or document.get("timestamp"))
            parts = [part for product in one["products"] for part in product.get("subcomponents") or ()]
            inner = tuple(name for part in parts for name in _named(part))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Malformed(what, at=f"statements[{index}]", want="OpenVEX", got=str(error)) from None
        if status not in STATUSES or not products:
            raise Malformed(what, at=f"statements[{index}].status", want=", ".join(STATUSES), got=status)
        about, within = (inner, products) if inner else (products, ())
        found.append(Verdict(names=names, products=about, status=status, within=within, at=at))
    return tuple(found)


def _named(product: dict[str, Any]) -> Iterator[str]:
    """OpenVEX names a product by ``@id``, by ``identifiers.purl``, or by both."""
    if (name := product.get("@id")) is not None:
        yield _text(name)
    if (purl := (product.get("identifiers") or {}).get("purl")) is not None:
        yield _text(purl)


def _cyclonedx(document: dict[str, Any], what: str) -> tuple[Verdict, ...]:
    """A VEX names components of its own by ``bom-ref``, and those of another BOM by BOM-Link."""
    listed = document["vulnerabilities"]
    if not isinstance(listed, list):
        raise Malformed(what, at="vulnerabilities", want="a list", got=type(listed).__name__)
    own = {str(part.get("bom-ref")): str(part.get("purl") or "") for part in cyclonedx.components(document)}
    found = []
    for index, one in enumerate(listed):
        try:
            names = (_text(one["id"]), *(_text(other["id"]) for other in one.get("references") or ()))
            refs = [_text(entry["ref"]) for entry in one.get("affects") or ()]
            state = _text(one["analysis"]["state"])
            at = _time(
                one["analysis"].get("lastUpdated") or (document.get("metadata") or {}).get("timestamp")
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            at_ = f"vulnerabilities[{index}]"
            raise Malformed(
                what, at=at_, want="an id, its state and what it affects", got=str(error)
            ) from None
        if state not in _STATES or not refs:
            at_ = f"vulnerabilities[{index}].analysis.state"
            raise Malformed(what, at=at_, want=", ".join(_STATES), got=state)
        products = tuple(own.get(ref) or ref for ref in refs)
        found.append(Verdict(names=names, products=products, status=_STATES[state], at=at))
    return tuple(found)


def _time(value: object) -> datetime:
    """Return the moment; where nobody said one, the earliest, which every other replaces."""
    if value is None:
        return NEVER
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError(f"want a time with its zone, got {value!r:.40}")
    return moment.astimezone(UTC)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"want a text, got {value!r:.60}")
    return value
