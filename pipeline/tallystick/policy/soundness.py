"""What every normal form holds, whoever made it. A compiled policy that breaks one of these is not read.

These are the rules under which appraisal can not be fooled by what is missing: a tuple without registers would
match everything, and a platform without roots would take anybody's evidence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from tallystick.core.expect import (
    AtLeast,
    AtLeastVersion,
    Exactly,
    Excludes,
    Expect,
    Includes,
    NoneOf,
    OneOf,
    Only,
    Waived,
    version_of,
)
from tallystick.core.findings import Finding
from tallystick.policy.model import Channel
from tallystick.policy.normal import DeviceRule, NormalForm, PermittedRelease, PlatformRule, Tuple
from tallystick.policy.platforms import (
    DEVELOPMENT_ROOTS,
    PLACES,
    ClaimType,
    Platform,
    Strength,
    known_platform,
)
from tallystick.policy.rules import MOST_AGE_SECONDS, MOST_REATTEST_SECONDS


def flaws(form: NormalForm) -> Iterator[Finding]:
    """Yield everything about ``form`` that no compiler makes."""
    channels = {channel.value: channel for channel in Channel}
    channel = channels.get(form.channel)
    if channel is None:
        yield Finding("compiled.channel", "channel", want="one of " + ", ".join(channels), got=form.channel)
    elif form.max_age_seconds > MOST_AGE_SECONDS[channel]:
        most = MOST_AGE_SECONDS[channel]
        yield Finding(
            "compiled.max-age", "max_age_seconds", want=f"at most {most}", got=str(form.max_age_seconds)
        )
    if channel is not None and form.reattest_seconds > MOST_REATTEST_SECONDS[channel]:
        want = f"at most {MOST_REATTEST_SECONDS[channel]}"
        yield Finding("compiled.reattest", "reattest_seconds", want=want, got=str(form.reattest_seconds))
    waived = {name for name, _ in form.waivers}
    if not form.keys:
        yield Finding("compiled.keys", "keys", want="at least one key", got="none")
    if not form.platforms:
        yield Finding("compiled.platforms", "platforms", want="at least one platform", got="none")
    for name, waiver in form.waivers:
        if not isinstance(waiver, Waived):
            yield Finding("compiled.waiver", f"waivers.{name}", want="a waiver", got="an expectation")
    production = channel is Channel.PRODUCTION
    for rule in form.platforms:
        yield from _platform(rule, f"platforms.{rule.platform}", waived, production=production)
        for device in rule.devices:
            where = f"platforms.{rule.platform}.devices.{device.platform}"
            yield from _platform(device, where, waived, production=production)
    for release in form.releases:
        yield from _release(form, release, production=production)


def _platform(
    rule: PlatformRule | DeviceRule, where: str, waived: set[str], *, production: bool
) -> Iterator[Finding]:
    known = known_platform(rule.platform)
    device = isinstance(rule, DeviceRule)
    if known is None or known.evidence_kind != rule.evidence_kind or known.device != device:
        yield Finding("compiled.platform", where, want="a known platform", got=rule.evidence_kind)
        return
    if not rule.roots:
        yield Finding("compiled.roots", f"{where}.roots", want="at least one root", got="none")
    yield from _development(where, rule.roots, production=production)
    require = dict(rule.require)
    for path, expect in rule.require:
        if not _typed(known, path, expect):
            want = "values of the claim's type"
            yield Finding("compiled.require", f"{where}.require.{path}", want=want, got=repr(expect))
    for path in (*dict(known.strict), *known.stated):
        if path not in require:
            yield Finding("compiled.require", f"{where}.require.{path}", want="an expectation", got="none")
    for path, off in known.debug_off:
        if require.get(path) != off and ("debug-off" not in waived or production):
            yield Finding(
                "compiled.debug-off", f"{where}.require.{path}", want=str(off), got="something else"
            )
    for denial in rule.deny:
        kind = known.claim_type(denial.claim)
        if kind is None or not all(map(kind.holds, denial.values)):
            want = "values of the claim's type"
            yield Finding("compiled.deny", f"{where}.deny.{denial.name}", want=want, got=denial.claim)
    if isinstance(rule, PlatformRule):
        yield from _places(known, rule, where)


def _places(known: Platform, rule: PlatformRule, where: str) -> Iterator[Finding]:
    """Every placement has values, a known strength, and the claim that carries it where there is one."""
    strengths = {strength.value: strength for strength in Strength}
    for placement in rule.placement:
        at = f"{where}.placement.{placement.name}"
        strength, source = strengths.get(placement.strength), known.place(placement.name)
        if placement.name not in PLACES or strength is None or not placement.values:
            yield Finding("compiled.placement", at, want="a place, its values and a strength", got="another")
            continue
        claim = source.path if source is not None and source.strength.covers(strength) else ""
        if placement.claim != claim:
            yield Finding("compiled.placement", at, want=claim or "no claim", got=placement.claim)


def _development(where: str, labels: tuple[str, ...], *, production: bool) -> Iterator[Finding]:
    for label in labels:
        if production and label in DEVELOPMENT_ROOTS:
            want = "no development root in production"
            yield Finding("compiled.development-root", where, want=want, got=label)


def _release(form: NormalForm, release: PermittedRelease, *, production: bool) -> Iterator[Finding]:
    where = f"releases.{release.digest}"
    if not release.tuples:
        yield Finding("compiled.tuples", where, want="at least one tuple", got="none")
    if release.vsa not in release.bundles:
        yield Finding("compiled.vsa", where, want=f"{release.vsa} among the bundles", got="not there")
    yield from _development(where, release.labels, production=production)
    for number, entry in enumerate(release.tuples):
        yield from _tuple(form, entry, f"{where}.tuples[{number}]")


def _tuple(form: NormalForm, entry: Tuple, where: str) -> Iterator[Finding]:
    rule, known = form.platform(entry.platform), known_platform(entry.platform)
    if rule is None or known is None or rule.evidence_kind != entry.evidence_kind:
        yield Finding("compiled.platform", where, want="a platform of this policy", got=entry.platform)
        return
    expect = dict(entry.expect)
    for path in expect:
        if path not in known.registers:
            yield Finding("compiled.register", f"{where}.{path}", want="a register", got="another claim")
    for register in known.registers:
        yield from _register(form, known, register, expect.get(register), f"{where}.{register}")


def _register(
    form: NormalForm, known: Platform, register: str, expect: Expect | None, where: str
) -> Iterator[Finding]:
    if isinstance(expect, Exactly):
        if not _typed(known, register, expect):
            yield Finding("compiled.register", where, want="a value of the register's form", got="another")
        elif register in known.never_zero and not str(expect.value).rpartition(":")[2].strip("0"):
            yield Finding("compiled.register", where, want="what a measured launch extends", got="all zero")
    elif isinstance(expect, Waived):
        waiver = dict(form.waivers).get(register)
        if not isinstance(waiver, Waived) or expect.until > waiver.until:
            yield Finding(
                "compiled.register", where, want="a waiver of this policy", got="none that covers it"
            )
    else:
        yield Finding("compiled.register", where, want="one exact value, or a waiver", got=repr(expect))


def _typed(known: Platform, path: str, expect: Expect) -> bool:
    """Say whether ``expect`` is of a form, and of values, that the claim's type has."""
    kind = known.claim_type(path)
    if kind is None:
        return False
    match expect:
        case Exactly(value):
            return kind is not ClaimType.TEXTS and kind.holds(value)
        case OneOf(values) | NoneOf(values):
            return kind is not ClaimType.TEXTS and bool(values) and all(map(kind.holds, values))
        case AtLeast(minimum):
            return kind.holds(minimum) and kind is ClaimType.INTEGER
        case AtLeastVersion(minimum):
            return kind is ClaimType.TEXT and version_of(minimum) is not None
        case Only(texts):
            return kind is ClaimType.TEXTS and all(map(kind.holds, texts))
        case Includes(texts) | Excludes(texts):
            return kind is ClaimType.TEXTS and bool(texts) and all(map(kind.holds, texts))
        case Waived():
            return False
        case _:
            assert_never(expect)
