"""From a verified channel, policies, leases and a broker's answers to what the release managers' page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from tallystick.appraisal.steps import next_step
from tallystick.broker.explaining import Explanation
from tallystick.broker.forecast import Ending
from tallystick.broker.leases import Drain, Lease
from tallystick.broker.policies import LoadedPolicy, PolicyState
from tallystick.build.contents import causes, component_changes
from tallystick.core.findings import Finding
from tallystick.formats import cyclonedx, intoto, slsa
from tallystick.policy.normal import PermittedRelease
from tallystick.release import diff
from tallystick.release.metadata import State
from tallystick.release.records import Change, Revocation, VerifiedChannel, VerifiedRelease
from tallystick.report import gather, registers
from tallystick.report.board_records import (
    ChangeView,
    ChannelView,
    EndView,
    KeyView,
    LeaseView,
    ReleaseCard,
    RevocationView,
    RunView,
    StageView,
)
from tallystick.report.records import DecisionView
from tallystick.report.widgets import count


def keys(state: PolicyState) -> tuple[KeyView, ...]:
    """Return every key that a policy in force names, with the releases that get it."""
    return tuple(_key(key, policy) for key, policy in sorted(state.by_key.items()))


def channel(state: State, waiting: Iterable[Change] = (), revoked: Iterable[Revocation] = ()) -> ChannelView:
    """Return what the channel's verified metadata say, what waits in it, and what was taken out."""
    return ChannelView(
        name=state.settings.name,
        version=state.timestamp.signed.version,
        expires=state.expires,
        threshold=state.settings.threshold,
        platforms=state.settings.platforms,
        people=tuple(person.name for person in state.people),
        waiting=tuple(_change(one) for one in waiting),
        revoked=tuple(
            RevocationView(release=one.release, by=one.by, reason=one.reason, at=one.at)
            for one in sorted(revoked, key=lambda one: (one.at, str(one.release)), reverse=True)
        ),
    )


def live(changes: Iterable[Change]) -> tuple[ChangeView, ...]:
    """Return changes that are in force."""
    return tuple(replace(_change(one), missing=0) for one in changes)


def releases(found: VerifiedChannel) -> tuple[ReleaseCard, ...]:
    """Return the channel's releases, newest first, each with what differs from the one of its name before it."""
    ordered = sorted(found.releases, key=_promoted)
    cards = []
    for number, one in enumerate(ordered):
        earlier = [other for other in ordered[:number] if other.index.name == one.index.name]
        cards.append(_card(found, one, earlier[-1] if earlier else None))
    return tuple(reversed(cards))


def leases(
    held: Iterable[Lease], drains: Sequence[Drain], policies: Iterable[LoadedPolicy], now: datetime
) -> tuple[LeaseView, ...]:
    """Return the leases that hold at ``now``, soonest end first, with their releases by name where one is known."""
    names = {
        str(release.digest): f"{release.name} {release.version}"
        for policy in policies
        for release in (*policy.live.form.releases, *policy.gone.form.releases)
    }
    views = [
        LeaseView(
            lease=one.id,
            key=one.key,
            release=names.get(one.release, one.release),
            holder=one.holder,
            state=one.state(now, drains).value,
            issued_at=one.issued_at,
            renewed_at=one.renewed_at,
            expires_at=one.expires_at,
        )
        for one in held
    ]
    return tuple(sorted(views, key=lambda one: (one.expires_at, one.lease)))


def refusal(found: Explanation, known: Sequence[VerifiedRelease] = (), proof: str = "") -> DecisionView:
    """Return one refusal with its reasons, what changed, what would have made it a yes, and what to do.

    Args:
        known: verified releases; when what the machine reported is one of them, its components are compared.
    """
    steps = dict.fromkeys(next_step(finding.code) for finding in found.findings)
    return replace(
        gather.decision(found, changed=_changed(found, known)),
        flips=tuple(one.message for one in found.changes),
        steps=tuple(steps),
        proof=proof,
    )


def ends(endings: Iterable[Ending]) -> tuple[EndView, ...]:
    """Return what ends, soonest first."""
    views = [
        EndView(at=one.at, kind=one.kind, what=one.what, then=one.then, stops=one.stops) for one in endings
    ]
    return tuple(sorted(views, key=lambda one: (one.at, one.kind, one.what)))


def _key(key: str, policy: LoadedPolicy) -> KeyView:
    form = policy.live.form
    newest = sorted(form.releases, key=lambda one: (one.promoted_at, str(one.digest)), reverse=True)
    return KeyView(
        key=key,
        policy=form.policy,
        digest=policy.digest,
        max_age_seconds=form.max_age_seconds,
        reattest_seconds=form.reattest_seconds,
        not_after=form.not_after,
        waivers=gather.waivers(form, "broker"),
        runs=tuple(_run(one) for one in newest),
    )


def _run(release: PermittedRelease) -> RunView:
    shapes = Counter(entry.platform for entry in release.tuples)
    return RunView(
        name=release.name,
        version=release.version,
        digest=release.digest,
        promoted_at=release.promoted_at,
        verdict=release.vsa,
        platforms=tuple(sorted(shapes.items())),
    )


