"""Revocation, and the timestamp's renewal: what one key alone may publish.

Source: docs/decisions/0063-revocation.md.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    """Revoke one release; as :func:`revoke_all`."""
    (revocation,), mark = revoke_all(desk, (release,), who, online, reason)
    return revocation, mark


def revoke_all(
    desk: Desk, releases: Sequence[Digest], who: Signatory, online: Signatory, reason: str
) -> tuple[tuple[Revocation, ...], HighWater]:
    """Revoke ``releases`` together with one person's signature; effective with the next load of the channel.

    Any person of the channel may, and only by promoting other bytes does a release come back. The next
    change of the channel's releases takes the revoked targets out.

    Raises:
        Refused: the channel does not have a release (``release.channel.absent``), this person has revoked
            it already (``release.revoke.duplicate``), or has no key of the channel. Then none is revoked.
    """
    with desk.folder.locked():
        state = desk.state()
        person = changes.member(state, who)
        policies = desk.policies(state)
        known = channel.all_digests(state.delegated[roles.RELEASES].signed)
        waiting = desk.folder.pending(state).get(roles.RELEASES)
        known += channel.all_digests(waiting.signed) if waiting is not None else ()
        made = tuple(Revocation(release=one, by=person.name, reason=reason, at=desk.now) for one in releases)
        for revocation in made:
            if revocation.release not in known:
                got = ", ".join(sorted(set(map(str, known)))) or "none"
                where = f"a release of the channel: {got}"
                raise refusal("absent", desk.channel, where, str(revocation.release))
            if any(r.release == revocation.release and r.by == person.name for r in policies.revocations):
                where = str(revocation.release)
                finding = Finding("release.revoke.duplicate", where, want="each once", got=person.name)
                raise Refused(f"{person.name} has revoked {where} already", findings=[finding])
        added = [Added(path=revocations.path_of(one), data=revocations.write(one)) for one in made]
        for one in added:
            revocations.parse(one.data, one.path)
        desk.folder.add_targets({one.path: one.data for one in added})
        role, signed = changes.revoke(state, who, added, now=desk.now, lifetimes=desk.lifetimes)
        publish(desk, state, {role: signed}, online)
        return made, desk.policies(desk.state()).high_water


def refresh(desk: Desk, online: Signatory) -> HighWater:
    """Publish the same state with a new timestamp, before the old one expires. No person signs."""
    with desk.folder.locked():
        state = desk.state()
        publish(desk, state, {}, online)
        return desk.policies(desk.state()).high_water
