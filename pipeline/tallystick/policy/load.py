"""A policy file's bytes, to a :class:`Policy`. Every field is required: there are no defaults.

Source: docs/policies.md and docs/schemas/policy.schema.json.
"""

from __future__ import annotations

from datetime import UTC, datetime

from tallystick.core.digests import Digest
from tallystick.core.errors import Unsupported
from tallystick.core.expect import AtLeast, Exactly, Expect, OneOf
from tallystick.formats.yamldoc import Fields, Node, read
from tallystick.policy.model import (
    BrokerTarget,
    Channel,
    PlatformChoice,
    Policy,
    Rebuilds,
    Sbom,
    SupplyChain,
    Target,
    TrusteeTarget,
    Waiver,
)
from tallystick.policy.normal import KeyRule
from tallystick.policy.platforms import ClaimType, Platform, platform
from tallystick.signing.records import Builder, Identity

SCHEMA = "tallystick/policy/v1"
WHAT = "policy"
_NAME = (r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "lower-case letters, digits and inner hyphens, at most 63")
_RELEASE = (r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", "a release's name")
# Trustee, kbs/src/plugins/implementations/resource/backend.rs, ResourceDesc
_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}"
_KEY = (f"{_SEGMENT}/{_SEGMENT}/{_SEGMENT}", "a key name of three parts: repository/type/tag")
_EXACT = (r"[^\s*?\[\]\\^$|()]{1,512}", "an exact value, with no pattern in it")
_PURL = (r"pkg:[a-z][a-z0-9.+-]*/[^\s@?#]+(@[^\s?#]+)?", "a package URL without qualifiers")
_REQUIREMENT = (r"[a-z0-9][a-z0-9._-]{0,63}", "the name of a requirement")
_TIME = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z",
    "a time in UTC such as 2027-01-31T00:00:00Z",
)
_WHO = (r"[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f\u2028\u2029]{0,255}", "who decided, in one line")
_BASE64 = (r"[A-Za-z0-9+/]{40,2048}={0,2}", "the base64 of a DER public key")
_MAX_AGE_SECONDS = 86_400  # rules.py has the lower bounds of each channel
_MAX_SESSION_MINUTES = 60


def load(data: bytes) -> Policy:
    """Return the policy that the YAML text ``data`` is.

    Raises:
        Malformed: not YAML, an unknown, missing or doubled field, or a value of the wrong form; the error
            names line and column.
        Unsupported: another schema, platform or target.
    """
    fields = Fields(read(data, WHAT), WHAT)
    schema = fields.text("schema")
    if schema != SCHEMA:
        raise Unsupported(WHAT, at="schema", want=SCHEMA, got=schema)
    places = tuple(
        (name, fields.peek(name).place) for name in ("channel", "until", "freshness", "supply_chain")
    )
    policy = Policy(
        name=fields.text("name", *_NAME),
        channel=_channel(fields),
        until=_time(fields, "until"),
        releases=tuple(sorted(_some(fields, "releases", *_RELEASE))),
        keys=_keys(fields),
        supply_chain=_supply_chain(fields.table("supply_chain")),
        platforms=_platforms(fields),
        max_age_seconds=_max_age(fields.table("freshness")),
        waivers=_waivers(fields),
        targets=_targets(fields),
        digest=Digest.of(data),
        places=places,
    )
    fields.end()
    return policy


def _channel(fields: Fields) -> Channel:
    names = [channel.value for channel in Channel]
    return Channel(fields.text("channel", "|".join(names), "one of " + ", ".join(names)))


def _time(fields: Fields, name: str) -> datetime:
    node = fields.peek(name)
    text = fields.text(name, *_TIME)
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise fields.bad(name, node, want="a day and time that exist") from None


def _some(fields: Fields, name: str, pattern: str, want: str) -> list[str]:
    """Return a list of at least one text: an empty list never means all."""
    node = fields.peek(name)
    found = fields.texts(name, pattern, want)
    if not found:
        raise fields.bad(name, node, want="at least one")
    return found


def _tables(fields: Fields, name: str) -> list[Fields]:
    node = fields.peek(name)
    found = fields.tables(name)
    if not found:
        raise fields.bad(name, node, want="at least one")
    return found


def _keys(fields: Fields) -> tuple[KeyRule, ...]:
    found: dict[str, KeyRule] = {}
    for row in _tables(fields, "keys"):
        node = row.peek("key")
        rule = KeyRule(key=row.text("key", *_KEY), artifact=row.text("artifact", *_NAME))
        row.end()
        if rule.key in found:
            raise row.bad("key", node, want="each key once")
        found[rule.key] = rule
    return tuple(found[key] for key in sorted(found))


