"""A channel's TUF metadata, verified at a given instant. No disk, no network, no clock.

python-tuf's ``Updater`` reads the clock and keeps a cache on disk; the signature, expiry and version rules
here are made of the same public API (``tuf.api.metadata``), and a test holds both to the same answers.

Source: TUF specification 1.0.34, section 5 (detailed client workflow).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine, Refused, TallystickError
from tallystick.core.findings import Finding
from tallystick.release import roles
from tallystick.release.index import safe_path
from tallystick.release.records import HighWater, Person, Settings

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp

Read = Callable[
    [str], bytes | None
]  # a path inside the channel's folder -> bytes, None when there is no file

MAX_AGE = timedelta(days=8)  # of a timestamp: the longest that a client goes without hearing of a revocation
_SKEW = timedelta(minutes=5)  # between the clock of whoever signs a timestamp and of whoever reads it
_CHANGE = "channel change"
_ONLINE = ("snapshot", "timestamp")
_MAX_METADATA_BYTES = 16 << 20
_MAX_ROOT_ROTATIONS = 256  # TUF 5.3.3: some upper bound


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Verified metadata of one channel. Made by :func:`verify` alone; the TUF objects are not to be changed."""

    settings: Settings
    people: tuple[Person, ...]  # sorted by name
    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    delegated: Mapping[str, Metadata[Targets]]
    high_water: HighWater  # of these metadata and everything seen before
    expires: datetime  # the earliest end of any of them
    made_at: datetime | None = None  # when the timestamp was signed, as it says; None: it does not say

    @property
    def online(self) -> tuple[str, ...]:
        """Return the key ids that sign snapshot and timestamp."""
        return tuple(self.root.signed.roles["timestamp"].keyids)

    def by_keyid(self, keyid: str) -> Person | None:
        """Return whose key ``keyid`` is, or None."""
        return next((person for person in self.people if person.keyid == keyid), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a version of a shared role says about itself, under its signatures."""

    author: Person
    kind: str
    summary: str
    at: datetime


def verify(
    read: Read,
    pinned_root: bytes,
    channel: str,
    now: datetime,
    seen: HighWater,
    max_age: timedelta | None = MAX_AGE,
) -> State:
    """Return the channel's metadata, when all of it holds at ``now``.

    Args:
        read: gives the files of the channel's folder ("metadata/timestamp.json").
        pinned_root: the root metadata that the trust file pins; later roots are reached from it.
        channel: the name that the root must be for: a debug repository never passes for another.
        seen: high-water marks of an earlier load; nothing below them is taken.
        max_age: how far from ``now`` the timestamp may end; None for a replay, whose metadata is of later.

    Raises:
        Malformed: metadata that can not be read.
        NotGenuine: missing metadata or signatures, a rollback, another channel's root.
        Refused: expired at ``now``; roles unfit for a channel; approved by its own author.
    """
    if seen.at is not None and now < seen.at:
        raise _refusal("clock", "now", f"at or after {seen.at.isoformat()}", now.isoformat())
    root, seen = _latest_root(read, pinned_root, seen)
    check_channel("root", root.signed, channel)
    _check_expiry("root", root.signed, now)

    timestamp: Metadata[Timestamp] = _load(read, "timestamp", None, root, "timestamp")
    _check_version("timestamp", timestamp.signed.version, seen)
    _check_expiry("timestamp", timestamp.signed, now)
    if max_age is not None:
        _check_age(timestamp.signed, now + max_age)

    snapshot: Metadata[Snapshot] = _load(read, "snapshot", timestamp.signed.snapshot_meta, root, "snapshot")
    _check_version("snapshot", snapshot.signed.version, seen)
    _check_expiry("snapshot", snapshot.signed, now)
    for file, meta in snapshot.signed.meta.items():
        _check_version(file.removesuffix(".json"), meta.version, seen)

    targets: Metadata[Targets] = _load(read, "targets", _meta(snapshot.signed, "targets"), root, "targets")
    check_channel("targets", targets.signed, channel)
    _check_expiry("targets", targets.signed, now)
    findings = tuple(roles.unfit(root.signed, targets.signed))
    if findings:
        raise Refused(f"channel {channel}: its roles are not what a channel's must be", findings=findings)

    settings = roles.settings_of(root.signed, targets.signed)
    delegations, people = targets.signed.delegations, roles.people_of(targets.signed)
    delegated: dict[str, Metadata[Targets]] = {}
    for role in (delegations.roles or {}) if delegations else {}:
        found: Metadata[Targets] = _load(read, role, _meta(snapshot.signed, role), targets, role)
        check_channel(role, found.signed, channel)
        check_own_role(role, found.signed)
        _check_expiry(role, found.signed, now)
        check_role(role, found, targets.signed, people)
        _check_push(role, found.signed, settings.rules.push, people)
        delegated[role] = found
    everything: list[Signed] = [root.signed, timestamp.signed, snapshot.signed, targets.signed]
    everything += [metadata.signed for metadata in delegated.values()]
    return State(
        settings=settings,
        people=people,
        root=root,
        timestamp=timestamp,
        snapshot=snapshot,
        targets=targets,
        delegated=delegated,
        high_water=_raised(seen, root.signed, timestamp.signed, snapshot.signed, now),
        expires=min(signed.expires for signed in everything),
        made_at=_made_at(timestamp.signed, now),
    )


def signers(
    role: str, metadata: Metadata[Targets], targets: Targets, people: tuple[Person, ...]
) -> tuple[Person, ...]:
    """Return who of ``people`` signed ``metadata`` as ``role``, by signatures that hold, sorted by name."""
    result = targets.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    return tuple(person for person in people if person.keyid in result.signed)


def proposal_of(signed: Targets, people: tuple[Person, ...]) -> Proposal:
    """Return who proposed this version, and what they said of it.

    Raises:
        Malformed: it does not say, or names nobody of the channel.
    """
    said: Any = signed.unrecognized_fields.get(roles.CHANGE_FIELD)
    if not isinstance(said, dict) or sorted(said) != ["at", "author", "kind", "summary"]:
        raise Malformed(_CHANGE, at=roles.CHANGE_FIELD, want="at, author, kind, summary", got=repr(said))
    if not all(isinstance(text, str) and text and text.isprintable() for text in said.values()):
        raise Malformed(_CHANGE, at=roles.CHANGE_FIELD, want="printable texts", got=repr(said))
    author = next((person for person in people if person.name == said["author"]), None)
    if author is None:
        raise Malformed(_CHANGE, at="author", want="a person of the channel", got=repr(said["author"]))
    try:
        at = datetime.strptime(said["at"], roles.TIME).replace(tzinfo=UTC)
    except ValueError:
        raise Malformed(_CHANGE, at="at", want="YYYY-MM-DDTHH:MM:SSZ", got=repr(said["at"])) from None
    return Proposal(author=author, kind=said["kind"], summary=said["summary"], at=at)


def check_role(role: str, metadata: Metadata[Targets], targets: Targets, people: tuple[Person, ...]) -> None:
    """Hold a delegated role to what TUF does not ask: its own paths, no further delegation, a second author.

    Raises:
        NotGenuine: a target outside its paths, further delegations, too few people besides the author.
    """
    signed = metadata.signed
    if signed.delegations is not None:
        raise _false("roles", role, "no further delegation", "delegations")
    delegated = (targets.delegations.roles or {})[role] if targets.delegations else None
    for path in signed.targets:
        if delegated is None or not delegated.is_delegated_path(path) or not safe_path(path):
            raise _false("target", role, "a path of this role", path)
    if role not in roles.SHARED:
        return
    if signed.version == 1:
        if signed.targets:
            raise _false("target", role, "no targets in version 1", f"{len(signed.targets)}")
        return
    author = proposal_of(signed, people).author
    signed_by = signers(role, metadata, targets, people)
    approvers = [person.name for person in signed_by if person is not author]
    threshold = delegated.threshold if delegated else roles.LEAST_THRESHOLD
    if author not in signed_by:
        raise _false("author", role, f"{author.name}'s signature, who proposed it", "none")
    if len(approvers) < threshold:
        got = ", ".join(approvers) or "nobody"
        raise _false("approvals", role, f"{threshold} people besides its author {author.name}", got)


def _check_push(role: str, signed: Targets, push: tuple[str, ...], people: tuple[Person, ...]) -> None:
    """Hold the author of a shared role's version to the channel's list of who may propose."""
    if role in roles.SHARED and signed.version > 1 and push:
        author = proposal_of(signed, people).author.name
        if author not in push:
            raise _false("push", role, f"a change proposed by {', '.join(push)}", f"one by {author}")


def target(read: Read, signed: Targets, path: str) -> bytes:
    """Return the bytes of the target ``path``, as verified metadata describe them.

    Raises:
        NotGenuine: no such file, or other bytes.
    """
    described = signed.targets[path]
    folder, _, base = path.rpartition("/")
    digest = described.hashes.get("sha256")
    if digest is None:
        raise _false("target", path, "a sha256", ", ".join(described.hashes))
    data = read(f"targets/{folder}/{digest}.{base}")
    if data is None:
        raise _false("missing", path, f"sha256:{digest}", "no file")
    from tuf.api.exceptions import LengthOrHashMismatchError

    try:
        described.verify_length_and_hashes(data)
    except LengthOrHashMismatchError:
        import hashlib

        got = f"sha256:{hashlib.sha256(data).hexdigest()}"
        raise _false("target-changed", path, f"sha256:{digest}", got) from None
    return data


def parse(data: bytes, role: str) -> Metadata[Any]:
    """Return the metadata that ``data`` is; no signature is checked.

    Raises:
        Malformed: not TUF metadata, or of another type than ``role``'s.
    """
    from tuf.api.metadata import Metadata
    from tuf.api.serialization import DeserializationError

    what, kind = f"channel metadata {role}", role if role in roles.TOP else "targets"
    jsondoc.loads(data, what, max_bytes=_MAX_METADATA_BYTES)
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    except DeserializationError as error:
        raise Malformed(what, at="document", want="TUF metadata", got=str(error.__cause__ or error)) from None
    if metadata.signed.type != kind:
        raise Malformed(what, at="_type", want=kind, got=metadata.signed.type)
    return metadata


def _latest_root(read: Read, pinned: bytes, seen: HighWater) -> tuple[Metadata[Root], HighWater]:
    """Return the newest root that is reached from the pinned one, and the marks that still hold under it.

    When a key of snapshot or timestamp was exchanged since, their old versions count no more (TUF 5.3.11): with
    the old key somebody may have shown versions that an honest channel never reaches.
    """
    chain = tuple(roots(read, pinned))
    root = chain[-1]
    _check_version("root", root.signed.version, seen)
    known = next((one for one in chain if one.signed.version == seen.version("root")), root)
    keys = [{name: set(one.signed.roles[name].keyids) for name in _ONLINE} for one in (known, root)]
    if keys[0] == keys[1]:
        return root, seen
    return root, replace(seen, versions=tuple(one for one in seen.versions if one[0] not in _ONLINE))


def roots(read: Read, pinned: bytes) -> Iterator[Metadata[Root]]:
    """Give the pinned root and every later one (TUF 5.3); each is signed by its own keys and by those before.

    Raises:
        Malformed, NotGenuine: one that is there and does not hold.
    """
    root: Metadata[Root] = parse(pinned, "root")
    check_signatures("root", root, root.signed)
    yield root
    for _ in range(_MAX_ROOT_ROTATIONS):
        version = root.signed.version + 1
        data = read(f"metadata/{version}.root.json")
        if data is None:
            return
        newer: Metadata[Root] = parse(data, "root")
        if newer.signed.version != version:
            raise _false("version", "root", str(version), str(newer.signed.version))
        check_signatures("root", newer, root.signed)
        check_signatures("root", newer, newer.signed)
        root = newer
        yield root


def _load(read: Read, role: str, meta: MetaFile | None, delegator: Metadata[Any], what: str) -> Metadata[Any]:
    file = f"metadata/{f'{meta.version}.' if meta else ''}{role}.json"
    data = read(file)
    if data is None:
        raise _false("missing", what, file, "no file")
    if meta is not None:
        _check_described(what, meta, data)
    metadata = parse(data, role)
    if meta is not None and metadata.signed.version != meta.version:
        raise _false("version", what, str(meta.version), str(metadata.signed.version))
    check_signatures(role, metadata, delegator.signed)
    return metadata


def _check_described(what: str, meta: MetaFile, data: bytes) -> None:
    """Hold ``data`` to the length and sha256 that the metadata above it give; both are required."""
    from tuf.api.exceptions import LengthOrHashMismatchError

    if meta.length is None or not meta.hashes or "sha256" not in meta.hashes:
        raise _false("undescribed", what, "a length and a sha256", "none")
    try:
        meta.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise _false("changed", what, f"sha256:{meta.hashes['sha256']}", str(error)) from None


def check_signatures(role: str, metadata: Metadata[Any], delegator: Root | Targets) -> None:
    """Hold ``metadata`` to enough signatures by distinct keys that ``delegator`` gives the role.

    Raises:
        NotGenuine: ``release.channel.signature`` or ``release.channel.duplicate-key``.
    """
    result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    values = {key.keyval.get("public") for key in result.signed.values()}  # TUF itself counts key ids
    if len(values) != len(result.signed):
        got = ", ".join(sorted(keyid[:8] for keyid in result.signed))
        raise _false("duplicate-key", role, "each key under one key id", got)
    if len(values) < result.threshold:
        raise _false("signature", role, f"{result.threshold} distinct signatures that hold", str(len(values)))


def _meta(snapshot: Snapshot, role: str) -> MetaFile:
    meta = snapshot.meta.get(f"{role}.json")
    if meta is None:
        raise _false("missing", "snapshot", f"{role}.json", "no entry")
    return meta


def _check_version(role: str, version: int, seen: HighWater) -> None:
    if version < seen.version(role):
        raise _false("rollback", role, f"version {seen.version(role)} or later", f"version {version}")


def check_channel(role: str, signed: Root | Targets, channel: str) -> None:
    """The same people hold keys of several channels: what they sign for one must not pass in another."""
    name = roles.channel_name(signed)
    if name != channel:
        raise _false("channel", role, channel, name or "no channel name")


def check_own_role(role: str, signed: Targets) -> None:
    """The same people sign several roles: an empty version of one must not pass as a version of another."""
    said: Any = signed.unrecognized_fields.get(roles.CHANNEL_FIELD)
    if said.get("role") != role:
        raise _false("role", role, f"metadata of {role}", f"of {said.get('role')}")


def _check_expiry(role: str, signed: Signed, now: datetime) -> None:
    if signed.is_expired(now):
        raise _refusal("expired", role, f"an end after {now.isoformat()}", signed.expires.isoformat())


def _made_at(timestamp: Signed, now: datetime) -> datetime | None:
    """Return when the timestamp was signed, by its own word: no later than now, so that it makes nothing younger.

    Raises:
        Malformed: no instant. NotGenuine: one that has not come yet (``release.channel.made-at``).
    """
    said = timestamp.unrecognized_fields.get(roles.MADE_FIELD)
    if said is None:
        return None
    try:
        made_at = datetime.strptime(said, roles.TIME).replace(tzinfo=UTC)
    except (TypeError, ValueError):
        want = "YYYY-MM-DDTHH:MM:SSZ"
        raise Malformed(
            "channel metadata timestamp", at=roles.MADE_FIELD, want=want, got=repr(said)
        ) from None
    if made_at > now + _SKEW:
        raise _false("made-at", "timestamp", f"signed by {now.isoformat()}", made_at.isoformat())
    return made_at


def _check_age(timestamp: Signed, latest: datetime) -> None:
    """Bound how long a state may be believed: until then a revocation may go unseen.

    TUF lets whoever has the timestamp's key choose any end; one far away would freeze a channel for good.
    """
    if timestamp.expires > latest:
        raise _refusal("age", "timestamp", f"an end by {latest.isoformat()}", timestamp.expires.isoformat())


def _raised(
    seen: HighWater, root: Root, timestamp: Timestamp, snapshot: Snapshot, now: datetime
) -> HighWater:
    versions = dict(seen.versions)
    versions |= {"root": root.version, "timestamp": timestamp.version, "snapshot": snapshot.version}
    versions |= {file.removesuffix(".json"): meta.version for file, meta in snapshot.meta.items()}
    return HighWater(versions=tuple(sorted(versions.items())), revoked=seen.revoked, at=now)


def _false(code: str, where: str, want: str, got: str) -> TallystickError:
    finding = Finding(f"release.channel.{code}", where, want=want, got=got)
    return NotGenuine(f"the channel's metadata do not hold: {finding.message}", findings=[finding])


def _refusal(code: str, where: str, want: str, got: str) -> TallystickError:
    finding = Finding(f"release.channel.{code}", where, want=want, got=got)
    return Refused(f"the channel is refused: {finding.message}", findings=[finding])
