"""What a revocation would reach: components, their images, measurements and the policies that permit them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tallystick.core.digests import Digest
from tallystick.formats import cyclonedx, intoto
from tallystick.measure.records import Measurement
from tallystick.release import inventory, vulnerabilities
from tallystick.release.inventory import Inventory, Part
from tallystick.release.records import Index, VerifiedChannel, VerifiedRelease
from tallystick.release.vulnerabilities import Feed
from tallystick.sbom.parts import firmware_name, firmware_ref


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """One release that a revocation would take out, and everything that hangs on it."""

    release: VerifiedRelease
    components: tuple[Part, ...]  # why: those that were asked for; none when the release itself was
    images: tuple[str, ...]  # product and firmware files with such a component, nested or not
    measurements: int  # release tuples of these images or firmware
    policies: tuple[str, ...]  # live policies that name the release or one of its measured values


Chosen = Callable[[VerifiedRelease], tuple[Part, ...]]


def inventory_of(release: VerifiedRelease) -> Inventory:
    """Return what is in ``release``, from its signed SBOM."""
    document = intoto.parse(release.statement("sbom").payload).predicate
    return inventory.of_release(release.contents, cyclonedx.checked(document))


def by_component(purl: str) -> Chosen:
    """Return what picks the parts that ``purl`` names; without a version, every one."""
    return lambda release: tuple(
        one for one in inventory_of(release).parts if vulnerabilities.named(purl, one)
    )


def by_vulnerability(feed: Feed, name: str | None) -> Chosen:
    """Return what picks the parts for which the vulnerability ``name``, or any, is open."""

    def chosen(release: VerifiedRelease) -> tuple[Part, ...]:
        hits = vulnerabilities.hits(feed, inventory_of(release), name)
        still = [hit for hit in hits if hit.status not in vulnerabilities.OK]
        return tuple(sorted({hit.part for hit in still}, key=lambda one: one.ref))

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
    channel: VerifiedChannel, release: VerifiedRelease, components: tuple[Part, ...] = ()
) -> Reached:
    """Return what hangs on ``release``; with ``components``, on the images that have one of them."""
    files = images(release.index, components)
    measured = measurements(release.index, release.measurements, files)
    return Reached(
        release=release,
        components=components,
        images=files,
        measurements=len(measured),
        policies=policies(channel.policies, release.digest, measured),
    )


def images(index: Index, components: tuple[Part, ...]) -> tuple[str, ...]:
    """Return the files of a release that hold one of ``components``; without any, all its products. Sorted."""
    if not components:
        return tuple(sorted(path for _, path in index.products))
    names = {name for one in components for name in one.products}
    found = {path for name, path in index.products if name in names}
    found |= {e.path for e in index.under("firmware/") if firmware_ref(firmware_name(e.path)) in names}
    return tuple(sorted(found))


def measurements(
    index: Index, released: Iterable[Measurement], files: Iterable[str]
) -> tuple[Measurement, ...]:
    """Return the release tuples that measure one of ``files``, as their image or as their firmware."""
    digests = {entry.digest for path in files if (entry := index.file(path)) is not None}
    return tuple(one for one in released if {one.image, one.firmware} & digests)


def policies(live: Mapping[str, bytes], release: Digest, measured: Iterable[Measurement]) -> tuple[str, ...]:
    """Return the policies in whose files the release's digest, or one of the measured values, stands; sorted."""
    marks = [release.hex.encode()]
    marks += [value.encode() for one in measured for _, value in one.values]
    return tuple(sorted({p.split("/")[0] for p, data in live.items() if any(mark in data for mark in marks)}))
