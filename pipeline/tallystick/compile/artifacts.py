"""Artifact releases in a policy: which go with which image release, and the init-data that each pair pins.

A tuple stays whole: the registers of one image release and the init-data of one set of artifact releases that were
made for it. A pair that nobody made for each other has no tuple, so no key.

Source: docs/decisions/0157-artifact-releases.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

from tallystick.core.expect import Exactly
from tallystick.core.findings import Finding
from tallystick.handshake.manifest import Manifest
from tallystick.measure import hostdata
from tallystick.policy.conjunction import shared_platforms
from tallystick.policy.document import tuple_order
from tallystick.policy.model import Policy
from tallystick.policy.normal import PermittedRelease, Tuple
from tallystick.policy.platforms import platform
from tallystick.release.artifact_seal import init_data
from tallystick.release.records import VerifiedArtifacts, VerifiedChannel, VerifiedRelease

# The claim that init-data decides, and the field of measure.hostdata with its value.
INIT_DATA = {
    "pcr08": "pcr8",
    "tpm.pcr08": "pcr8",
    "body.config_id": "config_id",
    "init_data": "host_data",
    "quote.body.mr_config_id": "mr_config_id",
}
_MOST_SETS = 1_000  # of versions of artifact releases together

Set = tuple[Manifest, ...]  # one version of each artifact release, sorted by name


def objections(
    policy: Policy, releases: Sequence[VerifiedRelease], channel: VerifiedChannel
) -> Iterator[Finding]:
    """Yield every reason why the artifact releases of ``policy`` may not stand behind its keys."""
    if policy.artifacts is None:
        return
    found = _chosen(policy, channel)
    for choice in policy.artifacts.releases:
        for version in choice.versions:
            named = [
                one for one in found if (one.manifest.name, one.manifest.version) == (choice.name, version)
            ]
            if len(named) != 1:
                where = f"artifact release {choice.name} {version}"
                yield Finding("artifact.missing", where, f"one in channel {channel.name}", str(len(named)))
    for name in sorted(shared_platforms(policy)):
        if INIT_DATA.keys().isdisjoint(platform(name).registers):
            want = f"a register that init-data decides: {', '.join(INIT_DATA)}"
            yield Finding("artifact.unbound", f"platform {name}", want, "none")
    for one in found:
        yield from _made_for(policy, one)
    yield from _pairs(policy, releases, channel)


def pinned(policy: Policy, release: PermittedRelease, channel: VerifiedChannel) -> PermittedRelease:
    """Return ``release`` with a tuple for each set of artifact releases that was made for it."""
    if policy.artifacts is None:
        return release
    broker = policy.artifacts.broker
    made = [
        _pin(entry, one, broker)
        for one in _sets(policy, channel)
        if _go_together(one, release.name, release.version)
        for entry in release.tuples
    ]
    return replace(release, tuples=tuple(sorted(made, key=tuple_order)))


def _pin(entry: Tuple, one: Set, broker: str) -> Tuple:
    fields = hostdata.init_data(init_data(one, broker)).document()
    expect = {name: Exactly(fields[INIT_DATA[name]]) if name in INIT_DATA else e for name, e in entry.expect}
    digests = tuple(sorted((manifest.digest for manifest in one), key=str))
    return replace(entry, expect=tuple(sorted(expect.items())), artifacts=digests)


def _chosen(policy: Policy, channel: VerifiedChannel) -> tuple[VerifiedArtifacts, ...]:
    wanted = {
        (choice.name, version)
        for choice in (policy.artifacts.releases if policy.artifacts else ())
        for version in choice.versions
    }
    return tuple(one for one in channel.artifacts if (one.manifest.name, one.manifest.version) in wanted)


def _sets(policy: Policy, channel: VerifiedChannel) -> Iterator[Set]:
    by_name: dict[str, list[Manifest]] = {}
    for one in _chosen(policy, channel):
        by_name.setdefault(one.manifest.name, []).append(one.manifest)
    names = [choice.name for choice in policy.artifacts.releases] if policy.artifacts else []
    yield from product(*(by_name.get(name, []) for name in names))


def _go_together(one: Set, name: str, version: str) -> bool:
    return all(manifest.goes_with(name, version) for manifest in one)


def _made_for(policy: Policy, one: VerifiedArtifacts) -> Iterator[Finding]:
    """Its data keys are wrapped for this policy, and its keys are the ones that the policy gives."""
    manifest = one.manifest
    where = f"artifact release {manifest.name} {manifest.version}"
    if manifest.policy != policy.digest:
        note = "tally artifact rewrap makes it again for this policy, without encrypting anything"
        yield Finding("artifact.policy", where, str(policy.digest), str(manifest.policy), note)
    given: dict[str, set[str]] = {}
    for rule in policy.keys:
        given.setdefault(rule.artifact, set()).add(rule.key)
    for artifact in manifest.artifacts:
        keys = given.get(artifact.name, set())
        if keys != {artifact.key}:
            want = ", ".join(sorted(keys)) or "a key of the policy"
            yield Finding("artifact.key", f"{where}: {artifact.name}", want, artifact.key)


def _pairs(
    policy: Policy, releases: Sequence[VerifiedRelease], channel: VerifiedChannel
) -> Iterator[Finding]:
    """Every image release has artifact releases that were made for it, and every one of those an image."""
    sets = list(_sets(policy, channel))
    if len(sets) > _MOST_SETS:
        yield Finding("artifact.sets", "artifacts", f"at most {_MOST_SETS} sets of versions", str(len(sets)))
        return
    used: set[Manifest] = set()
    for release in releases:
        index = release.index
        fitting = [one for one in sets if _go_together(one, index.name, index.version)]
        used |= {manifest for one in fitting for manifest in one}
        if not fitting and sets:
            got = "; ".join(sorted({_made_words(manifest) for one in sets for manifest in one}))
            want = "artifact releases that were made for it"
            yield Finding("artifact.incompatible", f"release {index.name} {index.version}", want, got)
    for one in _chosen(policy, channel):
        if releases and one.manifest not in used:
            have = ", ".join(f"{r.index.name} {r.index.version}" for r in releases)
            where = f"artifact release {one.manifest.name} {one.manifest.version}"
            yield Finding("artifact.incompatible", where, _made_words(one.manifest), have)


def _made_words(manifest: Manifest) -> str:
    images = "; ".join(f"{one.name} {', '.join(one.versions)}" for one in manifest.images)
    return f"{manifest.name} {manifest.version} for {images}"
