"""Approvals: what waits is verified as a client would, signed, and published when enough people agree.

Source: docs/decisions/0061-channels-as-tuf-repositories.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, NotGenuine, Refused
from tallystick.core.findings import Finding
from tallystick.release import approvals, changes, channel, gates, metadata, roles, source
from tallystick.release.desk import Desk, Outcome, publish, refusal
from tallystick.release.keys import Signatory
from tallystick.release.metadata import State
from tallystick.release.records import Change, Person, VerifiedChannel, VerifiedRelease
from tallystick.signing.verify import Verifier

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Targets

Recompile = Callable[[str, Mapping[str, bytes], VerifiedChannel], Mapping[str, bytes]]


def approve(
    desk: Desk, who: Signatory, online: Callable[[], Signatory], recompile: Recompile
) -> tuple[Outcome, ...]:
    """Check what waits for approval as if it were live, sign it, and publish what then has enough approvals.

    Args:
        online: gives the channel's online key, asked for only when something is published.
        recompile: compiles a policy's source again, here; other bytes than the proposed are not signed.

    Raises:
        Misuse: nothing waits (``release.channel.nothing-pending``).
        Refused: by :func:`changes.cosign`, or recompiling gives other bytes (``release.policy.differs``).
        NotGenuine: what waits does not verify.
    """
    with desk.folder.locked():
        state = desk.state()
        waiting = desk.folder.pending(state)
        if not waiting:
            raise Misuse(f"nothing waits in channel {desk.channel}", code="release.channel.nothing-pending")
        outcomes: list[Outcome] = []
        refusals: list[Refused] = []
        for role, proposed in waiting.items():
            try:
                signed = changes.cosign(state, role, proposed, who)
            except Refused as error:  # one's own proposal does not keep one from approving another
                refusals.append(error)
                continue
            _check_proposal(desk, state, role, signed, recompile, changes.member(state, who))
            change = changes.describe(state, role, signed)
            desk.folder.keep_pending(role, signed)
            if change.needed == 0:
                publish(desk, state, {role: signed}, online())
                desk.folder.drop_pending(role)
                state = desk.state()
            outcomes.append(
                Outcome(change=change, live=change.needed == 0, high_water=desk.policies(state).high_water)
            )
        if not outcomes:
            raise refusals[0]
    return tuple(outcomes)


def withdraw(desk: Desk, who: Signatory) -> tuple[Change, ...]:
    """Drop what waits for approval. Any person of the channel may: nothing becomes live by it.

    Raises:
        Misuse: nothing waits. Refused: no key of the channel.
    """
    with desk.folder.locked():
        state = desk.state()
        changes.member(state, who)
        waiting = desk.folder.pending(state)
        if not waiting:
            raise Misuse(f"nothing waits in channel {desk.channel}", code="release.channel.nothing-pending")
        dropped = tuple(changes.describe(state, role, proposed) for role, proposed in waiting.items())
        for role in waiting:
            desk.folder.drop_pending(role)
    return dropped


def pending(desk: Desk) -> tuple[Change, ...]:
    """Return what waits for approval."""
    state = desk.state()
    waiting = desk.folder.pending(state)
    return tuple(changes.describe(state, role, proposed) for role, proposed in waiting.items())


def _check_proposal(
    desk: Desk,
    state: State,
    role: str,
    proposed: Metadata[Targets],
    recompile: Recompile,
    approver: Person,
) -> None:
    """Verify a proposal as a client would after its publication, before one's name goes under it."""
    change = changes.describe(state, role, proposed)
    if proposed.signed.is_expired(desk.now):
        want, got = f"after {desk.now.isoformat()}", proposed.signed.expires.isoformat()
        raise refusal("expired", role, want, got)
    author = metadata.proposal_of(proposed.signed, state.people).author
    if author not in metadata.signers(role, proposed, state.targets.signed, state.people):
        finding = Finding("release.channel.author", role, want=f"{author.name}'s signature", got="none")
        raise NotGenuine(f"{author.name} did not sign the proposal", findings=[finding])
    if role == roles.RELEASES:
        _check_releases(desk, state, proposed, change, approver)
    else:
        _check_policies(desk, state, proposed, change, recompile)


def _check_releases(
    desk: Desk, state: State, proposed: Metadata[Targets], change: Change, approver: Person
) -> None:
    verifier = Verifier(desk.trust.sigstore_root)
    policies = desk.policies(state)
    author = metadata.proposal_of(proposed.signed, state.people).author
    touched = {path.split("/")[1] for path in (*change.adds, *change.removes)}
    for digest in channel.release_digests(proposed.signed):
        if digest in policies.revoked:
            raise refusal("revoked", str(digest), "no revoked release", "it is still listed")
        if digest.hex not in touched:
            continue
        release = channel.verify_target(
            desk.folder.read, proposed.signed, digest, desk.channel, desk.trust, desk.now, verifier
        )
        _check_platforms(state, release)
        approvals.check_said(state, proposed.signed, release)
        if source.is_author(approver, release):
            want, got = "somebody else than who vouched for the commit", approver.name
            finding = Finding("release.approve.author", str(digest), want=want, got=got)
            raise Refused(finding.message, findings=[finding])
        if release.vsa is None or release.vsa.signer != author.identity:
            got = release.vsa.signer.san if release.vsa else "nobody"
            raise refusal("author", str(digest), f"a verdict by the author {author.identity.san}", got)
    gates.check_roots(desk.trust, state.settings)
    channel.check_custody(desk.trust, state)


def _check_platforms(state: State, release: VerifiedRelease) -> None:
    have = {one.platform for one in release.measurements}
    for platform in state.settings.platforms:
        if platform not in have:
            raise refusal("platform", str(release.digest), f"a measurement for {platform}", "none")


def _check_policies(
    desk: Desk, state: State, proposed: Metadata[Targets], change: Change, recompile: Recompile
) -> None:
    """Compile every touched policy here, from its own source and the channel's releases, to the same bytes."""
    touched = sorted({path.split("/")[1] for path in change.adds})
    if not touched:
        return
    root = channel.load(desk.folder.path, desk.channel, desk.trust, desk.now, desk.seen)
    for name in touched:
        prefix = f"policies/{name}/"
        files = {
            path.removeprefix(prefix): metadata.target(desk.folder.read, proposed.signed, path)
            for path in proposed.signed.targets
            if path.startswith(prefix)
        }
        again = recompile(name, files, root)
        findings = [
            Finding(
                "release.policy.differs",
                prefix + path,
                want=_digest_of(again.get(path)),
                got=_digest_of(files.get(path)),
            )
            for path in sorted(files.keys() | again.keys())
            if files.get(path) != again.get(path)
        ]
        if findings:
            raise Refused(f"policy {name} compiles to other bytes here; not signed", findings=findings)


def _digest_of(data: bytes | None) -> str:
    return "no such file" if data is None else str(Digest.of(data))
