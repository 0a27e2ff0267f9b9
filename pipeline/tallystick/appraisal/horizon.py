"""When a decision turns from yes to no by time alone: found by asking the evaluator, at every moment that can matter.

The evaluator compares ``now`` with a handful of times: a policy's end, waivers' ends, the window of the evidence's
certificates, its age. Between two of them no answer changes, so asking just after each one is asking at every second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tallystick.appraisal.records import Decision
from tallystick.core.expect import Expect, Waived
from tallystick.core.findings import Finding
from tallystick.evidence.claims import Claims
from tallystick.policy.normal import NormalForm

SECOND = timedelta(seconds=1)
NO_END = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280, 4.1.2.5: no well-defined end


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """The first whole second at which the answer is no, and why it is."""

    at: datetime
    findings: tuple[Finding, ...]


def horizon(
    decide: Callable[[datetime], Decision], bounds: Iterable[datetime], now: datetime
) -> Horizon | None:
    """Return the first whole second from ``now`` on at which ``decide`` refuses; None when time alone never does.

    Args:
        decide: the evaluator as of a moment.
        bounds: every time that it compares with: :func:`bounds_of`.
    """
    moments = sorted({after(bound) for bound in bounds})
    for at in (now, *(moment for moment in moments if moment > now)):
        decision = decide(at)
        if not decision.allowed:
            return Horizon(at=at, findings=decision.findings)
    return None


def bounds_of(form: NormalForm, claims: Claims) -> Iterator[datetime]:
    """Yield the last moment of everything in ``form`` and ``claims`` that has one. The evidence's age is apart."""
    yield from bounds_of_form(form)
    yield from bounds_of_claims(claims)


def bounds_of_form(form: NormalForm) -> Iterator[datetime]:
    """Yield the last moment of a policy and of each of its waivers."""
    yield form.not_after
    for _, waiver in waivers(form):
        yield waiver.until


def bounds_of_claims(claims: Claims) -> Iterator[datetime]:
    """Yield the last moment of the certificates and collateral behind a machine's claims, and its devices'."""
    for said in (claims, *claims.devices):
        if said.valid_until is not None:
            yield said.valid_until


def waivers(form: NormalForm) -> Iterator[tuple[str, Waived]]:
    """Yield every waiver of ``form`` under what it waives."""
    pairs: list[tuple[str, Expect]] = [*form.waivers]
    pairs += [(f"{one.requirement} for {one.target}", one.waived) for one in form.residuals]
    for rule in form.platforms:
        pairs += [(f"{path} of {rule.platform}", expect) for path, expect in rule.require]
        for device in rule.devices:
            pairs += [(f"{path} of {device.platform}", expect) for path, expect in device.require]
    for release in form.releases:
        where = f"of {release.name} {release.version}"
        pairs += [(f"{path} {where}", expect) for entry in release.tuples for path, expect in entry.expect]
    for name, expect in dict.fromkeys(pairs):
        if isinstance(expect, Waived):
            yield name, expect


def after(last: datetime) -> datetime:
    """Return the first whole second after ``last``: services decide in whole seconds."""
    return min(last.replace(microsecond=0), NO_END - SECOND) + SECOND


def not_before(end: datetime) -> datetime:
    """Return the first whole second that is not before ``end``, for what does not hold any more at its end itself."""
    return end if end.microsecond == 0 else after(end)
