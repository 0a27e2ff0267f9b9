"""A policy and a channel's verified releases, to the normal form that every target is made from."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from tallystick.compile import artifacts
from tallystick.compile.admit import objections, permission
from tallystick.core.errors import Refused
from tallystick.core.expect import Expect, Waived
from tallystick.core.findings import Finding
from tallystick.policy.conjunction import rules
from tallystick.policy.model import Policy
from tallystick.policy.normal import NormalForm, Residual
from tallystick.policy.rules import broken
from tallystick.policy.soundness import flaws
from tallystick.release.records import VerifiedChannel


class NoRelease(Enum):
    """What to do when the channel has nothing of what the policy is about."""

    REFUSE = "refuse"
    PERMIT_NOTHING = "permit-nothing"  # a policy that gives its keys to nobody


def normal_form(
    policy: Policy, channel: VerifiedChannel, now: datetime, empty: NoRelease = NoRelease.REFUSE
) -> NormalForm:
    """Return what ``policy`` permits, given the releases of ``channel``.

    The result depends on ``now`` only in what is refused: two people who compile the same state on different
    days get the same bytes.

    Raises:
        Refused: with every rule of :mod:`tallystick.policy.rules` that is broken, and every objection of
            :mod:`tallystick.compile.admit` against any release: one bad release refuses them all.
    """
    findings = [*broken(policy, now), *_channel(policy, channel)]
    releases = [release for release in channel.releases if release.index.name in policy.releases]
    for release in releases:
        findings += objections(policy, release, channel, now)
    findings += artifacts.objections(policy, releases, channel)
    if not releases and empty is NoRelease.REFUSE:
        want = f"a release of {', '.join(policy.releases)} in {channel.name}"
        findings.append(Finding("compile.no-release", f"channel {channel.name}", want, "none"))
    if findings:
        raise Refused(
            f"{policy.name} can not be compiled for {channel.name}: {len(findings)} reason(s)",
            findings=findings,
        )
    permissions = (permission(policy, one) for one in releases)
    permitted = sorted(
        (artifacts.pinned(policy, one, channel) for one in permissions), key=lambda one: str(one.digest)
    )
    waivers: list[tuple[str, Expect]] = [(waiver.requirement, waiver.waived) for waiver in policy.waivers]
    form = NormalForm(
        policy=policy.name,
        policy_digest=policy.digest,
        channel=policy.channel.value,
        keys=policy.keys,
        releases=tuple(permitted),
        platforms=rules(policy),
        max_age_seconds=max_age(policy),
        reattest_seconds=policy.reattest_seconds,
        parties=tuple(party.name for party in policy.parties),
        waivers=tuple(waivers),
        residuals=tuple(
            Residual(target=target.name, requirement=waiver.requirement, waived=waiver.waived)
            for target in policy.targets
            for waiver in target.waivers
        ),
        not_after=_end(policy, [e for r in permitted for t in r.tuples for _, e in t.expect]),
    )
    unsound = tuple(flaws(form))
    if unsound:
        raise Refused(f"{policy.name} compiles to a form that means too much", findings=unsound)
    return form


def _channel(policy: Policy, channel: VerifiedChannel) -> list[Finding]:
    if channel.name != policy.channel.value:
        where = f"channel ({policy.place('channel')})"
        return [Finding("compile.channel.other", where, policy.channel.value, channel.name)]
    return []


def max_age(policy: Policy) -> int:
    """Return the oldest evidence that every party takes, in seconds."""
    return min([policy.max_age_seconds, *(party.max_age_seconds for party in policy.parties)])


def _end(policy: Policy, expectations: list[Expect]) -> datetime:
    """Return the moment after which nothing is permitted: the policy's end, or of the first waiver to end."""
    ends = [policy.until, *(waiver.until for waiver in policy.waivers)]
    ends += [expect.until for expect in expectations if isinstance(expect, Waived)]
    return min(ends)
