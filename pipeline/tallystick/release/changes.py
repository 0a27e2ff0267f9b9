"""New versions of a channel's metadata: made, proposed, co-signed, and put together for publication.

Pure: what comes back are documents and bytes; ``release/tuf.py`` puts them on disk.

Source: TUF specification 1.0.34, section 4; docs/decisions/0061-channels-as-tuf-repositories.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, Refused
from tallystick.core.findings import Finding
from tallystick.release import metadata, roles
from tallystick.release.keys import Signatory
from tallystick.release.metadata import State
from tallystick.release.records import Change, Person, Rules

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Targets


NO_RULES = Rules()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long each kind of metadata holds. The timestamp's is how long a frozen channel goes unnoticed."""

    timestamp: timedelta = timedelta(days=7)
    snapshot: timedelta = timedelta(days=30)
    shared: timedelta = timedelta(days=90)  # releases, policies
    top: timedelta = timedelta(days=365)  # root, targets, and each person's revocations


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """One target to be listed."""

    path: str
    data: bytes
    custom: Mapping[str, Any] = field(default_factory=dict)


def create(
    channel: str,
    people: Sequence[tuple[Person, Signatory]],
    online: Signatory,
    *,
    platforms: Sequence[str],
    threshold: int,
    now: datetime,
    lifetimes: Lifetimes,
    rules: Rules = NO_RULES,
) -> dict[str, bytes]:
    """Return the files of a new, empty channel, by path; ``metadata/1.root.json`` is what trust files pin.

    Args:
        people: who holds a key, with that key: all of them sign the first version.
        online: the key that signs snapshot and timestamp without a person.
        threshold: people who approve a change, besides its author.

    Raises:
        Misuse: too few people for the threshold: nobody approves their own change.
    """
    from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Role, Root, Targets

    if len(people) <= threshold:
        raise Misuse(
            f"channel {channel}: {threshold} approvals besides the author need at least {threshold + 1} "
            f"people with keys, got {len(people)}",
            code="release.channel.people",
        )
    ids = [person.keyid for person, _ in people]
    listed = {person.keyid: roles.key_of(person) for person, _ in people}
    online_key = online.signer.public_key
    root = Root(
        expires=now + lifetimes.top,
        keys={**listed, online.keyid: online_key},
        roles={
            "root": Role(ids, threshold),
            "targets": Role(ids, threshold),
            "snapshot": Role([online.keyid], 1),
            "timestamp": Role([online.keyid], 1),
        },
        consistent_snapshot=True,
        unrecognized_fields={roles.CHANNEL_FIELD: {"name": channel}},
    )
    delegated = {
        role: DelegatedRole(role, ids, threshold, terminating=True, paths=roles.paths_of(role))
        for role in roles.SHARED
    }
    for person, _ in people:
        own = roles.revocations_of(person.name)
        delegated[own] = DelegatedRole(own, [person.keyid], 1, terminating=True, paths=roles.paths_of(own))
    targets = Targets(
        expires=now + lifetimes.top,
        delegations=Delegations(listed, delegated),
        unrecognized_fields={roles.CHANNEL_FIELD: settings_document(channel, platforms, rules)},
    )
    documents: dict[str, Metadata[Any]] = {"root": Metadata(root), "targets": Metadata(targets)}
    for role in delegated:
        life = lifetimes.shared if role in roles.SHARED else lifetimes.top
        own_fields = {roles.CHANNEL_FIELD: {"name": channel, "role": role}}
        documents[role] = Metadata(Targets(expires=now + life, unrecognized_fields=own_fields))
    for person, who in people:
        for role, document in documents.items():
            if role in {"root", "targets", *roles.SHARED, roles.revocations_of(person.name)}:
                document.sign(who.signer, append=True)
    root_bytes = documents.pop("root").to_bytes()
    return {"metadata/1.root.json": root_bytes} | _published(
        documents, {}, 1, 1, online, now=now, lifetimes=lifetimes
    )


def settings_document(channel: str, platforms: Sequence[str], rules: Rules) -> dict[str, Any]:
    """Return what a channel's targets metadata say of the channel itself."""
    said: dict[str, Any] = {"name": channel, "platforms": sorted(platforms)}
    asked = roles.rules_document(rules)
    return said | ({"rules": asked} if asked else {})


def propose(
    state: State,
    role: str,
    author: Signatory,
    *,
    kind: str,
    summary: str,
    add: Sequence[Added],
    remove: Sequence[str],
    now: datetime,
    lifetimes: Lifetimes,
) -> Metadata[Targets]:
    """Return the next version of ``role`` with targets added and removed, signed by its author alone.

    Raises:
        Refused: the author has no key of this channel (``release.channel.stranger``).
    """
    person = member(state, author)
    push = state.settings.rules.push
    if push and person.name not in push:
        raise _refusal("channel.push", role, f"a proposal by {', '.join(push)}", f"one by {person.name}")
    document = copy.deepcopy(state.delegated[role])
    document.signatures.clear()
    signed = document.signed
    signed.version += 1
    signed.expires = now + lifetimes.shared
    for path in remove:
        signed.targets.pop(path, None)
    for added in add:
        signed.targets[added.path] = _target_file(added)
    signed.unrecognized_fields[roles.CHANGE_FIELD] = {
        "at": now.astimezone(UTC).strftime(roles.TIME),
        "author": person.name,
        "kind": kind,
        "summary": summary,
    }
    document.sign(author.signer)
    return document


