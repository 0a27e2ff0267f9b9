"""The shape of every channel's TUF repository: its roles, whose keys they have, and what each may list.

Source: TUF specification 1.0.34, section 4; docs/decisions/0061-channels-as-tuf-repositories.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from tallystick.core.errors import Malformed
from tallystick.core.findings import Finding
from tallystick.release import keys
from tallystick.release.records import Person, Rules, Settings
from tallystick.signing.records import Identity

if TYPE_CHECKING:
    from securesystemslib.signer import Key
    from tuf.api.metadata import DelegatedRole, Root, Targets

RELEASES = "releases"
POLICIES = "policies"
SHARED = (RELEASES, POLICIES)  # roles that a threshold of people signs
TOP = ("root", "timestamp", "snapshot", "targets")
LEAST_THRESHOLD = 2  # below it one person could do it alone
CHANNEL_FIELD = "x-tallystick-channel"  # in all that people sign: which channel it is for, and its settings
CHANGE_FIELD = "x-tallystick-change"  # in releases and policies metadata: who proposed this version
MADE_FIELD = "x-tallystick-made-at"  # in the timestamp: when it was signed
PERSON_FIELD = "x-tallystick-person"  # in a key: whose it is
TIME = "%Y-%m-%dT%H:%M:%SZ"  # how our own fields write an instant
_MOST = {"slsa_build_level": 3, "slsa_source_level": 4, "vulnerabilities_days": 90}  # levels: SLSA v1.2
_REVOCATIONS = "revocations-"
_PATHS = {
    RELEASES: ["releases/*/*", "releases/*/*/*", "artifacts/*/*", "artifacts/*/*/*"],
    POLICIES: ["policies/*/*", "policies/*/*/*", "policies/*/*/*/*"],
}


def revocations_of(person: str) -> str:
    """Return the role with which ``person`` alone revokes.

    One role each, and not one for all: with a shared role of threshold 1, one person could publish a version
    without another's revocation, and a client that never saw it would believe that.
    """
    return f"{_REVOCATIONS}{person}"


def paths_of(role: str) -> list[str]:
    """Return the target paths that ``role`` may list, as TUF patterns."""
    if role.startswith(_REVOCATIONS):
        return [f"revocations/{role.removeprefix(_REVOCATIONS)}/*"]
    return _PATHS[role]


def key_of(person: Person) -> Key:
    """Return ``person``'s key as TUF metadata lists it."""
    from securesystemslib.signer import SSlibKey

    said = {"name": person.name, "san": person.identity.san, "issuer": person.identity.issuer}
    value = {"public": person.public_key.hex()}
    return SSlibKey(person.keyid, "ed25519", "ed25519", value, {PERSON_FIELD: said})


def plain_key(public_key: bytes) -> Key:
    """Return a raw Ed25519 key that is nobody's as TUF metadata lists it."""
    from securesystemslib.signer import SSlibKey

    return SSlibKey(keys.keyid_of(public_key), "ed25519", "ed25519", {"public": public_key.hex()})


def person_of(key: Key) -> Person:
    """Return whose ``key`` is.

    Raises:
        Malformed: not an Ed25519 key that says so.
    """
    said, value = key.unrecognized_fields.get(PERSON_FIELD), key.keyval.get("public")
    if not isinstance(said, dict) or sorted(said) != ["issuer", "name", "san"]:
        raise Malformed("channel key", at=f"{key.keyid[:8]}.{PERSON_FIELD}", want="a person", got=repr(said))
    if not all(isinstance(text, str) and text for text in said.values()) or not _plain(said["name"]):
        raise Malformed(
            "channel key", at=f"{key.keyid[:8]}.{PERSON_FIELD}", want="plain texts", got=repr(said)
        )
    public_key = raw_key(key)
    if public_key is None:
        raise Malformed("channel key", at=key.keyid[:8], want="an Ed25519 key", got=repr(value))
    identity = Identity(san=said["san"], issuer=said["issuer"])
    return Person(name=said["name"], identity=identity, keyid=key.keyid, public_key=public_key)


def people_of(targets: Targets) -> tuple[Person, ...]:
    """Return who holds keys by these top-level targets, sorted by name.

    Raises:
        Malformed: as :func:`person_of`.
    """
    listed = targets.delegations.keys.values() if targets.delegations else ()
    return tuple(sorted(map(person_of, listed), key=lambda person: person.name))


def raw_key(key: Key) -> bytes | None:
    """Return the raw Ed25519 public key of ``key``; None when it is another kind."""
    value = key.keyval.get("public")
    if (key.keytype, key.scheme) != ("ed25519", "ed25519") or not isinstance(value, str):
        return None
    try:
        raw = bytes.fromhex(value)
    except ValueError:
        return None
    return raw if len(raw) == keys.PUBLIC_KEY_BYTES and raw.hex() == value else None


