"""What a platform's or device's rule asks, as one list: every claim, what is expected of it, and its name.

The name is what a target says that it lacks and what a waiver says: ``debug-off``, ``claim-vmpl``,
``denied-microcode-2026-07``, ``placement-zone``, ``register-pcr10``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tallystick.core.expect import Excludes, Expect, NoneOf, OneOf
from tallystick.policy.normal import Denial, DeviceRule, NormalForm, PlatformRule
from tallystick.policy.platforms import ClaimType, known_platform

DEBUG_OFF = "debug-off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """One expectation of one claim of every evidence of a platform. Several may be about the same claim."""

    requirement: str
    path: str
    expect: Expect  # never Waived


def constraints(rule: PlatformRule | DeviceRule) -> tuple[Constraint, ...]:
    """Return everything that ``rule`` asks of claims: required, denied, and placed where a claim says so.

    A placement that no claim of the evidence carries is not here: see :func:`unplaced`.
    """
    return tuple(_constraints(rule))


def _constraints(rule: PlatformRule | DeviceRule) -> Iterator[Constraint]:
    known = known_platform(rule.platform)
    for path, expect in rule.require:
        yield Constraint(requirement=requirement_of(rule.platform, path), path=path, expect=expect)
    for denial in rule.deny:
        kind = known.claim_type(denial.claim) if known else None
        yield Constraint(
            requirement=f"denied-{denial.name}", path=denial.claim, expect=expectation(denial, kind)
        )
    if isinstance(rule, PlatformRule):
        for placement in rule.placement:
            if placement.claim:
                name = f"placement-{placement.name}"
                yield Constraint(requirement=name, path=placement.claim, expect=OneOf(placement.values))


def expectation(denial: Denial, kind: ClaimType | None) -> Expect:
    """Return a denial as an expectation of a claim of type ``kind``."""
    if kind is ClaimType.TEXTS:
        return Excludes(tuple(str(value) for value in denial.values))
    return NoneOf(denial.values)


def unplaced(rule: PlatformRule) -> tuple[str, ...]:
    """Return the requirements of place that no claim of the evidence carries: ``placement-region``."""
    return tuple(f"placement-{placement.name}" for placement in rule.placement if not placement.claim)


def requirement_of(platform: str, path: str) -> str:
    """Return the name of what a platform requires of the claim at ``path``: ``debug-off`` or ``claim-PATH``."""
    known = known_platform(platform)
    return DEBUG_OFF if known and path in dict(known.debug_off) else f"claim-{path}"


def told(form: NormalForm, target: str) -> NormalForm:
    """Return ``form`` without what is waived for ``target`` by name: claims, denials, places, devices, platforms.

    What is left is what a proof of that target shows. Registers stay: a target that can not express one drops it
    from its tuples itself, and says so as ``register-NAME``.
    """
    skip = {residual.requirement for residual in form.residuals if residual.target == target}
    kept = (rule for rule in form.platforms if f"platform-{rule.platform}" not in skip)
    return replace(form, platforms=tuple(_told(rule, skip) for rule in kept)) if skip else form


def _told(rule: PlatformRule, skip: set[str]) -> PlatformRule:
    return replace(
        rule,
        require=_required(rule, skip),
        deny=_denied(rule, skip),
        placement=tuple(p for p in rule.placement if f"placement-{p.name}" not in skip),
        devices=tuple(
            replace(device, require=_required(device, skip), deny=_denied(device, skip))
            for device in rule.devices
            if f"device-{device.platform}" not in skip
        ),
    )


def _required(rule: PlatformRule | DeviceRule, skip: set[str]) -> tuple[tuple[str, Expect], ...]:
    return tuple(pair for pair in rule.require if requirement_of(rule.platform, pair[0]) not in skip)


def _denied(rule: PlatformRule | DeviceRule, skip: set[str]) -> tuple[Denial, ...]:
    return tuple(denial for denial in rule.deny if f"denied-{denial.name}" not in skip)
