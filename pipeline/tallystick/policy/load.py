"""A policy file's bytes, to a :class:`Policy`. What may be left out is read as the strictest value there is.

Source: docs/policies.md and docs/schemas/policy.schema.json.
"""

from __future__ import annotations

from collections.abc import Callable

from tallystick.core.digests import Digest
from tallystick.core.errors import Unsupported
from tallystick.formats.yamldoc import Fields, Place, read
from tallystick.policy import sections
from tallystick.policy.model import (
    Approvals,
    ArtifactChoice,
    Artifacts,
    Channel,
    FirmwareDenial,
    Party,
    Policy,
    Rebuilds,
    Sbom,
    SupplyChain,
    Target,
)
from tallystick.policy.normal import KeyRule
from tallystick.policy.sections import NAME, some, tables
from tallystick.signing.records import Builder, Identity

SCHEMA = "tallystick/policy/v1"
WHAT = "policy"
_RELEASE = (r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", "a release's name")
# Trustee, kbs/src/plugins/implementations/resource/backend.rs, ResourceDesc
_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}"
_KEY = (f"{_SEGMENT}/{_SEGMENT}/{_SEGMENT}", "a key name of three parts: repository/type/tag")
_EPOCHS = "{epoch}"
_EPOCH_KEY = (
    rf"{_SEGMENT}/{_SEGMENT}/[A-Za-z0-9_.-]{{0,50}}\{{epoch\}}[A-Za-z0-9_.-]{{0,50}}",
    "a key name of three parts, with {epoch} once in the last",
)
_EXACT = (r"[^\s*?\[\]\\^$|()]{1,512}", "an exact value, with no pattern in it")
_PURL = (r"pkg:[a-z][a-z0-9.+-]*/[^\s@?#]+(@[^\s?#]+)?", "a package URL without qualifiers")
_DIGEST = (r"sha256:[0-9a-f]{64}", "sha256: and 64 lower-case hex digits")
_BROKER = (r"https?://[A-Za-z0-9.\[\]:/_-]{1,255}", "the broker's address: http://HOST:PORT")
_PARTY = (r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", "a party's name, such as hospital.example")
_MAX_AGE_SECONDS = 86_400  # rules.py has the lower bounds of each channel
_MAX_REATTEST_SECONDS = 7 * 86_400
_MOST_EPOCH = 99_999

TargetReader = Callable[[str, Fields, Place], Target]


def load(data: bytes, target: TargetReader) -> Policy:
    """Return the policy that the YAML text ``data`` is.

    Args:
        target: reads the entry of one target, whose fields only the target's module knows
            (``compile.policies`` gives the one of this version).

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
        (name, fields.peek(name).place)
        for name in ("channel", "until", "freshness", "supply_chain", "artifacts")
        if name != "artifacts" or fields.has(name)
    )
    max_age, reattest = _freshness(fields.table("freshness"))
    policy = Policy(
        name=fields.text("name", *NAME),
        channel=_channel(fields),
        until=sections.time(fields, "until"),
        releases=tuple(sorted(some(fields, "releases", *_RELEASE))),
        keys=_keys(fields),
        supply_chain=_supply_chain(fields.table("supply_chain")),
        platforms=sections.platforms(fields),
        denied_firmware=_denied_firmware(fields),
        parties=_parties(fields),
        max_age_seconds=max_age,
        reattest_seconds=reattest,
        waivers=sections.waivers(fields),
        targets=_targets(fields, target),
        digest=Digest.of(data),
        places=places,
        artifacts=_artifacts(fields.table("artifacts")) if fields.has("artifacts") else None,
    )
    fields.end()
    return policy


def _channel(fields: Fields) -> Channel:
    names = [channel.value for channel in Channel]
    return Channel(fields.text("channel", "|".join(names), "one of " + ", ".join(names)))


def _keys(fields: Fields) -> tuple[KeyRule, ...]:
    """Return every key; a key with ``epochs`` stands for one of each epoch."""
    found: dict[str, KeyRule] = {}
    for row in tables(fields, "keys"):
        node = row.peek("key")
        names = _epoch_keys(row) if row.has("epochs") else [row.text("key", *_KEY)]
        artifact = row.text("artifact", *NAME)
        row.end()
        for name in names:
            if name in found:
                raise row.bad("key", node, want="each key once")
            found[name] = KeyRule(key=name, artifact=artifact)
    return tuple(found[key] for key in sorted(found))


def _artifacts(fields: Fields) -> Artifacts:
    found: dict[str, ArtifactChoice] = {}
    for row in tables(fields, "releases"):
        node = row.peek("name")
        name = row.text("name", *_RELEASE)
        if name in found:
            raise row.bad("name", node, want="each artifact release once")
        versions = tuple(sorted(set(some(row, "versions", *_RELEASE))))
        found[name] = ArtifactChoice(name=name, versions=versions)
        row.end()
    broker = fields.text("broker", *_BROKER)
    fields.end()
    return Artifacts(broker=broker, releases=tuple(found[name] for name in sorted(found)))


def _epoch_keys(row: Fields) -> list[str]:
    """Return the keys ``…/epoch-00001`` to the last: the number always has five digits."""
    pattern = row.text("key", *_EPOCH_KEY)
    epochs = row.table("epochs")
    first = epochs.integer("first", 0, _MOST_EPOCH)
    last = epochs.integer("last", first, min(_MOST_EPOCH, first + 9_999))
    epochs.end()
    return [pattern.replace(_EPOCHS, f"{number:05}") for number in range(first, last + 1)]


def _supply_chain(fields: Fields) -> SupplyChain:
    builders = []
    for row in tables(fields, "builders"):
        identity = _identity(row)
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
    approvals = _approvals(fields.table("approvals")) if fields.has("approvals") else None
    fields.end()
    return SupplyChain(
        builders=tuple(sorted(builders, key=lambda b: (b.identity, b.builder_id))),
        slsa_build_level=level,
        rebuilds=quorum,
        sbom=contents,
        approvals=approvals,
    )


def _identity(row: Fields) -> Identity:
    return Identity(san=row.text("identity", *_EXACT), issuer=row.text("issuer", *_EXACT))


def _approvals(fields: Fields) -> Approvals:
    identities = set()
    for row in tables(fields, "of"):
        identities.add(_identity(row))
        row.end()
    threshold = fields.integer("threshold", 1, len(identities))
    fields.end()
    return Approvals(threshold=threshold, of=tuple(sorted(identities)))


def _denied_firmware(fields: Fields) -> tuple[FirmwareDenial, ...]:
    found: dict[str, FirmwareDenial] = {}
    for row in tables(fields, "denied_firmware") if fields.has("denied_firmware") else ():
        node = row.peek("name")
        denial = FirmwareDenial(
            name=row.text("name", *NAME),
            firmware=tuple(sorted(map(Digest.parse, some(row, "firmware", *_DIGEST)), key=str)),
            reason=row.text("reason", sections.LINE[0], "why, in one line"),
            since=sections.day(row, "since"),
            place=row.place,
        )
        row.end()
        if denial.name in found:
            raise row.bad("name", node, want="each name once")
        found[denial.name] = denial
    return tuple(found[name] for name in sorted(found))


def _parties(fields: Fields) -> tuple[Party, ...]:
    """Return whoever else must agree. Each says everything itself: nothing is taken over from the author."""
    found: dict[str, Party] = {}
    for row in tables(fields, "parties") if fields.has("parties") else ():
        node = row.peek("party")
        name = row.text("party", *_PARTY)
        if name in found:
            raise row.bad("party", node, want="each party once")
        age = row.table("freshness")
        found[name] = Party(
            name=name,
            supply_chain=_supply_chain(row.table("supply_chain")),
            platforms=sections.platforms(row),
            max_age_seconds=age.integer("max_age_seconds", 1, _MAX_AGE_SECONDS),
            place=node.place,
        )
        age.end()
        row.end()
    return tuple(found[name] for name in sorted(found))


def _freshness(fields: Fields) -> tuple[int, int]:
    """Return the maximum age and the re-attestation interval; left out, the interval is the maximum age."""
    seconds = fields.integer("max_age_seconds", 1, _MAX_AGE_SECONDS)
    reattest = (
        fields.integer("reattest_seconds", 1, _MAX_REATTEST_SECONDS)
        if fields.has("reattest_seconds")
        else seconds
    )
    fields.end()
    return seconds, reattest


def _targets(fields: Fields, read_target: TargetReader) -> tuple[Target, ...]:
    found: dict[str, Target] = {}
    for row in tables(fields, "targets"):
        node = row.peek("target")
        name = row.text("target", *NAME)
        if name in found:
            raise row.bad("target", node, want="each target once")
        found[name] = read_target(name, row, node.place)
        row.end()
    return tuple(found[name] for name in sorted(found))
