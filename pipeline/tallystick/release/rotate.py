"""Keys and rules of a channel exchanged, its online key too: by a threshold of the people who are left.

A rotation is one set of documents: root and targets with the new people, and every role that the old key had signed, in
its next version under the new ones. It waits in ``pending/rotation/`` until the old and the new threshold signed.

Source: TUF specification 1.0.34, sections 5.3 and 6.1; docs/decisions/0066-rotation.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from typing import TYPE_CHECKING, Any

from tallystick.core.errors import Misuse, NotGenuine, Refused, TallystickError
from tallystick.core.files import write_file
from tallystick.core.findings import Finding
from tallystick.release import changes, channel, metadata, roles
from tallystick.release.desk import Desk, refusal
from tallystick.release.keys import Signatory
from tallystick.release.metadata import State
from tallystick.release.records import HighWater, Person, Rules

if TYPE_CHECKING:
    from securesystemslib.signer import Key
    from tuf.api.metadata import Metadata, Root

FOLDER = "pending/rotation"
KIND = "rotation"

Online = Callable[[Collection[str]], Signatory]  # key ids -> the online key that has one of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Who signed a rotation, and what it still lacks."""

    people: tuple[Person, ...]  # as they will be
    rules: Rules
    online: tuple[str, ...]  # key ids that sign snapshot and timestamp then
    signed_by: tuple[str, ...]
    lacks: str  # what a client would still refuse; "" when it is live


def propose(
    desk: Desk,
    people: Sequence[Person],
    who: Signatory,
    online: Online,
    rules: Rules | None = None,
    new_online: bytes | None = None,
) -> tuple[Progress, HighWater]:
    """Propose that ``people`` hold the channel's keys from now on, signed by ``who`` alone.

    Args:
        rules: what the channel asks from now on; None: what it asks already.
        new_online: the raw Ed25519 public key that signs snapshot and timestamp from now on; None: as before.

    Raises:
        Refused: another rotation or change waits; ``who`` has no key of the channel.
        Misuse: too few people for the threshold, or nothing would change.
    """
    with desk.folder.locked():
        state = desk.state()
        changes.member(state, who)
        if desk.folder.pending(state) or _read(desk):
            raise refusal("pending", FOLDER, "nothing that waits (approve or withdraw it first)", "something")
        if len(people) <= state.settings.threshold:
            want = f"at least {state.settings.threshold + 1} people: nobody approves their own change"
            raise Misuse(f"rotation: {want}, got {len(people)}", code="release.channel.people")
        rules = state.settings.rules if rules is None else rules
        keys_online = _online_keys(state, new_online)
        same = (tuple(people), rules, set(keys_online)) == (
            state.people,
            state.settings.rules,
            set(state.online),
        )
        if same:
            raise Misuse(
                "rotation: these are the channel's people, rules and online key already",
                code="release.rotate.same",
            )
        return _go_on(desk, state, _documents(desk, state, people, who, rules, keys_online), who, online)


def approve(desk: Desk, who: Signatory, online: Online) -> tuple[Progress, HighWater]:
    """Sign what waits, as an old or a new key of the channel; publish it when enough of both did.

    Raises:
        Misuse: no rotation waits. Refused: the key is neither an old nor a new one.
        NotGenuine: what waits is not a rotation of this state.
    """
    with desk.folder.locked():
        state = desk.state()
        documents = _read(desk)
        if not documents:
            raise Misuse(
                f"no rotation waits in channel {desk.channel}", code="release.channel.nothing-pending"
            )
        _check_shape(state, documents)
        return _go_on(desk, state, documents, who, online)


def withdraw(desk: Desk, who: Signatory) -> None:
    """Drop the rotation that waits. Any person of the channel may."""
    with desk.folder.locked():
        changes.member(desk.state(), who)
        _drop(desk)


def _online_keys(state: State, new: bytes | None) -> dict[str, Key]:
    """Return the keys of snapshot and timestamp as they will be, by key id.

    Raises:
        Misuse: ``release.rotate.online``.
    """
    if new is None:
        return {keyid: state.root.signed.keys[keyid] for keyid in state.online}
    key = roles.plain_key(new)
    if state.by_keyid(key.keyid) is not None:
        raise Misuse("rotation: a person's key can not be the online key too", code="release.rotate.online")
    return {key.keyid: key}


def _documents(
    desk: Desk,
    state: State,
    people: Sequence[Person],
    who: Signatory,
    rules: Rules,
    online: Mapping[str, Key],
) -> dict[str, Metadata[Any]]:
    """Return the next version of root, targets and every delegated role, with ``people`` and without signatures."""
    from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Targets

    ids = [person.keyid for person in people]
    listed = {person.keyid: roles.key_of(person) for person in people}
    root, targets = copy.deepcopy(state.root), copy.deepcopy(state.targets)
    root.signed.version += 1
    root.signed.keys = {**listed, **online}
    for role in ("root", "targets"):
        root.signed.roles[role].keyids = list(ids)
    for role in ("snapshot", "timestamp"):
        root.signed.roles[role].keyids = list(online)
    root.signed.expires = targets.signed.expires = desk.now + desk.lifetimes.top
    targets.signed.version += 1
    settings = changes.settings_document(desk.channel, state.settings.platforms, rules)
    targets.signed.unrecognized_fields[roles.CHANNEL_FIELD] = settings
    threshold = state.settings.threshold
    delegated = {
        role: DelegatedRole(role, list(ids), threshold, terminating=True, paths=roles.paths_of(role))
        for role in roles.SHARED
    }
    for person in people:
        own = roles.revocations_of(person.name)
        delegated[own] = DelegatedRole(own, [person.keyid], 1, terminating=True, paths=roles.paths_of(own))
    targets.signed.delegations = Delegations(listed, delegated)
    documents: dict[str, Metadata[Any]] = {"root": root, "targets": targets}
    for role in delegated:
        before = state.delegated.get(role)
        fields = {roles.CHANNEL_FIELD: {"name": desk.channel, "role": role}}
        document = Metadata(Targets(unrecognized_fields=fields)) if before is None else copy.deepcopy(before)
        document.signed.version += before is not None
        life = desk.lifetimes.shared if role in roles.SHARED else desk.lifetimes.top
        document.signed.expires = desk.now + life
        if role in roles.SHARED:
            said = {
                "at": desk.now.astimezone(UTC).strftime(roles.TIME),
                "author": who.name,
                "kind": KIND,
                "summary": "keys: " + ", ".join(person.name for person in people),
            }
            document.signed.unrecognized_fields[roles.CHANGE_FIELD] = said
        documents[role] = document
    for document in documents.values():
        document.signatures.clear()
    return documents


