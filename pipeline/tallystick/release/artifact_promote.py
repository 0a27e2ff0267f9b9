"""Artifact releases in a channel: proposed and approved like releases, listed beside them, revoked like them.

Source: docs/decisions/0157-artifact-releases.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tallystick.core.errors import Refused
from tallystick.core.findings import Finding
from tallystick.release import artifact_verify, changes, gates, roles
from tallystick.release.changes import Added
from tallystick.release.desk import Desk, Outcome, refusal
from tallystick.release.keys import Signatory
from tallystick.release.records import Gate, VerifiedArtifacts
from tallystick.signing.verify import Verifier

KIND = "artifacts"  # of the change


def propose(
    desk: Desk, folder: Path, author: Signatory, show: Callable[[Gate], None] = lambda gate: None
) -> Outcome:
    """Check the artifact release in ``folder`` and propose it; its encrypted files stay where they are.

    Raises:
        NotGenuine, Refused: a check failed; another change waits; it is there already or was revoked.
    """
    with desk.folder.locked():
        state = desk.state()
        changes.member(state, author)
        waiting = desk.folder.pending(state).get(roles.RELEASES)
        if waiting is not None:
            change = changes.describe(state, roles.RELEASES, waiting)
            got = f"{change.summary} by {change.author}"
            raise refusal(
                "pending", roles.RELEASES, "no change that waits (approve or withdraw it first)", got
            )
        found, passed = _checked(desk, folder, show)
        listed = state.delegated[roles.RELEASES].signed.targets
        digest = found.manifest.digest
        prefix = f"{artifact_verify.PREFIX}{digest.hex}/"
        if any(path.startswith(prefix) for path in listed):
            raise refusal("present", str(digest), "an artifact release that is not there yet", "it is there")
        gone = {one.hex for one in desk.policies(state).revoked}
        read = artifact_verify.from_folder(folder)
        add = [Added(path=prefix + path, data=read(path) or b"") for path in artifact_verify.FILES]
        desk.folder.add_targets({added.path: added.data for added in add})
        proposed = changes.propose(
            state,
            roles.RELEASES,
            author,
            kind=KIND,
            summary=f"{found.manifest.name} {found.manifest.version} {digest}",
            add=add,
            remove=[path for path in listed if path.split("/")[1] in gone],
            now=desk.now,
            lifetimes=desk.lifetimes,
        )
        desk.folder.keep_pending(roles.RELEASES, proposed)
        change = changes.describe(state, roles.RELEASES, proposed)
        mark = desk.policies(state).high_water
    return Outcome(change=change, live=False, gates=passed, high_water=mark)


def _checked(
    desk: Desk, folder: Path, show: Callable[[Gate], None]
) -> tuple[VerifiedArtifacts, tuple[Gate, ...]]:
    """Return the verified release, and what was checked of it."""
    state = desk.state()
    verifier = Verifier(desk.trust.sigstore_root)
    read = artifact_verify.from_folder(folder)
    found = artifact_verify.verify(read, desk.trust, desk.now, verifier, "")
    manifest = found.manifest
    artifact_verify.check_files(folder, manifest)
    _, roots = gates.check_roots(desk.trust, state.settings)
    if manifest.digest in desk.policies(state).revoked:
        finding = Finding("release.revoked", str(manifest.digest), want="not revoked", got="revoked")
        raise Refused(finding.message, findings=[finding])
    passed = tuple(
        Gate(name=name, detail=detail, findings=())
        for name, detail in (
            ("statements", f"manifest and SBOM by {dict(found.statements)['artifacts'].signer.san}"),
            ("files", f"{len(manifest.artifacts)} encrypted files, each with its wrapped data key"),
            ("roots", roots),
            ("revocation", "never revoked here"),
        )
    )
    for gate in passed:
        show(gate)
    return found, passed