def settings_of(root: Root, targets: Targets) -> Settings:
    """Return what the channel of these verified metadata asks of a release.

    Raises:
        Malformed: the fields of ours are missing or wrong.
    """
    said = targets.unrecognized_fields.get(CHANNEL_FIELD)
    platforms = said.get("platforms") if isinstance(said, dict) else None
    names = sorted(set(said) - {"rules"}) if isinstance(said, dict) else []
    if not isinstance(said, dict) or names != ["name", "platforms"] or not isinstance(platforms, list):
        raise Malformed("channel", at=CHANNEL_FIELD, want="name, platforms", got=repr(said))
    if not platforms or not all(isinstance(name, str) and _plain(name) for name in platforms):
        raise Malformed("channel", at="platforms", want="at least one platform", got=repr(platforms))
    delegations = targets.delegations
    releases = (delegations.roles or {}).get(RELEASES) if delegations else None
    threshold = releases.threshold if releases else 0
    rules = rules_of(said.get("rules", {}))
    return Settings(name=channel_name(root), platforms=tuple(platforms), threshold=threshold, rules=rules)


def rules_of(said: Any) -> Rules:
    """Return the rules that a channel's targets metadata have.

    Raises:
        Malformed: an unknown rule, or one of another type: a rule that is not understood is not left out.
    """
    known = {field.name for field in fields(Rules)}
    if not isinstance(said, dict) or set(said) - known:
        raise Malformed("channel", at="rules", want=f"only {', '.join(sorted(known))}", got=repr(said))
    values: dict[str, Any] = {}
    for name, value in said.items():
        if name in _MOST:
            most = _MOST[name]
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                raise Malformed("channel", at=f"rules.{name}", want=f"1 to {most}", got=repr(value))
            values[name] = value
        else:
            if not isinstance(value, list) or not value or not all(isinstance(v, str) and v for v in value):
                raise Malformed("channel", at=f"rules.{name}", want="a list of texts", got=repr(value))
            values[name] = tuple(value)
    return Rules(**values)


def rules_document(rules: Rules) -> dict[str, Any]:
    """Return ``rules`` as targets metadata have them: what asks for nothing is left out."""
    found = {field.name: getattr(rules, field.name) for field in fields(Rules)}
    asked = {name: value for name, value in found.items() if value != getattr(Rules(), name)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asked.items()}


def channel_name(signed: Root | Targets) -> str:
    """Return the name of the channel that ``signed`` is for; "" when it does not say."""
    said: Any = signed.unrecognized_fields.get(CHANNEL_FIELD)
    name = said.get("name") if isinstance(said, Mapping) else None
    return name if isinstance(name, str) else ""


def unfit(root: Root, targets: Targets) -> Iterator[Finding]:
    """Yield what makes these roles unfit for a channel, although TUF accepts them.

    One key value under two key ids (it would sign twice), thresholds that let one person act alone, another
    set of delegated roles than ours, roles that may list other paths, and targets outside a delegated role.
    """
    for name, role in root.roles.items():
        yield from _unfit_keys(name, {keyid: root.keys.get(keyid) for keyid in role.keyids})
        least = LEAST_THRESHOLD if name in {"root", "targets"} else 1
        yield from _unfit_threshold(name, role.threshold, len(role.keyids), least)
    if targets.targets:
        got = ", ".join(sorted(targets.targets)[:3])
        yield Finding("release.channel.target", "targets", want="targets in delegated roles only", got=got)
    delegations = targets.delegations
    roles = dict(delegations.roles or {}) if delegations else {}
    people = {person_of(key).name for key in delegations.keys.values()} if delegations else set()
    wanted = {*SHARED, *map(revocations_of, people)}
    if set(roles) != wanted or len(people) != len(delegations.keys if delegations else ()):
        want, got = ", ".join(sorted(wanted)), ", ".join(sorted(roles))
        yield Finding("release.channel.roles", "targets.delegations", want=want, got=got)
        return
    for name, delegated in roles.items():
        yield from _unfit_delegation(name, delegated, delegations.keys if delegations else {})


def _unfit_delegation(name: str, role: DelegatedRole, listed: Mapping[str, Key]) -> Iterator[Finding]:
    yield from _unfit_keys(name, {keyid: listed.get(keyid) for keyid in role.keyids})
    shared = name in SHARED
    yield from _unfit_threshold(name, role.threshold, len(role.keyids), LEAST_THRESHOLD if shared else 1)
    if role.paths != paths_of(name):
        yield Finding("release.channel.paths", name, want=str(paths_of(name)), got=str(role.paths))
    if not shared:
        owners = [person_of(listed[keyid]).name for keyid in role.keyids if keyid in listed]
        if [revocations_of(owner) for owner in owners] != [name]:
            got = ", ".join(owners) or "nobody"
            yield Finding("release.channel.roles", name, want="its own person's key", got=got)


def _unfit_keys(role: str, listed: Mapping[str, Key | None]) -> Iterator[Finding]:
    seen: dict[bytes, str] = {}
    for keyid, key in listed.items():
        raw = raw_key(key) if key is not None else None
        if raw is None:
            yield Finding("release.channel.key", role, want="an Ed25519 key", got=keyid[:8])
        elif keyid != keys.keyid_of(raw) or raw in seen:
            other = seen.get(raw, keys.keyid_of(raw))[:8]
            yield Finding(
                "release.channel.duplicate-key", role, want=other, got=f"the same key as {keyid[:8]}"
            )
        else:
            seen[raw] = keyid


def _unfit_threshold(role: str, threshold: int, count: int, least: int) -> Iterator[Finding]:
    if not least <= threshold <= count:
        yield Finding(
            "release.channel.threshold", role, want=f"{least} to {count} (its keys)", got=str(threshold)
        )


def _plain(name: str) -> bool:
    return (
        name.isascii()
        and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        and name[0] != "."
    )
