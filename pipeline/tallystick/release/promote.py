"""Proposals: a release that passed every gate, or a compiled policy, for other people to approve.

Source: docs/decisions/0061-channels-as-tuf-repositories.md and 0062-promotion-gates.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tallystick.core.errors import Misuse
from tallystick.release import approvals, beside, changes, checkpoints, gates, names, roles, verdict, verify
from tallystick.release.changes import Added
from tallystick.release.checkpoints import Cosign, LogSource
from tallystick.release.desk import Desk, Outcome, refusal
from tallystick.release.index import safe_path
from tallystick.release.keys import Signatory
from tallystick.release.metadata import State
from tallystick.release.records import Gate, VerifiedPolicies, VerifiedRelease
from tallystick.signing.verify import Verifier

RELEASE = "release"
POLICY = "policy"
MANIFEST = "compiled.json"  # of a compiled policy directory
POLICY_SOURCE = "policy.yaml"  # compile/output.py writes it; that package comes after this one

SignVerdict = Callable[[bytes], bytes]  # a statement's payload -> its bundle, signed in the author's name
Show = Callable[[Gate], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """The log that the bundles are in, and the witnesses who are asked to sign its head."""

    source: LogSource
    witnesses: tuple[Cosign, ...] = ()


def propose_release(
    desk: Desk,
    folder: Path,
    author: Signatory,
    sign: SignVerdict,
    show: Show = lambda gate: None,
    logged: Logged | None = None,
    advisories: tuple[Path, ...] = (),
    source_vsa: bytes | None = None,
) -> Outcome:
    """Run the gates over the release in ``folder``, sign the verdict, and propose its targets.

    Args:
        advisories: signed OSV and VEX files, each with its bundle beside it.
        source_vsa: the bundle in which somebody vouches for the commit; kept beside the release.
        logged: publishes the log's head with the release; production asks for it, with witnesses.

    Raises:
        Refused, NotGenuine: a gate did not pass; another change waits (``release.channel.pending``); the
            release is there already (``release.channel.present``); the author has no key of the channel.
    """
    with desk.folder.locked():
        state = desk.state()
        person = changes.member(state, author)
        _check_free(desk, state, roles.RELEASES)
        policies = desk.policies(state)
        asked = _asked(desk, state, policies, folder, advisories, source_vsa)
        passed, release = gates.run(asked, show)
        gates.require(passed)
        if release is None:
            raise AssertionError("every gate passed and there is no release")
        listed = state.delegated[roles.RELEASES].signed.targets
        if f"releases/{release.digest.hex}/index.json" in listed:
            raise refusal("present", str(release.digest), "a release that is not there yet", "it is there")
        rules = gates.rules(state.settings, desk.trust)
        statement = verdict.make(release, desk.channel, person.identity, rules, desk.now)
        file = names.promotion_file(desk.channel)
        bundle = sign(statement)
        vsa = verdict.verify(  # also that it is signed by the identity of the author
            bundle, release, desk.trust, desk.channel, desk.now, Verifier(desk.trust.sigstore_root)
        )
        release = replace(release, vsa=vsa)
        added = {file: bundle} | ({names.SOURCE_VSA: source_vsa} if source_vsa is not None else {})
        add = _release_targets(folder, release, added, desk, state, logged)
        desk.folder.add_targets({added.path: added.data for added in add})
        proposed = changes.propose(
            state,
            roles.RELEASES,
            author,
            kind=RELEASE,
            summary=f"{release.index.name} {release.index.version} {release.digest}",
            add=add,
            remove=_revoked_targets(state, policies),
            now=desk.now,
            lifetimes=desk.lifetimes,
        )
        desk.folder.keep_pending(roles.RELEASES, proposed)
        for path, data in added.items():
            beside.add(folder, path, data)
        change = changes.describe(state, roles.RELEASES, proposed)
    return Outcome(change=change, live=False, gates=passed, high_water=policies.high_water)


def check_release(
    desk: Desk,
    folder: Path,
    show: Show = lambda gate: None,
    advisories: tuple[Path, ...] = (),
    source_vsa: bytes | None = None,
) -> tuple[Gate, ...]:
    """Run the gates of :func:`propose_release` alone: nobody's key is needed, and nothing is changed.

    Raises:
        Refused, NotGenuine: a gate did not pass.
    """
    state = desk.state()
    passed, _ = gates.run(_asked(desk, state, desk.policies(state), folder, advisories, source_vsa), show)
    gates.require(passed)
    return passed


def _asked(
    desk: Desk,
    state: State,
    policies: VerifiedPolicies,
    folder: Path,
    advisories: tuple[Path, ...],
    source_vsa: bytes | None,
) -> gates.Asked:
    return gates.Asked(
        folder=folder,
        settings=state.settings,
        revoked=policies.revoked,
        trust=desk.trust,
        now=desk.now,
        people=state.people,
        asked_platforms=policy_platforms(policies),
        advisories=advisories,
        source_vsa=source_vsa,
    )


def policy_platforms(policies: VerifiedPolicies) -> tuple[str, ...]:
    """Return the platforms that the channel's live policies name, sorted, from the sources they were compiled from.

    Raises:
        Malformed: a source that does not parse, although people approved it.
    """
    from tallystick.formats.yamldoc import Fields, read
    from tallystick.policy import sections

    found: set[str] = set()
    for path, data in policies.policies.items():
        if path.endswith(f"/{POLICY_SOURCE}") and path.count("/") == 1:
            found |= {choice.platform for choice in sections.platforms(Fields(read(data, POLICY), POLICY))}
    return tuple(sorted(found))


def propose_policy(desk: Desk, name: str, files: Mapping[str, bytes], author: Signatory) -> Outcome:
    """Propose ``files`` as all of the compiled policy ``name``; what it had before is replaced.

    Args:
        files: path inside the compiled directory -> bytes.

    Raises:
        Refused: another change waits, or the author has no key of the channel.
        Misuse: no files, or one with a path that a channel can not carry.
    """
    for path in files:
        if not safe_path(path) or path.count("/") > 2:
            raise Misuse(f"policy {name}: a channel can not carry {path!r}", code="release.policy.path")
    if not safe_path(name) or "/" in name or not files:
        raise Misuse(f"{name!r} is no policy of {len(files)} files", code="release.policy.path")
    with desk.folder.locked():
        state = desk.state()
        changes.member(state, author)
        _check_free(desk, state, roles.POLICIES)
        prefix = f"policies/{name}/"
        add = [Added(path=prefix + path, data=data) for path, data in sorted(files.items())]
        desk.folder.add_targets({added.path: added.data for added in add})
        listed = state.delegated[roles.POLICIES].signed.targets
        proposed = changes.propose(
            state,
            roles.POLICIES,
            author,
            kind=POLICY,
            summary=name,
            add=add,
            remove=[path for path in listed if path.startswith(prefix)],
            now=desk.now,
            lifetimes=desk.lifetimes,
        )
        desk.folder.keep_pending(roles.POLICIES, proposed)
        change = changes.describe(state, roles.POLICIES, proposed)
    return Outcome(change=change, live=False, high_water=desk.policies(state).high_water)


def _check_free(desk: Desk, state: State, role: str) -> None:
    waiting = desk.folder.pending(state).get(role)
    if waiting is not None:
        change = changes.describe(state, role, waiting)
        got = f"{change.summary} by {change.author}"
        raise refusal("pending", role, "no change that waits (approve or withdraw it first)", got)


def _release_targets(
    folder: Path,
    release: VerifiedRelease,
    promotion: Mapping[str, bytes],
    desk: Desk,
    state: State,
    logged: Logged | None,
) -> list[Added]:
    """Everything a client verifies a release with; products, seeds and derivations stay in the release."""
    parts = verify.from_folder(folder)
    kept = (names.SOURCE_VSA,)
    files = {p: data for p, data in parts.beside.items() if not p.startswith("promotions/") or p in kept}
    files |= promotion
    for prefix in ("statements/", "contents/"):
        for entry in release.index.under(prefix):
            files[entry.path] = parts.read(entry.path) or b""
    files["index.json"] = parts.read("index.json") or b""
    vsa = release.vsa.bundle if release.vsa else None
    custom: dict[str, object] = {
        "name": release.index.name,
        "version": release.index.version,
        "vsa": str(vsa),
        approvals.FIELD: approvals.since(state),
    }
    bundles = {path: data for path, data in files.items() if path.endswith(".sigstore.json")}
    if logged is not None:
        custom[checkpoints.FIELD] = checkpoints.make(bundles, logged.source, logged.witnesses)
    required, said = desk.channel == names.PRODUCTION, custom.get(checkpoints.FIELD)
    checkpoints.check(said, bundles, desk.trust, f"releases/{release.digest.hex}/", required=required)
    return [
        Added(
            path=f"releases/{release.digest.hex}/{path}",
            data=data,
            custom=custom if path == "index.json" else {},
        )
        for path, data in sorted(files.items())
    ]


def _revoked_targets(state: State, policies: VerifiedPolicies) -> list[str]:
    gone = {digest.hex for digest in policies.revoked}
    listed = state.delegated[roles.RELEASES].signed.targets
    return [path for path in listed if path.split("/")[1] in gone]
