"""The decision: verified claims, a policy, a key and a moment, to yes or to every reason why not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from tallystick.appraisal.checks import compare
from tallystick.appraisal.index import Candidate, Prepared, matching, nearest, prepared_once
from tallystick.appraisal.records import Challenge, Decision
from tallystick.core.digests import Digest
from tallystick.core.findings import Change, Finding
from tallystick.evidence.claims import Claims
from tallystick.policy.constraints import Constraint, unplaced
from tallystick.policy.normal import NormalForm, PlatformRule, Tuple
from tallystick.policy.platforms import family


def appraise(
    claims: Claims, policy: NormalForm | Prepared, key: str, challenge: Challenge, now: datetime
) -> Decision:
    """Return whether ``claims`` may have ``key`` at ``now``, with every reason when not.

    Pure: no clock, no network, no disk. ``now`` is the instant the answer is for, so a decision can be
    replayed years later and come out the same.

    Args:
        policy: the normal form, or what ``prepare`` made of it. The last few forms stay prepared.
        challenge: what the evidence must be bound to and since when. It can not be waived.
    """
    prepared = policy if isinstance(policy, Prepared) else prepared_once(policy)
    form = prepared.form
    common = (*_policy(form, key, now), *_fresh(claims, form, challenge, now))
    accepted = next(
        (c for c in matching(prepared, claims) if not tuple(_all(prepared, c, claims, now))), None
    )
    if accepted is not None:
        return _decision(prepared, claims, key, now, common, release=accepted.release.digest, closest=None)
    digest, reasons = _unmatched(prepared, claims, now)
    return _decision(prepared, claims, key, now, (*common, *reasons), release=None, closest=digest)


def allows(claims: Claims, policy: Prepared, key: str, challenge: Challenge, now: datetime) -> Digest | None:
    """Return the release that ``claims`` may have ``key`` for, or None: :func:`appraise` without the reasons."""
    common, accepted = _considered(policy, claims, key, challenge, now)
    return accepted.release.digest if accepted is not None and not common else None


def _considered(
    prepared: Prepared, claims: Claims, key: str, challenge: Challenge, now: datetime
) -> tuple[tuple[Finding, ...], Candidate | None]:
    """Return what speaks against it whatever the tuple, and the tuple that matches."""
    form = prepared.form
    common = (*_policy(form, key, now), *_fresh(claims, form, challenge, now))
    found = (c for c in matching(prepared, claims) if not tuple(_all(prepared, c, claims, now)))
    return common, next(found, None)


def _decision(
    prepared: Prepared,
    claims: Claims,
    key: str,
    now: datetime,
    findings: tuple[Finding, ...],
    *,
    release: Digest | None,
    closest: Digest | None,
) -> Decision:
    allowed = not findings and release is not None
    return Decision(
        key=key,
        allowed=allowed,
        release=release if allowed else None,
        nearest=None if allowed else closest or release,
        findings=findings,
        policy=prepared.digest,
        at=now,
        claims=claims,
    )


def _policy(form: NormalForm, key: str, now: datetime) -> Iterator[Finding]:
    """What does not depend on the evidence: the key, and the policy's own end."""
    if key not in {rule.key for rule in form.keys}:
        want, known = f"a key of the policy {form.policy}", next(iter(form.keys), None)
        change = None if known is None else Change(("key",), known.key)
        yield Finding("policy.key.unknown", "key", want, got=key, change=change)
    if now > form.not_after:
        want, change = f"used until {_time(form.not_after)}", Change(("policy", "not_after"), now)
        yield Finding("policy.expired", "policy", want, got=_time(now), change=change)
    for name, waiver in form.waivers:
        yield from compare(f"policy.{name}", f"waiver of {name}", waiver, None, now)


def _fresh(claims: Claims, form: NormalForm, challenge: Challenge, now: datetime) -> Iterator[Finding]:
    """Bound to our challenge, young enough, and signed by certificates that hold now; so is every device."""
    yield from _bound("", (), claims, challenge.report_data)
    again = Change(("challenge", "issued_at"), now)
    age = (now - challenge.issued_at).total_seconds()
    if age < 0:
        got = _time(challenge.issued_at)
        want = f"issued by {_time(now)}"
        yield Finding("evidence.challenge.future", "challenge", want, got, change=again)
    elif age > form.max_age_seconds:
        want = f"at most {form.max_age_seconds} s since the challenge"
        yield Finding("evidence.stale", "age", want, f"{age:g} s", change=again)
    yield from _window("", (), claims, now)
    for number, device in enumerate(claims.devices):
        where, at = f"device {number} ({device.kind}): ", ("devices", str(number))
        yield from _bound(where, at, device, challenge.device_report_data)
        yield from _window(where, at, device, now)


def _bound(where: str, at: tuple[str, ...], claims: Claims, wanted: bytes) -> Iterator[Finding]:
    if not wanted or claims.report_data != wanted:
        want, got = wanted.hex() or "a challenge", claims.report_data.hex() or "none"
        change = Change((*at, "report_data"), wanted) if wanted else None
        yield Finding("evidence.report-data.mismatch", f"{where}report data", want, got, change=change)


