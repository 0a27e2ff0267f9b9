"""What every normal form holds, whoever made it. A compiled policy that breaks one of these is not read.

These are the rules under which appraisal can not be fooled by what is missing: a tuple without registers would
match everything, and a platform without roots would take anybody's evidence.
"""

from __future__ import annotations

from collections.abc import Iterator

from tallystick.core.expect import AtLeast, Exactly, Expect, OneOf, Waived
from tallystick.core.findings import Finding
from tallystick.policy.model import Channel
from tallystick.policy.normal import NormalForm, PermittedRelease, PlatformRule, Tuple
from tallystick.policy.platforms import DEVELOPMENT_ROOTS, Platform, known_platform
from tallystick.policy.rules import MOST_AGE_SECONDS


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
    if not form.keys:
        yield Finding("compiled.keys", "keys", want="at least one key", got="none")
    if not form.platforms:
        yield Finding("compiled.platforms", "platforms", want="at least one platform", got="none")
    for name, waiver in form.waivers:
        if not isinstance(waiver, Waived):
            yield Finding("compiled.waiver", f"waivers.{name}", want="a waiver", got="an expectation")
    production = channel is Channel.PRODUCTION
    for rule in form.platforms:
        yield from _platform(rule, production=production)
    for release in form.releases:
        yield from _release(form, release, production=production)


def _platform(rule: PlatformRule, *, production: bool) -> Iterator[Finding]:
    where = f"platforms.{rule.platform}"
    known = known_platform(rule.platform)
    if known is None or known.evidence_kind != rule.evidence_kind:
        yield Finding("compiled.platform", where, want="a known platform", got=rule.evidence_kind)
        return
    if not rule.roots:
        yield Finding("compiled.roots", f"{where}.roots", want="at least one root", got="none")
    yield from _development(where, rule.roots, production=production)
    for path, expect in rule.require:
        if not _typed(known, path, expect):
            want = "values of the claim's type"
            yield Finding("compiled.require", f"{where}.require.{path}", want=want, got=repr(expect))


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
        elif register in known.never_zero and set(str(expect.value)) == {"0"}:
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
    kind = known.claim_type(path)
    if kind is None or isinstance(expect, Waived):
        return False
    values = _values(expect)
    return bool(values) and all(kind.holds(value) for value in values)


def _values(expect: Exactly | OneOf | AtLeast) -> tuple[bool | int | str, ...]:
    if isinstance(expect, Exactly):
        return (expect.value,)
    return expect.values if isinstance(expect, OneOf) else (expect.minimum,)