def _check_shape(state: State, documents: Mapping[str, Metadata[Any]]) -> None:
    """Hold what waits to being this state's next version in which nothing but keys and rules changes.

    Raises:
        NotGenuine: ``release.rotate.other``.
    """
    for role, document in documents.items():
        top: dict[str, Metadata[Any]] = {"root": state.root, "targets": state.targets}
        before = top.get(role) or state.delegated.get(role)
        version = before.signed.version + 1 if before is not None else 1
        listed = document.signed.targets if role in roles.SHARED or role in state.delegated else {}
        same = before is None or role in ("root", "targets") or listed == before.signed.targets
        settings = role != "targets" or _same_but_rules(state, document)
        settings = settings and (role != "root" or _thresholds(document) == _thresholds(state.root))
        if document.signed.version != version or not same or not settings:
            got = f"version {document.signed.version} with other contents"
            finding = Finding(
                "release.rotate.other", role, want=f"version {version}, other keys alone", got=got
            )
            raise NotGenuine("what waits is not a rotation of this state", findings=[finding])


def _same_but_rules(state: State, targets: Metadata[Any]) -> bool:
    said = roles.settings_of(state.root.signed, targets.signed)
    return replace(said, rules=state.settings.rules) == state.settings


def _thresholds(root: Metadata[Root]) -> dict[str, int]:
    return {name: role.threshold for name, role in root.signed.roles.items()}


def _go_on(
    desk: Desk,
    state: State,
    documents: dict[str, Metadata[Any]],
    who: Signatory,
    online: Online,
) -> tuple[Progress, HighWater]:
    """Sign as ``who``, keep it, and publish when a client would take it."""
    people = tuple(
        sorted(
            map(roles.person_of, documents["targets"].signed.delegations.keys.values()), key=lambda p: p.name
        )
    )
    new = next((person for person in people if person.keyid == who.keyid), None)
    if new is None and state.by_keyid(who.keyid) is None:
        got = f"{who.name}'s key"
        raise refusal("stranger", desk.channel, "an old or a new key of the channel", got)
    for role, document in documents.items():
        own = new is not None and (role in roles.SHARED or role == roles.revocations_of(new.name))
        if role == "root" or own or (role == "targets" and new is not None):
            document.sign(who.signer, append=True)
    for role, document in documents.items():
        write_file(desk.folder.path / FOLDER / f"{role}.json", document.to_bytes())
    lacks = _publish(desk, state, documents, online)
    if not lacks:
        _drop(desk)
    signed = set(documents["root"].signatures)
    names = {person.name for person in (*people, *state.people) if person.keyid in signed}
    rules = roles.settings_of(documents["root"].signed, documents["targets"].signed).rules
    progress = Progress(
        people=people,
        rules=rules,
        online=tuple(documents["root"].signed.roles["timestamp"].keyids),
        signed_by=tuple(sorted(names)),
        lacks=lacks,
    )
    return progress, desk.policies(desk.state()).high_water


def _publish(desk: Desk, state: State, documents: Mapping[str, Metadata[Any]], online: Online) -> str:
    """Publish when a client that knows only the old root would take it; else return what it would say."""
    try:
        signer = online(documents["root"].signed.roles["timestamp"].keyids)
    except Misuse as error:  # it lies elsewhere: whoever has it can sign last
        return error.message
    delegated = {role: document for role, document in documents.items() if role != "root"}
    files = changes.publication(
        state,
        delegated,
        signer,
        now=desk.now,
        lifetimes=desk.lifetimes,
        drop=state.delegated.keys() - documents.keys(),
    )
    version = documents["root"].signed.version
    files = {f"metadata/{version}.root.json": documents["root"].to_bytes()} | files
    read = desk.folder.with_files(files)
    try:
        root = channel.pinned_root(desk.trust, desk.channel)
        after = metadata.verify(read, root, desk.channel, desk.now, state.high_water)
        channel.policies_of(read, after, desk.policies(state).high_water)
    except (NotGenuine, Refused) as error:
        return _said(error)
    desk.folder.publish(files)
    return ""


def _said(error: TallystickError) -> str:
    return error.findings[0].message if error.findings else error.message


def _read(desk: Desk) -> dict[str, Metadata[Any]]:
    place = desk.folder.path / FOLDER
    found = {}
    for path in sorted(place.glob("*.json")) if place.is_dir() else ():
        data = desk.folder.read(f"{FOLDER}/{path.name}")
        if data is not None:
            found[path.stem] = metadata.parse(data, path.stem)
    return found if {"root", "targets"} <= found.keys() else {}


def _drop(desk: Desk) -> None:
    for path in (desk.folder.path / FOLDER).glob("*.json"):
        path.unlink(missing_ok=True)
