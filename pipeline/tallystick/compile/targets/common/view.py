"""A normal form as one target sees it: its rows, what is waived for it, and what it can not say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from tallystick.compile.targets.base import Lack
from tallystick.core.digests import Digest
from tallystick.core.expect import Exactly, Expect, Scalar, Waived
from tallystick.policy.constraints import constraints, told, unplaced
from tallystick.policy.normal import NormalForm, PlatformRule, Tuple

Names = Mapping[str, Mapping[str, object]]  # evidence kind -> claim path -> where the target has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One distinct tuple, and every release that has it."""

    platform: str
    kind: str
    pinned: tuple[tuple[str, Scalar], ...]  # sorted by claim path
    releases: tuple[Digest, ...]  # sorted

    @property
    def words(self) -> str:
        """The releases, for a comment."""
        return " ".join(map(str, self.releases))


def waived(form: NormalForm, target: str) -> dict[str, Waived]:
    """Return what is waived for ``target``, by name."""
    return {
        residual.requirement: residual.waived
        for residual in form.residuals
        if residual.target == target and isinstance(residual.waived, Waived)
    }


def end(form: NormalForm, target: str) -> datetime:
    """Return the end of what is permitted: the form's own, or of the first waiver for ``target``."""
    return min([form.not_after, *(waiver.until for waiver in waived(form, target).values())])


def served(form: NormalForm, target: str) -> NormalForm:
    """Return ``form`` without what is waived for ``target``: claims, registers, devices and whole platforms.

    A platform that is left out is not served at all: its evidence is refused. What is left is what a proof shows.
    """
    skip = set(waived(form, target))
    left = told(form, target)
    platforms = tuple(rule for rule in left.platforms if f"platform-{rule.platform}" not in skip)
    names = {rule.platform for rule in platforms}
    releases = tuple(
        replace(
            release, tuples=tuple(_kept(entry, skip) for entry in release.tuples if entry.platform in names)
        )
        for release in left.releases
    )
    return replace(left, platforms=platforms, releases=releases)


def _kept(entry: Tuple, skip: set[str]) -> Tuple:
    return replace(entry, expect=tuple(pair for pair in entry.expect if f"register-{pair[0]}" not in skip))


def rows(form: NormalForm) -> tuple[Row, ...]:
    """Return the distinct tuples of a form that :func:`served` made, in a stable order."""
    found: dict[tuple[str, str, tuple[tuple[str, Scalar], ...]], set[Digest]] = {}
    for release in form.releases:
        for entry in release.tuples:
            key = (entry.platform, entry.evidence_kind, pinned(entry))
            found.setdefault(key, set()).add(release.digest)
    order = sorted(found, key=repr)
    return tuple(
        Row(
            platform=platform,
            kind=kind,
            pinned=values,
            releases=tuple(sorted(found[platform, kind, values], key=str)),
        )
        for platform, kind, values in order
    )


def pinned(entry: Tuple) -> tuple[tuple[str, Scalar], ...]:
    """Return the claims that a tuple pins to one value, sorted."""
    return tuple(sorted((path, one.value) for path, one in entry.expect if isinstance(one, Exactly)))


def rule_of(form: NormalForm, row: Row) -> PlatformRule:
    """Return the rule of a row's platform."""
    rule = form.platform(row.platform)
    if rule is None:
        raise ValueError(f"{row.platform} has tuples and no rule")
    return rule


def lacks(
    form: NormalForm,
    names: Names,
    roots: Mapping[str, str],
    says: Callable[[str, str, Expect], bool],
    target: str,
) -> Iterator[Lack]:
    """Yield what a target without devices and places lacks for ``form``, by the names that waivers use.

    Args:
        names: the claims that the target sees, by kind of evidence.
        roots: the one root that the target itself checks, by kind of evidence; none where it is configured.
        says: whether the language can express an expectation of the claim at a path: (kind, path, expectation).
        target: its name for people.
    """
    for rule in form.platforms:
        known = names.get(rule.evidence_kind)
        if known is None:
            why = f"{target} takes no evidence of {rule.evidence_kind}"
            yield Lack(requirement=f"platform-{rule.platform}", why=why)
            continue
        root = roots.get(rule.evidence_kind)
        if root is not None and root not in rule.roots:
            why = f"{target} checks that evidence is of {root}, which the policy does not accept"
            yield Lack(requirement=f"platform-{rule.platform}", why=why)
        for register in sorted(_registers(form, rule) - set(known)):
            yield Lack(requirement=f"register-{register}", why=f"{target} does not see {register}")
        for one in constraints(rule):
            if one.path not in known:
                yield Lack(requirement=one.requirement, why=f"{target} does not see {one.path}")
            elif not says(rule.evidence_kind, one.path, one.expect):
                words = type(one.expect).__name__
                yield Lack(
                    requirement=one.requirement, why=f"{target} has no words for {words} of {one.path}"
                )
        for name in unplaced(rule):
            yield Lack(requirement=name, why="no claim of the evidence says where the machine is")


def lacks_devices(form: NormalForm, target: str) -> Iterator[Lack]:
    """Yield the devices of every platform, for a target that judges machines alone."""
    for platform in sorted({device.platform for rule in form.platforms for device in rule.devices}):
        yield Lack(requirement=f"device-{platform}", why=f"{target} judges the machine without its devices")


def _registers(form: NormalForm, rule: PlatformRule) -> set[str]:
    return {
        path
        for release in form.releases
        for entry in release.tuples
        if entry.platform == rule.platform
        for path, _ in pinned(entry)
    }
