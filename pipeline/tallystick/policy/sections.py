"""The parts of a policy that say what a machine must show: platforms, devices, denials, placement, waivers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime

from tallystick.core.expect import (
    AtLeast,
    AtLeastVersion,
    Exactly,
    Excludes,
    Expect,
    Includes,
    NoneOf,
    OneOf,
    Only,
    version_of,
)
from tallystick.formats.yamldoc import Fields, Node
from tallystick.policy.model import DeviceChoice, PlacementChoice, PlatformChoice, Waiver
from tallystick.policy.normal import Denial
from tallystick.policy.platforms import PLACES, ClaimType, Platform, Strength, platform

NAME = (r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "lower-case letters, digits and inner hyphens, at most 63")
TIME = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z",
    "a time in UTC such as 2027-01-31T00:00:00Z",
)
LINE = (r"[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f\u2028\u2029]{0,255}", "one line of text")
_WHO = (LINE[0], "who decided, in one line")
_DAY = (r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "a day such as 2027-01-31")
_REQUIREMENT = (r"[a-z0-9][a-z0-9._-]{0,127}", "the name of a requirement")
_PLACE = (r"[!-~]{1,256}", "an exact name, without spaces")
_LISTS = ("only", "includes", "excludes")
_MOST_DEVICES = 64


def some(fields: Fields, name: str, pattern: str, want: str) -> list[str]:
    """Return a list of at least one text: an empty list never means all."""
    node = fields.peek(name)
    found = fields.texts(name, pattern, want)
    if not found:
        raise fields.bad(name, node, want="at least one")
    return found


def tables(fields: Fields, name: str) -> list[Fields]:
    """Return a list of at least one mapping."""
    node = fields.peek(name)
    found = fields.tables(name)
    if not found:
        raise fields.bad(name, node, want="at least one")
    return found


def time(fields: Fields, name: str) -> datetime:
    """Return an instant in UTC."""
    node = fields.peek(name)
    text = fields.text(name, *TIME)
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise fields.bad(name, node, want="a day and time that exist") from None


def day(fields: Fields, name: str) -> date:
    """Return a day."""
    node = fields.peek(name)
    text = fields.text(name, *_DAY)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise fields.bad(name, node, want="a day that exists") from None


def waivers(fields: Fields) -> tuple[Waiver, ...]:
    """Return the waivers in the field ``waivers``, sorted by requirement, each once."""
    found: dict[str, Waiver] = {}
    for row in fields.tables("waivers"):
        node = row.peek("requirement")
        waiver = Waiver(
            requirement=row.text("requirement", *_REQUIREMENT),
            decision=row.text("decision", r"[!-~]{1,256}", "where the decision is written down"),
            decided_by=row.text("decided_by", *_WHO),
            until=time(row, "until"),
            place=row.place,
        )
        row.end()
        if waiver.requirement in found:
            raise row.bad("requirement", node, want="each requirement once")
        found[waiver.requirement] = waiver
    return tuple(found[name] for name in sorted(found))


def platforms(fields: Fields) -> tuple[PlatformChoice, ...]:
    """Return the field ``platforms``: at least one, sorted by name, each once."""
    found: dict[str, PlatformChoice] = {}
    for row in tables(fields, "platforms"):
        node, known = _known(row, "platform", found)
        if known.device:
            raise row.bad("platform", node, want="a machine; devices stand under `devices` of one")
        found[known.name] = PlatformChoice(
            platform=known.name,
            roots=tuple(sorted(some(row, "roots", *NAME))),
            require=_require(row.table("require"), known),
            deny=_denials(row, known),
            placement=_placement(row, known),
            devices=_devices(row),
            place=node.place,
        )
        row.end()
    return tuple(found[name] for name in sorted(found))


def _known(row: Fields, name: str, found: Mapping[str, object]) -> tuple[Node, Platform]:
    node = row.peek(name)
    known = platform(row.text(name, *NAME), at=f"{name} ({node.place})")
    if known.name in found:
        raise row.bad(name, node, want=f"each {name} once")
    return node, known


def _devices(fields: Fields) -> tuple[DeviceChoice, ...]:
    found: dict[str, DeviceChoice] = {}
    for row in tables(fields, "devices") if fields.has("devices") else ():
        node, known = _known(row, "device", found)
        if not known.device:
            raise row.bad("device", node, want="a device, such as nvidia-gpu")
        found[known.name] = DeviceChoice(
            platform=known.name,
            roots=tuple(sorted(some(row, "roots", *NAME))),
            least=row.integer("at_least", 1, _MOST_DEVICES),
            require=_require(row.table("require"), known),
            deny=_denials(row, known),
            place=node.place,
        )
        row.end()
    return tuple(found[name] for name in sorted(found))


def _placement(fields: Fields, known: Platform) -> tuple[PlacementChoice, ...]:
    if not fields.has("placement"):
        return ()
    table, found = fields.table("placement"), []
    for name in PLACES:
        if table.has(name):
            row = table.table(name)
            node = row.peek("strength")
            strengths = [strength.value for strength in Strength]
            strength = Strength(row.text("strength", "|".join(strengths), "one of " + ", ".join(strengths)))
            claim = known.place(name)
            if claim is not None and not claim.strength.covers(strength):
                want = f"at most {claim.strength.value}, which is what {known.name} has for {name}"
                raise row.bad("strength", node, want=want)
            values = tuple(sorted(some(row, "one_of", *_PLACE)))
            found.append(PlacementChoice(name=name, values=values, strength=strength, place=row.place))
            row.end()
    table.end()
    return tuple(sorted(found, key=lambda one: one.name))


def _denials(fields: Fields, known: Platform) -> tuple[Denial, ...]:
    found: dict[str, Denial] = {}
    for row in tables(fields, "deny") if fields.has("deny") else ():
        node, claim = row.peek("name"), row.peek("claim")
        name, path = row.text("name", *NAME), row.text("claim")
        kind = known.claim_type(path)
        if kind is None:
            raise row.bad("claim", claim, want=f"a claim that evidence of {known.name} has")
        if name in found:
            raise row.bad("name", node, want="each name once")
        values = row.take("values")
        if not isinstance(values.value, list) or not values.value:
            raise row.bad("values", values, want="a list of at least one value")
        denied = {_claim(row, "values", item, kind) for item in values.value}
        found[name] = Denial(
            name=name,
            claim=path,
            values=tuple(sorted(denied)),
            reason=row.text("reason", LINE[0], "why, in one line"),
            since=day(row, "since"),
        )
        row.end()
    return tuple(found[name] for name in sorted(found))


def _require(fields: Fields, known: Platform) -> tuple[tuple[str, Expect], ...]:
    found: list[tuple[str, Expect]] = []
    for path, node in fields.rest().items():
        kind = known.claim_type(path)
        if kind is None:
            raise fields.bad(path, node, want=f"a claim that evidence of {known.name} has")
        found.append((path, _expectation(fields, path, node, kind)))
    return tuple(sorted(found, key=lambda pair: pair[0]))


def _expectation(fields: Fields, path: str, node: Node, kind: ClaimType) -> Expect:
    value = node.value
    if isinstance(value, dict) and len(value) == 1:
        (word, inner), *_ = value.items()
        made = _list_of(fields, path, word, inner, kind)
        if made is not None:
            return made
        if word == "at_least" and kind is ClaimType.INTEGER:
            return AtLeast(int(_claim(fields, path, inner, kind)))
        if word == "at_least_version" and kind is ClaimType.TEXT and version_of(inner.value) is not None:
            return AtLeastVersion(str(inner.value))
    if kind is ClaimType.TEXTS:
        raise fields.bad(
            path, node, want="one of {only: [...]}, {includes: [...]}, {excludes: [...]} of texts"
        )
    return Exactly(_claim(fields, path, node, kind))


def _list_of(fields: Fields, path: str, word: str, node: Node, kind: ClaimType) -> Expect | None:
    """Return an expectation that is a list of values; None when ``word`` begins none for this type."""
    if not isinstance(node.value, list):
        return None
    wanted = word in _LISTS if kind is ClaimType.TEXTS else word in {"one_of", "none_of"}
    if not wanted:
        return None
    values = {_claim(fields, path, item, kind) for item in node.value}
    if not values and word != "only":
        raise fields.bad(path, node, want="at least one value")
    texts = tuple(sorted(map(str, values)))
    match word:
        case "only":
            return Only(texts)
        case "includes":
            return Includes(texts)
        case "excludes":
            return Excludes(texts)
        case _:
            scalars = tuple(sorted(values, key=str))
            return OneOf(scalars) if word == "one_of" else NoneOf(scalars)


def _claim(fields: Fields, path: str, node: Node, kind: ClaimType) -> bool | int | str:
    if not kind.holds(node.value):
        others = {
            ClaimType.INTEGER: ", {at_least: number}",
            ClaimType.TEXT: ", {at_least_version: version}",
        }.get(kind, "")
        want = f"{kind.want}{others}, or {{one_of: [...]}} or {{none_of: [...]}} of these"
        raise fields.bad(path, node, want=want)
    found: bool | int | str = node.value
    return found