def cosign(state: State, role: str, proposed: Metadata[Targets], who: Signatory) -> Metadata[Targets]:
    """Return ``proposed`` with the approval of ``who`` added.

    Raises:
        Refused: the author (``release.approve.author``), somebody who has approved already
            (``release.approve.duplicate``) or who has no key of this channel (``release.channel.stranger``).
    """
    person = member(state, who)
    author = metadata.proposal_of(proposed.signed, state.people).author
    if person.name == author.name:
        raise _refusal("approve.author", role, f"somebody else than the author {author.name}", person.name)
    if person in metadata.signers(role, proposed, state.targets.signed, state.people):
        raise _refusal("approve.duplicate", role, "each person's approval once", f"{person.name} again")
    document = copy.deepcopy(proposed)
    document.sign(who.signer, append=True)
    return document


def revoke(
    state: State, who: Signatory, added: Sequence[Added], *, now: datetime, lifetimes: Lifetimes
) -> tuple[str, Metadata[Targets]]:
    """Return the person's own revocations role and its next version, complete with that one signature."""
    role = roles.revocations_of(member(state, who).name)
    document = copy.deepcopy(state.delegated[role])
    document.signed.version += 1
    document.signed.expires = now + lifetimes.top
    for target in added:
        document.signed.targets[target.path] = _target_file(target)
    document.sign(who.signer)
    return role, document


def publication(
    state: State,
    changed: Mapping[str, Metadata[Targets]],
    online: Signatory,
    *,
    now: datetime,
    lifetimes: Lifetimes,
    drop: Iterable[str] = (),
) -> dict[str, bytes]:
    """Return the metadata files that make ``changed`` the channel's state; the timestamp comes last.

    With nothing changed this is a refresh: the same state, with a new timestamp.

    Args:
        drop: roles that are no more.
    """
    gone = {f"{role}.json" for role in drop}
    return _published(
        changed,
        {file: meta for file, meta in state.snapshot.signed.meta.items() if file not in gone},
        state.snapshot.signed.version + 1,
        state.timestamp.signed.version + 1,
        online,
        now=now,
        lifetimes=lifetimes,
    )


def describe(state: State, role: str, proposed: Metadata[Targets]) -> Change:
    """Return what ``proposed`` would change, who signed it, and how many approvals are missing."""
    signed = proposed.signed
    said = metadata.proposal_of(signed, state.people)
    signed_by = metadata.signers(role, proposed, state.targets.signed, state.people)
    approvals = len([person for person in signed_by if person is not said.author])
    before, after = state.delegated[role].signed.targets, signed.targets
    return Change(
        role=role,
        version=signed.version,
        kind=said.kind,
        author=said.author.name,
        summary=said.summary,
        at=said.at,
        signed_by=tuple(person.name for person in signed_by),
        needed=max(0, state.targets.signed.get_delegated_role(role).threshold - approvals),
        adds=tuple(sorted(path for path in after if after[path] != before.get(path))),
        removes=tuple(sorted(set(before) - set(after))),
    )


def member(state: State, who: Signatory) -> Person:
    """Return the person of the channel whose key ``who`` holds.

    Raises:
        Refused: nobody's (``release.channel.stranger``).
    """
    person = state.by_keyid(who.keyid)
    if person is None or person.name != who.name:
        names = ", ".join(person.name for person in state.people)
        raise _refusal("channel.stranger", state.settings.name, f"a key of {names}", f"{who.name}'s key")
    return person


def _published(
    changed: Mapping[str, Metadata[Any]],
    meta: dict[str, Any],
    snapshot_version: int,
    timestamp_version: int,
    online: Signatory,
    *,
    now: datetime,
    lifetimes: Lifetimes,
) -> dict[str, bytes]:
    from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

    files: dict[str, bytes] = {}
    for role, document in sorted(changed.items()):
        data = document.to_bytes()
        version = document.signed.version
        files[f"metadata/{version}.{role}.json"] = data
        meta[f"{role}.json"] = MetaFile.from_data(version, data, ["sha256"])
    snapshot = Metadata(Snapshot(snapshot_version, expires=now + lifetimes.snapshot, meta=meta))
    snapshot.sign(online.signer)
    data = snapshot.to_bytes()
    files[f"metadata/{snapshot_version}.snapshot.json"] = data
    described = MetaFile.from_data(snapshot_version, data, ["sha256"])
    made = {roles.MADE_FIELD: now.strftime(roles.TIME)}
    end = now + lifetimes.timestamp
    timestamp = Metadata(
        Timestamp(timestamp_version, expires=end, snapshot_meta=described, unrecognized_fields=made)
    )
    timestamp.sign(online.signer)
    files["metadata/timestamp.json"] = timestamp.to_bytes()
    return files


def target_file_path(path: str, data: bytes) -> str:
    """Return where the bytes of the target ``path`` lie in the channel's folder (consistent snapshots)."""
    folder, _, base = path.rpartition("/")
    return f"targets/{folder}/{Digest.of(data).hex}.{base}"


def _target_file(added: Added) -> Any:
    from tuf.api.metadata import TargetFile

    described = TargetFile.from_data(added.path, added.data, ["sha256"])
    if added.custom:
        described.unrecognized_fields["custom"] = dict(added.custom)
    return described


def _refusal(code: str, where: str, want: str, got: str) -> Refused:
    finding = Finding(f"release.{code}", where, want=want, got=got)
    return Refused(finding.message, findings=[finding])
