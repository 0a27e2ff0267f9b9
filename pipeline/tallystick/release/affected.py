"""What a revocation would reach: components, their images, measurements and the policies that permit them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tallystick.build.records import Component
from tallystick.release import vulnerabilities
from tallystick.release.records import VerifiedChannel, VerifiedRelease
from tallystick.release.vulnerabilities import Feed


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """One release that a revocation would take out, and everything that hangs on it."""

    release: VerifiedRelease
    components: tuple[Component, ...]  # why: those that were asked for; none when the release itself was
    images: tuple[str, ...]  # product files with such a component
    measurements: int  # release tuples
    policies: tuple[str, ...]  # live policies that name the release or one of its measured values


Chosen = Callable[[VerifiedRelease], tuple[Component, ...]]


def by_component(purl: str) -> Chosen:
    """Return what picks the components that ``purl`` names; without a version, every one."""
    return lambda release: _components(release, lambda one: vulnerabilities.named(purl, one))


def by_vulnerability(feed: Feed, name: str) -> Chosen:
    """Return what picks the components for which the vulnerability ``name`` is open."""

    def chosen(release: VerifiedRelease) -> tuple[Component, ...]:
        hits = vulnerabilities.hits(feed, release.contents, name)
        still = [hit for hit in hits if tuple(vulnerabilities.open_findings([hit]))]
        return tuple(sorted({hit.component for hit in still}, key=lambda one: one.ref))

    return chosen


def reached(channel: VerifiedChannel, chosen: Chosen) -> tuple[Reached, ...]:
    """Return every release of ``channel`` that has a chosen component, in the channel's order."""
    found = []
    for release in channel.releases:
        components = chosen(release)
        if components:
            found.append(of_release(channel, release, components))
    return tuple(found)


def of_release(
    channel: VerifiedChannel, release: VerifiedRelease, components: tuple[Component, ...] = ()
) -> Reached:
    """Return what hangs on ``release``; with ``components``, on the images that have one of them."""
    refs = {one.ref for one in components}
    names = dict(release.index.products)
    holding = {
        names[listed.product]
        for listed in release.contents
        if not components or refs & {one.ref for one in listed.components}
    }
    return Reached(
        release=release,
        components=components,
        images=tuple(sorted(holding)),
        measurements=len(release.measurements),
        policies=tuple(sorted(_policies(channel.policies, release))),
    )


def _components(release: VerifiedRelease, wanted: Callable[[Component], bool]) -> tuple[Component, ...]:
    found = {one.ref: one for listed in release.contents for one in listed.components if wanted(one)}
    return tuple(found[ref] for ref in sorted(found))


def _policies(policies: Mapping[str, bytes], release: VerifiedRelease) -> Iterable[str]:
    """Give the names of the policies in whose files the release's digest, or one of its measured values, stands."""
    marks = [release.digest.hex.encode()]
    marks += [value.encode() for one in release.measurements for _, value in one.values]
    return {path.split("/")[0] for path, data in policies.items() if any(mark in data for mark in marks)}