def _supply_chain(fields: Fields) -> SupplyChain:
    builders = []
    for row in _tables(fields, "builders"):
        identity = Identity(san=row.text("identity", *_EXACT), issuer=row.text("issuer", *_EXACT))
        builders.append(Builder(identity=identity, builder_id=row.text("builder_id", *_EXACT)))
        row.end()
    level = fields.integer("slsa_build_level", 1, 3)
    rebuilds = fields.table("rebuilds")
    quorum = Rebuilds(
        threshold=rebuilds.integer("threshold", 1, 16),
        not_counted=tuple(sorted(rebuilds.texts("not_counted", *_EXACT))),
    )
    rebuilds.end()
    sbom = fields.table("sbom")
    contents = Sbom(
        denied=tuple(sorted(sbom.texts("denied", *_PURL))),
        unexplained_files=sbom.integer("unexplained_files", 0, 1_000_000),
    )
    sbom.end()
    fields.end()
    return SupplyChain(
        builders=tuple(sorted(builders, key=lambda b: (b.identity, b.builder_id))),
        slsa_build_level=level,
        rebuilds=quorum,
        sbom=contents,
    )


def _platforms(fields: Fields) -> tuple[PlatformChoice, ...]:
    found: dict[str, PlatformChoice] = {}
    for row in _tables(fields, "platforms"):
        node = row.peek("platform")
        known = platform(row.text("platform", *_NAME), at=f"platform ({node.place})")
        if known.name in found:
            raise row.bad("platform", node, want="each platform once")
        found[known.name] = PlatformChoice(
            platform=known.name,
            roots=tuple(sorted(_some(row, "roots", *_NAME))),
            require=_require(row.table("require"), known),
            place=node.place,
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
    if isinstance(value, dict) and list(value) == ["at_least"] and kind is ClaimType.INTEGER:
        return AtLeast(int(_claim(fields, path, value["at_least"], kind)))
    if isinstance(value, dict) and list(value) == ["one_of"] and isinstance(value["one_of"].value, list):
        values = [_claim(fields, path, item, kind) for item in value["one_of"].value]
        if not values:
            raise fields.bad(path, node, want="at least one value")
        return OneOf(tuple(sorted(set(values), key=str)))
    return Exactly(_claim(fields, path, node, kind))


def _claim(fields: Fields, path: str, node: Node, kind: ClaimType) -> bool | int | str:
    if not kind.holds(node.value):
        others = ", {at_least: number}" if kind is ClaimType.INTEGER else ""
        raise fields.bad(path, node, want=f"{kind.want}{others}, or {{one_of: [...]}} of these")
    found: bool | int | str = node.value
    return found


def _max_age(fields: Fields) -> int:
    seconds = fields.integer("max_age_seconds", 1, _MAX_AGE_SECONDS)
    fields.end()
    return seconds


def _waivers(fields: Fields) -> tuple[Waiver, ...]:
    found: dict[str, Waiver] = {}
    for row in fields.tables("waivers"):
        node = row.peek("requirement")
        waiver = Waiver(
            requirement=row.text("requirement", *_REQUIREMENT),
            decision=row.text("decision", r"[!-~]{1,256}", "where the decision is written down"),
            decided_by=row.text("decided_by", *_WHO),
            until=_time(row, "until"),
            place=row.place,
        )
        row.end()
        if waiver.requirement in found:
            raise row.bad("requirement", node, want="each requirement once")
        found[waiver.requirement] = waiver
    return tuple(found[name] for name in sorted(found))


def _targets(fields: Fields) -> tuple[Target, ...]:
    found: dict[str, Target] = {}
    for row in _tables(fields, "targets"):
        node = row.peek("target")
        name = row.text("target", *_NAME)
        if name in found:
            raise row.bad("target", node, want="each target once")
        found[name] = _target(name, row, node)
        row.end()
    return tuple(found[name] for name in sorted(found))


def _target(name: str, row: Fields, node: Node) -> Target:
    if name == "broker":
        return BrokerTarget(place=row.place)
    if name != "trustee":
        raise Unsupported(WHAT, at=f"target ({node.place})", want="one of broker, trustee", got=name)
    return TrusteeTarget(
        place=row.place,
        version=row.text("version", r"[0-9]{1,3}(\.[0-9]{1,3}){1,2}", "a Trustee version such as 0.21"),
        session_minutes=row.integer("session_minutes", 1, _MAX_SESSION_MINUTES),
        attestation_keys=tuple(sorted(row.texts("attestation_keys", *_BASE64))),
        waivers=_waivers(row),
    )