def _change(change: Change) -> ChangeView:
    return ChangeView(
        kind=change.kind,
        summary=change.summary,
        author=change.author,
        approvers=tuple(name for name in change.signed_by if name != change.author),
        missing=change.needed,
        at=change.at,
        role=change.role,
        version=change.version,
    )


def _promoted(release: VerifiedRelease) -> tuple[datetime, str]:
    """Return when a release of a channel was promoted; its digest tells two of one second apart."""
    if release.vsa is None:
        raise ValueError(f"{release.digest} is not of a channel")
    return release.vsa.signed_at, str(release.digest)


def _card(found: VerifiedChannel, release: VerifiedRelease, before: VerifiedRelease | None) -> ReleaseCard:
    sbom = release.statement("sbom").statement["predicate"]
    return ReleaseCard(
        name=release.index.name,
        version=release.index.version,
        digest=release.digest,
        labels=release.labels,
        chain=_chain(release),
        components=gather.components(cyclonedx.checked(sbom, "statements/sbom.json")),
        measurements=tuple(gather.measurement(one) for one in release.measurements),
        signatures=gather.signatures(release),
        rebuilds=gather.rebuilds(release.quorum),
        rebuilds_needed=release.quorum.threshold,
        promotion=gather.promotion(found, release.digest),
        before="" if before is None else f"{before.index.name} {before.index.version} {before.digest}",
        changes=() if before is None else diff.compare(_side(before), _side(release)).words,
    )


def _side(release: VerifiedRelease) -> diff.Side:
    return diff.Side(index=release.index, contents=release.contents, measurements=release.measurements)


def _chain(release: VerifiedRelease) -> tuple[StageView, ...]:
    """Return the links from source to promotion, each with the digest that the next one rests on."""
    index = release.index
    made = slsa.parse(intoto.parse(release.statement("provenance").payload, "statements/provenance.json"))
    commits = [one for one in made.dependencies if one.digest("gitCommit")]
    source = commits[0].uri if commits else count(len(made.dependencies), "input")
    recipe = index.file("recipe.yaml")
    statements = dict(index.statements)
    files = {path: index.file(path) for _, path in index.products}
    counted = ", ".join(one.organisation for one in release.quorum.counted)
    return (
        StageView(name="Source", said=source, digest=recipe.digest if recipe else None),
        *(
            StageView(
                name=f"Image ({name})", said=path, digest=entry.digest if (entry := files[path]) else None
            )
            for name, path in index.products
        ),
        StageView(name="SBOM", said="CycloneDX, signed", digest=statements.get("sbom")),
        StageView(name="Provenance", said=f"by {made.builder_id}", digest=statements.get("provenance")),
        StageView(
            name="Measurements",
            said=count(len(release.measurements), "release tuple"),
            digest=statements.get("measurements"),
        ),
        StageView(name="Release", said="the index of all of it", digest=release.digest),
        StageView(
            name="Rebuild",
            said=f"same bytes at {counted}" if counted else "nobody",
            digest=release.quorum.links[0][1] if release.quorum.links else None,
        ),
        StageView(
            name="Promotion",
            said=f"verdict by {release.vsa.signer.san}" if release.vsa else "none",
            digest=release.vsa.bundle if release.vsa else None,
        ),
    )


def _changed(found: Explanation, known: Sequence[VerifiedRelease]) -> tuple[str, ...]:
    """Return the components in which the machine's image differs; failing that, what each register stands for."""
    got = {_claim(one): one.got for one in found.findings if one.code.endswith(".mismatch")}
    nearest = next((one for one in known if found.nearest and one.digest == found.nearest.digest), None)
    running = next((one for one in known if _reported(one, got)), None)
    if nearest is not None and running is not None:
        return _components(nearest, running)
    meanings = ((registers.label(name), registers.meaning(name)) for name in got)
    return tuple(f"{label}: {meaning}" for label, meaning in meanings if meaning)


def _components(nearest: VerifiedRelease, running: VerifiedRelease) -> tuple[str, ...]:
    lists = {one.product: one for one in running.contents}
    found = [
        change
        for one in nearest.contents
        if one.product in lists
        for change in component_changes(one, lists[one.product])
    ]
    words = dict.fromkeys(change.words for change in causes(found))
    return (f"it runs {running.index.name} {running.index.version} {running.digest}", *words)


def _reported(release: VerifiedRelease, got: Mapping[str, str]) -> bool:
    """Say whether what was got in place of what was wanted is what ``release`` would report."""
    wanted = set(got)
    for one in release.measurements:
        values = dict(one.values)
        named = wanted & set(values)
        if named and all(values[name] == got[name] for name in named):
            return True
    return False


def _claim(finding: Finding) -> str:
    """Return the claim that a finding's code names: "pcr04" of "tpm.pcr04.mismatch"."""
    return finding.code.partition(".")[2].rpartition(".")[0]
