"""The decision: verified claims, a policy, a key and a moment, to yes or to every reason why not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from tallystick.appraisal.checks import compare
from tallystick.appraisal.index import Candidate, Prepared, matching, nearest, prepared_once
from tallystick.appraisal.records import Challenge, Decision
from tallystick.core.digests import Digest
from tallystick.core.findings import Finding
from tallystick.evidence.claims import Claims
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
    accepted = next((c for c in matching(prepared, claims) if not tuple(_all(form, c, claims, now))), None)
    if accepted is not None:
        return _decision(prepared, claims, key, now, common, release=accepted.release.digest, closest=None)
    digest, reasons = _unmatched(prepared, claims, now)
    return _decision(prepared, claims, key, now, (*common, *reasons), release=None, closest=digest)


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
        yield Finding("policy.key.unknown", "key", want=f"a key of the policy {form.policy}", got=key)
    if now > form.not_after:
        yield Finding("policy.expired", "policy", want=f"used until {_time(form.not_after)}", got=_time(now))
    for name, waiver in form.waivers:
        yield from compare(f"policy.{name}", f"waiver of {name}", waiver, None, now)


def _fresh(claims: Claims, form: NormalForm, challenge: Challenge, now: datetime) -> Iterator[Finding]:
    """Bound to our challenge, young enough, and signed by certificates that hold now."""
    if not challenge.report_data or claims.report_data != challenge.report_data:
        want = challenge.report_data.hex() or "a challenge"
        yield Finding(
            "evidence.report-data.mismatch", "report data", want, claims.report_data.hex() or "none"
        )
    age = (now - challenge.issued_at).total_seconds()
    if age < 0:
        got = _time(challenge.issued_at)
        yield Finding("evidence.challenge.future", "challenge", f"issued by {_time(now)}", got)
    elif age > form.max_age_seconds:
        want = f"at most {form.max_age_seconds} s since the challenge"
        yield Finding("evidence.stale", "age", want, f"{age:g} s")
    if claims.valid_from is None or now < claims.valid_from:
        got = _time(claims.valid_from) if claims.valid_from else "no beginning"
        yield Finding("evidence.not-yet-valid", "certificates", f"valid from {_time(now)} or before", got)
    if claims.valid_until is None or now > claims.valid_until:
        got = _time(claims.valid_until) if claims.valid_until else "no end"
        yield Finding("evidence.expired", "certificates", f"valid at {_time(now)}", got)


def _all(form: NormalForm, candidate: Candidate, claims: Claims, now: datetime) -> Iterator[Finding]:
    """Yield why ``claims`` are not this tuple on its platform."""
    entry = candidate.entry
    rule = form.platform(entry.platform)
    if rule is None or rule.evidence_kind != claims.kind:
        yield Finding(
            "policy.platform.unknown", "platform", want="a platform of the policy", got=entry.platform
        )
        return
    yield from _platform(rule, claims, now)
    yield from _tuple(entry, claims, now)


def _platform(rule: PlatformRule, claims: Claims, now: datetime) -> Iterator[Finding]:
    allowed = ", ".join(rule.roots) or "no root at all"
    if not claims.roots:
        yield Finding("evidence.root.absent", "roots", want=allowed, got="none")
    for root in claims.roots:
        if root not in rule.roots:
            yield Finding("evidence.root.not-allowed", "roots", want=allowed, got=root)
    for path, expect in rule.require:
        yield from compare(f"{family(claims.kind)}.{path}", path, expect, claims.at(path), now)


def _tuple(entry: Tuple, claims: Claims, now: datetime) -> Iterator[Finding]:
    for path, expect in entry.expect:
        yield from compare(f"{family(claims.kind)}.{path}", path, expect, claims.at(path), now)


def _unmatched(
    prepared: Prepared, claims: Claims, now: datetime
) -> tuple[Digest | None, tuple[Finding, ...]]:
    """Return the release that comes nearest, and why none matches: what differs from the nearest one."""
    form = prepared.form
    candidate = nearest(prepared, claims)
    if candidate is not None:
        return candidate.release.digest, tuple(_all(form, candidate, claims, now))
    kinds = sorted({rule.evidence_kind for rule in form.platforms})
    if claims.kind not in kinds:
        want = "one of " + ", ".join(kinds)
        return None, (Finding("evidence.kind.not-allowed", "kind", want=want, got=claims.kind),)
    return None, (Finding("policy.no-release", "releases", want="a release to compare with", got="none"),)


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
