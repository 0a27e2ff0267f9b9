"""Known vulnerabilities in files: OSV records, and OpenVEX statements about them. Read; nothing is believed here.

Source: ossf/osv-schema 1.7 (fields ``id``, ``aliases``, ``affected``: ``package``, ``versions``, ``ranges``);
OpenVEX 0.2.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported

_OPENVEX = "https://openvex.dev/ns"
_MAX_BYTES = 256 << 20
STATUSES = ("not_affected", "affected", "fixed", "under_investigation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Versions from ``introduced`` on, up to but without ``fixed``, or with ``last``; "" is open."""

    introduced: str
    fixed: str
    last: str


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
    """One OpenVEX statement."""

    names: tuple[str, ...]  # of the vulnerability
    products: tuple[str, ...]  # purls, as written
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What one file says."""

    advisories: tuple[Advisory, ...]
    verdicts: tuple[Verdict, ...]


def parse(data: bytes, what: str = "advisories") -> Document:
    """Return what the file says: one OSV record, a list of them, ``{"vulns": […]}``, or an OpenVEX document.

    Raises:
        Malformed: a field missing or of another type.
        Unsupported: neither format; withdrawn OSV records are left out.
    """
    document = jsondoc.loads(data, what, max_bytes=_MAX_BYTES)
    if isinstance(document, dict) and str(document.get("@context", "")).startswith(_OPENVEX):
        return Document(advisories=(), verdicts=_verdicts(document, what))
    records = document.get("vulns") if isinstance(document, dict) and "vulns" in document else document
    records = [records] if isinstance(records, dict) else records
    if not isinstance(records, list) or not all(isinstance(one, dict) and "id" in one for one in records):
        raise Unsupported(what, at="document", want="OSV or OpenVEX", got=type(document).__name__)
    return Document(
        advisories=tuple(_advisory(one, what) for one in records if not one.get("withdrawn")), verdicts=()
    )


def plain_purl(purl: str) -> str:
    """Return ``purl`` without version, qualifiers and subpath."""
    scoped = purl.startswith("pkg:npm/@")  # the one "@" that is no version's
    start = len("pkg:npm/@") if scoped else 0
    return purl[:start] + re.split(r"[@?#]", purl[start:], maxsplit=1)[0]


def holds(affected: Affected, version: str) -> bool:
    """Say whether ``version`` is affected. What can not be told apart counts as affected."""
    if not affected.versions and not affected.ranges:
        return True
    if version in affected.versions:
        return True
    order = _debian if affected.ecosystem.startswith(("Debian", "Ubuntu")) else _plain
    mine = order(version)
    for one in affected.ranges:
        if one.introduced not in ("", "0") and mine < order(one.introduced):
            continue
        if one.fixed and mine >= order(one.fixed):
            continue
        if one.last and mine > order(one.last):
            continue
        return True
    return False


def _advisory(record: dict[str, Any], what: str) -> Advisory:
    affected = record.get("affected", [])
    if not isinstance(affected, list):
        raise Malformed(what, at=f"{record['id']}.affected", want="a list", got=type(affected).__name__)
    try:
        return Advisory(
            id=_text(record["id"]),
            aliases=tuple(_text(alias) for alias in record.get("aliases") or ()),
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
    """Return the intervals between the events. Commits are not versions: of a GIT range everything is affected."""
    if spec["type"] == "GIT":
        return []
    found, start = [], ""
    for event in spec["events"]:
        if "introduced" in event:
            start = _text(event["introduced"])
        elif "fixed" in event:
            found.append(Range(introduced=start, fixed=_text(event["fixed"]), last=""))
            start = ""
        elif "last_affected" in event:
            found.append(Range(introduced=start, fixed="", last=_text(event["last_affected"])))
            start = ""
    if start:
        found.append(Range(introduced=start, fixed="", last=""))
    return found


def _verdicts(document: dict[str, Any], what: str) -> tuple[Verdict, ...]:
    statements = document.get("statements")
    if not isinstance(statements, list):
        raise Malformed(what, at="statements", want="a list", got=type(statements).__name__)
    found = []
    for index, one in enumerate(statements):
        try:
            said = one["vulnerability"]
            names = (_text(said["name"]), *(_text(alias) for alias in said.get("aliases") or ()))
            products = tuple(_text(product["@id"]) for product in one["products"])
            status = _text(one["status"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Malformed(what, at=f"statements[{index}]", want="OpenVEX", got=str(error)) from None
        if status not in STATUSES or not products:
            raise Malformed(what, at=f"statements[{index}].status", want=", ".join(STATUSES), got=status)
        found.append(Verdict(names=names, products=products, status=status))
    return tuple(found)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"want a text, got {value!r:.60}")
    return value


_Key = tuple[int, tuple[tuple[tuple[int, ...], int], ...], tuple[tuple[tuple[int, ...], int], ...]]


def _debian(version: str) -> _Key:
    """Return a key that orders as dpkg does (deb-version(7)): epoch, upstream version, revision."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return (int(epoch) if epoch.isdecimal() else 0, _parts(upstream), _parts(revision))


def _plain(version: str) -> _Key:
    """Return a key for dotted versions, in which a pre-release comes before its release."""
    marked = re.sub(
        r"(?<=[0-9])[._-]?(?=(?:a|b|c|rc|alpha|beta|dev|pre)[0-9._-]*)", "~", version.split("+")[0]
    )
    return (0, _parts(marked), ())


def _parts(text: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    end = (0,)  # between "~", which comes first, and everything else
    found = []
    for words, digits in re.findall(r"([^0-9]*)([0-9]*)", text):
        if words or digits:
            found.append(((*(_weight(char) for char in words), *end), int(digits or 0)))
    found.append((end, 0))
    return tuple(found)


def _weight(char: str) -> int:
    if char == "~":
        return -1
    return ord(char) if char.isalpha() else ord(char) + 0x110000
