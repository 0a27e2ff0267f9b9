"""What no policy may say, whatever is in the channel: rules that need the policy and the time alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from tallystick.core.errors import Refused
from tallystick.core.findings import Finding
from tallystick.policy.conjunction import rules
from tallystick.policy.model import Channel, DeviceChoice, Party, PlatformChoice, Policy, SupplyChain, Waiver
from tallystick.policy.platforms import DEVELOPMENT_ISSUERS, DEVELOPMENT_ROOTS, platform

NEVER_WAIVED = ("freshness",)  # its absence would make a recorded quote as good as a machine
NOT_IN_PRODUCTION = ("debug-off",)
GENERAL = ("debug-off", "rebuilds")  # what can be waived beside the registers of a platform
_MOST_DAYS = {Channel.DEBUG: 1096, Channel.STAGING: 1096, Channel.PRODUCTION: 400}
# Staging takes what the slowest cloud enforces (Google: two hours), so that a release is tried there before production.
MOST_AGE_SECONDS = {Channel.DEBUG: 86_400, Channel.STAGING: 7_200, Channel.PRODUCTION: 600}
MOST_REATTEST_SECONDS = {Channel.DEBUG: 604_800, Channel.STAGING: 86_400, Channel.PRODUCTION: 14_400}


def check(policy: Policy, now: datetime) -> None:
    """Refuse a policy that breaks a rule.

    Raises:
        Refused: with every rule that it breaks, each with its line and column.
    """
    findings = tuple(broken(policy, now))
    if findings:
        raise Refused(f"the policy {policy.name} is refused: {len(findings)} reason(s)", findings=findings)


def broken(policy: Policy, now: datetime) -> Iterator[Finding]:
    """Yield each rule that ``policy`` breaks at ``now``."""
    yield from _end("policy", f"until ({policy.place('until')})", policy.until, policy.channel, now)
    most = MOST_AGE_SECONDS[policy.channel]
    for side in policy.sides:
        if side.max_age_seconds > most:
            place = side.place if isinstance(side, Party) else policy.place("freshness")
            yield Finding(
                "policy.freshness.too-long",
                f"freshness.max_age_seconds ({place})",
                want=f"at most {most} in {policy.channel.value}",
                got=str(side.max_age_seconds),
            )
    most = MOST_REATTEST_SECONDS[policy.channel]
    if policy.reattest_seconds > most:
        yield Finding(
            "policy.reattest.too-long",
            f"freshness.reattest_seconds ({policy.place('freshness')})",
            want=f"at most {most} in {policy.channel.value}",
            got=str(policy.reattest_seconds),
        )
    yield from _waivers(policy, now)
    for choice in _choices(policy):
        yield from _choice(policy, choice)
    try:
        rules(policy)
    except Refused as error:  # what the parties ask can not be met at once
        yield from error.findings
    if policy.channel is Channel.PRODUCTION:
        yield from _production(policy)


def _end(code: str, where: str, until: datetime, channel: Channel, now: datetime) -> Iterator[Finding]:
    last = now + timedelta(days=_MOST_DAYS[channel])
    if until <= now:
        yield Finding(f"{code}.expired", where, want=f"after {_day(now)}", got=_day(until))
    elif until > last:
        want = f"at most {_MOST_DAYS[channel]} days ahead in {channel.value}: {_day(last)}"
        yield Finding(f"{code}.end-too-far", where, want=want, got=_day(until))


def _waivers(policy: Policy, now: datetime) -> Iterator[Finding]:
    known = {register for choice in policy.platforms for register in platform(choice.platform).registers}
    for waiver in policy.waivers:
        yield from _waiver(waiver, policy.channel, now)
        if waiver.requirement not in known.union(GENERAL, NEVER_WAIVED):
            want = "a register of a platform above, or one of " + ", ".join(GENERAL)
            yield Finding("policy.waiver.unknown", _where(waiver), want=want, got=waiver.requirement)
    for target in policy.targets:
        for waiver in target.waivers:
            yield from _waiver(waiver, policy.channel, now)


def _choices(policy: Policy) -> Iterator[PlatformChoice | DeviceChoice]:
    """Every platform and device that any party names."""
    for side in policy.sides:
        for choice in side.platforms:
            yield choice
            yield from choice.devices


def _choice(policy: Policy, choice: PlatformChoice | DeviceChoice) -> Iterator[Finding]:
    """What has no strict default is said, and debug is off unless a waiver says otherwise."""
    known, require = platform(choice.platform), dict(choice.require)
    where = f"platforms.{choice.platform}.require ({choice.place})"
    for path in known.stated:
        if path not in require:
            want = f"what {path} must be: it has no strict default"
            yield Finding("policy.platform.unstated", where, want=want, got="nothing")
    for path, expect in known.debug_off:
        if policy.waiver("debug-off") is None and require.get(path, expect) != expect:
            want = f"{path}: {str(expect.value).lower()}, or a waiver of debug-off"
            yield Finding("policy.debug-off", where, want=want, got=str(require[path]))


def _waiver(waiver: Waiver, channel: Channel, now: datetime) -> Iterator[Finding]:
    yield from _end("policy.waiver", _where(waiver), waiver.until, channel, now)
    if waiver.requirement in NEVER_WAIVED:
        yield Finding("policy.waiver.never", _where(waiver), want="no such waiver", got=waiver.requirement)
    elif waiver.requirement in NOT_IN_PRODUCTION and channel is Channel.PRODUCTION:
        want = "no such waiver in production"
        yield Finding("policy.waiver.production", _where(waiver), want=want, got=waiver.requirement)


def _production(policy: Policy) -> Iterator[Finding]:
    for choice in _choices(policy):
        for root in choice.roots:
            if root in DEVELOPMENT_ROOTS:
                yield Finding(
                    "policy.production.development-root",
                    f"platforms.{choice.platform}.roots ({choice.place})",
                    want="no development root in production",
                    got=root,
                    note=DEVELOPMENT_ROOTS[root],
                )
    yield from _production_chain(policy.supply_chain, f"supply_chain ({policy.place('supply_chain')})")
    for party in policy.parties:
        yield from _production_chain(party.supply_chain, f"supply_chain of {party.name} ({party.place})")
    for target in policy.targets:
        for waiver in target.waivers:
            if waiver.requirement in target.never_in_production:
                want = "no such waiver in production"
                yield Finding("policy.waiver.production", _where(waiver), want=want, got=waiver.requirement)


def _production_chain(chain: SupplyChain, where: str) -> Iterator[Finding]:
    for builder in chain.builders:
        if builder.identity.issuer in DEVELOPMENT_ISSUERS:
            yield Finding(
                "policy.production.development-root",
                where,
                want="no development issuer in production",
                got=builder.identity.issuer,
                note=DEVELOPMENT_ROOTS["embedded-dev"],
            )
    if chain.sbom.unexplained_files:
        yield Finding(
            "policy.production.unexplained-files",
            where,
            want="0 in production",
            got=str(chain.sbom.unexplained_files),
        )


def _where(waiver: Waiver) -> str:
    return f"waiver of {waiver.requirement} ({waiver.place})"


def _day(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
