"""Who approved a release, for as long as it is listed: the version of the metadata that brought it.

Metadata carry the signatures of their own version alone. So the entry of a release says which version of ``releases``
brought it, and which version of ``targets`` named the people of then; a channel's folder keeps both.

Source: docs/decisions/0125-approvals-that-last.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tallystick.core.errors import NotGenuine
from tallystick.core.findings import Finding
from tallystick.release import index as indexes
from tallystick.release import metadata, roles, source
from tallystick.release.metadata import Read, State
from tallystick.release.records import VerifiedRelease

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Targets

FIELD = "since"  # in the custom part of the target index.json


def since(state: State) -> dict[str, int]:
    """Return what the entry of a release says that is proposed on top of ``state``."""
    return {
        roles.RELEASES: state.delegated[roles.RELEASES].signed.version + 1,
        "targets": state.targets.signed.version,
    }


def check_said(state: State, proposed: Targets, release: VerifiedRelease) -> None:
    """Hold a proposal's new entry for ``release`` to naming the proposal itself.

    Raises:
        NotGenuine: ``release.channel.since``.
    """
    said, want = _said(proposed, release), since(state)
    if said != want:
        raise _false("since", release, str(want), str(said))


def check(read: Read, pinned_root: bytes, state: State, release: VerifiedRelease) -> None:
    """Hold the change that brought ``release`` to approvals by people who did not vouch for its commit.

    Raises:
        NotGenuine: ``release.channel.since`` (the entry does not say, or that version is gone or lists another),
            ``release.channel.approvals``, or what else keeps metadata from being this channel's.
        Malformed: that version can not be read.
    """
    if release.source is None:
        return
    now = state.delegated[roles.RELEASES].signed
    said = _said(now, release)
    if said is None:
        raise _false("since", release, "the versions that brought it", "none")
    targets = _targets(read, pinned_root, said["targets"], release)
    document = _version(read, roles.RELEASES, said[roles.RELEASES], release)
    people = roles.people_of(targets.signed)
    metadata.check_signatures(roles.RELEASES, document, targets.signed)
    metadata.check_channel(roles.RELEASES, document.signed, state.settings.name)
    metadata.check_own_role(roles.RELEASES, document.signed)
    metadata.check_role(roles.RELEASES, document, targets.signed, people)
    path = _path(release)
    if document.signed.targets.get(path) != now.targets[path]:
        raise _false("since", release, "a version that lists it as now", f"version {document.signed.version}")
    author = metadata.proposal_of(document.signed, people).author
    signed_by = metadata.signers(roles.RELEASES, document, targets.signed, people)
    counted = source.approvers([person for person in signed_by if person != author], release)
    if len(counted) < state.settings.threshold:
        want = f"{state.settings.threshold} people besides proposer and author of the commit"
        got = ", ".join(person.name for person in counted) or "nobody"
        raise _false("approvals", release, want, got)


def _targets(read: Read, pinned_root: bytes, version: int, release: VerifiedRelease) -> Metadata[Targets]:
    """Return that version of the top-level targets, which a root of this channel once signed for."""
    document = _version(read, "targets", version, release)
    refused: NotGenuine | None = None
    for root in metadata.roots(read, pinned_root):
        try:
            metadata.check_signatures("targets", document, root.signed)
        except NotGenuine as error:
            refused = error
        else:
            metadata.check_channel("targets", document.signed, roles.channel_name(root.signed))
            return document
    raise refused or AssertionError("there is always the pinned root")


def _version(read: Read, role: str, version: int, release: VerifiedRelease) -> Metadata[Targets]:
    file = f"metadata/{version}.{role}.json"
    data = read(file)
    if data is None:
        raise _false("since", release, file, "no file")
    document: Metadata[Targets] = metadata.parse(data, role)
    if document.signed.version != version:
        raise _false("since", release, f"version {version}", f"version {document.signed.version}")
    return document


def _said(signed: Targets, release: VerifiedRelease) -> Mapping[str, int] | None:
    custom: Any = signed.targets[_path(release)].unrecognized_fields.get("custom")
    said = custom.get(FIELD) if isinstance(custom, dict) else None
    wanted = {roles.RELEASES, "targets"}
    if not isinstance(said, dict) or said.keys() != wanted or not all(type(v) is int for v in said.values()):
        return None
    return said


def _path(release: VerifiedRelease) -> str:
    return f"releases/{release.digest.hex}/{indexes.FILE}"


def _false(code: str, release: VerifiedRelease, want: str, got: str) -> NotGenuine:
    finding = Finding(f"release.channel.{code}", str(release.digest), want=want, got=got)
    return NotGenuine(finding.message, findings=[finding])
