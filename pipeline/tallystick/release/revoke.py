"""Revocation, and the timestamp's renewal: what one key alone may publish.

Source: docs/decisions/0063-revocation.md.
"""

from __future__ import annotations

from tallystick.core.digests import Digest
from tallystick.core.errors import Refused
from tallystick.core.findings import Finding
from tallystick.release import changes, channel, revocations, roles
from tallystick.release.changes import Added
from tallystick.release.desk import Desk, publish, refusal
from tallystick.release.keys import Signatory
from tallystick.release.records import HighWater, Revocation


def revoke(
    desk: Desk, release: Digest, who: Signatory, online: Signatory, reason: str
) -> tuple[Revocation, HighWater]:
    """Revoke ``release`` with one person's signature; effective with the next load of the channel.

    Any person of the channel may, and only by promoting other bytes does a release come back. The next
    change of the channel's releases takes the revoked targets out.

    Raises:
        Refused: the channel does not have the release (``release.channel.absent``), this person has revoked
            it already (``release.revoke.duplicate``), or has no key of the channel.
    """
    with desk.folder.locked():
        state = desk.state()
        person = changes.member(state, who)
        policies = desk.policies(state)
        known = channel.release_digests(state.delegated[roles.RELEASES].signed)
        waiting = desk.folder.pending(state).get(roles.RELEASES)
        known += channel.release_digests(waiting.signed) if waiting is not None else ()
        if release not in known:
            got = ", ".join(sorted(set(map(str, known)))) or "none"
            raise refusal("absent", desk.channel, f"a release of the channel: {got}", str(release))
        if any(r.release == release and r.by == person.name for r in policies.revocations):
            finding = Finding("release.revoke.duplicate", str(release), want="each once", got=person.name)
            raise Refused(f"{person.name} has revoked {release} already", findings=[finding])
        revocation = Revocation(release=release, by=person.name, reason=reason, at=desk.now)
        added = Added(path=revocations.path_of(revocation), data=revocations.write(revocation))
        revocations.parse(added.data, added.path)
        desk.folder.add_targets({added.path: added.data})
        role, signed = changes.revoke(state, who, [added], now=desk.now, lifetimes=desk.lifetimes)
        publish(desk, state, {role: signed}, online)
        return revocation, desk.policies(desk.state()).high_water


def refresh(desk: Desk, online: Signatory) -> HighWater:
    """Publish the same state with a new timestamp, before the old one expires. No person signs."""
    with desk.folder.locked():
        state = desk.state()
        publish(desk, state, {}, online)
        return desk.policies(desk.state()).high_water