def _window(where: str, at: tuple[str, ...], claims: Claims, now: datetime) -> Iterator[Finding]:
    if claims.valid_from is None or now < claims.valid_from:
        got = _time(claims.valid_from) if claims.valid_from else "no beginning"
        want = f"valid from {_time(now)} or before"
        change = Change((*at, "valid_from"), now)
        yield Finding("evidence.not-yet-valid", f"{where}certificates", want, got, change=change)
    if claims.valid_until is None or now > claims.valid_until:
        got = _time(claims.valid_until) if claims.valid_until else "no end"
        want, change = f"valid at {_time(now)}", Change((*at, "valid_until"), now)
        yield Finding("evidence.expired", f"{where}certificates", want, got, change=change)


def _all(prepared: Prepared, candidate: Candidate, claims: Claims, now: datetime) -> Iterator[Finding]:
    """Yield why ``claims`` are not this tuple on its platform."""
    entry = candidate.entry
    rule = prepared.form.platform(entry.platform)
    if rule is None or rule.evidence_kind != claims.kind:
        yield Finding(
            "policy.platform.unknown", "platform", want="a platform of the policy", got=entry.platform
        )
        return
    yield from _roots("", (), rule.roots, claims)
    yield from _asked(prepared.asked[rule.platform], "", (), claims, now)
    yield from _unplaced(prepared.form, rule, now)
    yield from _devices(prepared, rule, claims, now)
    yield from _tuple(entry, claims, now)


def _roots(where: str, at: tuple[str, ...], roots: tuple[str, ...], claims: Claims) -> Iterator[Finding]:
    allowed = ", ".join(roots) or "no root at all"
    change = Change((*at, "roots"), roots[:1]) if roots else None
    if not claims.roots:
        yield Finding("evidence.root.absent", f"{where}roots", want=allowed, got="none", change=change)
    for root in claims.roots:
        if root not in roots:
            yield Finding("evidence.root.not-allowed", f"{where}roots", want=allowed, got=root, change=change)


def _asked(
    asked: tuple[Constraint, ...], where: str, at: tuple[str, ...], claims: Claims, now: datetime
) -> Iterator[Finding]:
    for one in asked:
        code, field = f"{family(claims.kind)}.{one.path}", (*at, "claims", one.path)
        yield from compare(code, f"{where}{one.path}", one.expect, claims.at(one.path), now, field=field)


def _unplaced(form: NormalForm, rule: PlatformRule, now: datetime) -> Iterator[Finding]:
    """A place that no claim says is refused, unless that is waived for our broker by name."""
    waived = {r.requirement: r.waived for r in form.residuals if r.target == "broker"}
    for name in unplaced(rule):
        if name in waived:
            yield from compare(f"policy.{name}", f"waiver of {name}", waived[name], None, now)
        else:
            want, got = "evidence that says it", "no claim of this platform that does"
            yield Finding(f"policy.{name}", name, want, got)


def _devices(prepared: Prepared, rule: PlatformRule, claims: Claims, now: datetime) -> Iterator[Finding]:
    """Enough devices of each kind are shown, every one is as it must be, and none is of another kind."""
    kinds = {device.evidence_kind for device in rule.devices}
    for number, shown in enumerate(claims.devices):
        if shown.kind not in kinds:
            want = ", ".join(sorted(kinds)) or "no device"
            yield Finding("evidence.device.not-allowed", f"device {number}", want, shown.kind)
    for device in rule.devices:
        found = [(n, one) for n, one in enumerate(claims.devices) if one.kind == device.evidence_kind]
        if len(found) < device.least:
            want = f"at least {device.least} {device.platform}"
            yield Finding("evidence.device.absent", "devices", want, str(len(found)))
        asked = prepared.asked[f"{rule.platform}/{device.platform}"]
        for number, (place, shown) in enumerate(found):
            where, at = f"{device.platform} {number}: ", ("devices", str(place))
            yield from _roots(where, at, device.roots, shown)
            yield from _asked(asked, where, at, shown, now)


def _tuple(entry: Tuple, claims: Claims, now: datetime) -> Iterator[Finding]:
    for path, expect in entry.expect:
        code, field = f"{family(claims.kind)}.{path}", ("claims", path)
        yield from compare(code, path, expect, claims.at(path), now, field=field)


def _unmatched(
    prepared: Prepared, claims: Claims, now: datetime
) -> tuple[Digest | None, tuple[Finding, ...]]:
    """Return the release that comes nearest, and why none matches: what differs from the nearest one."""
    form = prepared.form
    candidate = nearest(prepared, claims)
    if candidate is not None:
        return candidate.release.digest, tuple(_all(prepared, candidate, claims, now))
    kinds = sorted({rule.evidence_kind for rule in form.platforms})
    if claims.kind not in kinds:
        want = "one of " + ", ".join(kinds)
        return None, (Finding("evidence.kind.not-allowed", "kind", want=want, got=claims.kind),)
    return None, (Finding("policy.no-release", "releases", want="a release to compare with", got="none"),)


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
