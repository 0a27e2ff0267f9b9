"""A released key is a lease: held on the strength of the last attestation, until the policy wants another one.

The holder is the attested key, by its thumbprint: whoever attests again with the same key renews, and nobody else
can. A lease ends when its time is over, or at once when the claims it rests on are no longer what a policy permits.
An end stops renewals, tokens and further releases. It does not take back the key (docs/limitations.md).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from tallystick.appraisal.appraise import appraise
from tallystick.appraisal.horizon import after, bounds_of_claims, horizon, not_before
from tallystick.appraisal.records import Decision
from tallystick.broker.decisions import codes, instant
from tallystick.broker.policies import LoadedPolicy, PolicyState
from tallystick.broker.releasing import Verdict, judge
from tallystick.broker.sessions import Attested
from tallystick.core.findings import Finding

DRAINING = "lease.draining"  # stable code: nothing is released or renewed here, and what runs may run out
EXPIRED = "lease.expired"  # no attestation came in time
RETURNED = "lease.returned"  # the holder said that it is done


class State(Enum):
    """How a lease stands at a moment."""

    LIVE = "live"
    DRAINING = "draining"  # live, and not renewed any more
    EXPIRED = "expired"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One key in one holder's hands."""

    id: str  # the decision that released the key first
    key: str
    channel: str
    policy: str  # its name
    release: str  # the release's digest
    holder: str  # RFC 7638 thumbprint of the attested key
    attestation: str  # the newest one that it rests on
    issued_at: datetime
    renewed_at: datetime
    expires_at: datetime  # the first second at which it does not hold
    because: str = ""  # the code of what ends it earlier than the policy's interval would
    ended_at: datetime | None = None
    reasons: tuple[str, ...] = ()  # codes, of an ended one

    def state(self, now: datetime, drains: Iterable[Drain] = ()) -> State:
        """Return how it stands at ``now``."""
        if self.ended_at is not None and self.ended_at <= now:
            return State.ENDED
        if self.expires_at <= now:
            return State.EXPIRED
        return State.DRAINING if any(drain.covers(self) for drain in drains) else State.LIVE

    def document(self, now: datetime, drains: Iterable[Drain] = ()) -> dict[str, Any]:
        """Return it as ``--json`` and the renewal answer print it. Nothing in it is a secret."""
        state = self.state(now, drains)
        reasons = (
            [EXPIRED, *([self.because] if self.because else [])] if state is State.EXPIRED else self.reasons
        )
        return {
            "lease": self.id,
            "key": self.key,
            "channel": self.channel,
            "policy": self.policy,
            "release": self.release,
            "holder": self.holder,
            "state": state.value,
            "issued_at": instant(self.issued_at),
            "renewed_at": instant(self.renewed_at),
            "expires_at": instant(self.expires_at),
            "ended_at": None if self.ended_at is None else instant(self.ended_at),
            "reasons": list(reasons),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """A standing order: what it covers is neither released nor renewed. An empty field covers everything."""

    id: str  # its decision
    at: datetime
    reason: str
    key: str = ""
    release: str = ""
    lease: str = ""

    def covers(self, lease: Lease) -> bool:
        """Return whether ``lease`` runs out under this order."""
        pairs = ((self.key, lease.key), (self.release, lease.release), (self.lease, lease.id))
        return all(not wanted or wanted == got for wanted, got in pairs)

    def document(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        scope = {"key": self.key, "release": self.release, "lease": self.lease}
        said = {name: value for name, value in scope.items() if value}
        return {
            "drain": self.id,
            "at": instant(self.at),
            "reason": self.reason,
            "covers": said or "everything",
        }


def granted(
    decision: str, verdict: Verdict, attested: Attested, state: PolicyState, *, now: datetime
) -> Lease:
    """Return the lease that comes with the key that ``verdict`` lets go.

    Args:
        decision: the identifier of the release.
    """
    if verdict.policy is None or verdict.decision is None or not verdict.allowed:
        raise ValueError("a lease comes with a released key alone")
    until, because = _until(verdict.key, verdict.policy, attested, state, now)
    return Lease(
        id=decision,
        key=verdict.key,
        channel=state.channel,
        policy=verdict.policy.name,
        release=str(verdict.decision.release),
        holder=attested.public_key.thumbprint(),
        attestation=attested.attestation,
        issued_at=now,
        renewed_at=now,
        expires_at=until,
        because=because,
    )


def renewed(
    lease: Lease, verdict: Verdict, attested: Attested, state: PolicyState, *, now: datetime
) -> Lease:
    """Return ``lease`` after its holder attested again: longer, or ended with every reason.

    A holder that runs another release by now is another workload: its lease ends, and it asks for the key anew.
    """
    if not verdict.allowed:
        return ended(lease, verdict.findings, now=now)
    fresh = granted(lease.id, verdict, attested, state, now=now)
    if fresh.release != lease.release:
        finding = Finding("lease.release", "release", lease.release, fresh.release)
        return ended(lease, (finding,), now=now)
    return replace(fresh, issued_at=lease.issued_at)


def ended(lease: Lease, findings: Sequence[Finding], *, now: datetime) -> Lease:
    """Return ``lease`` as it is once it has ended for ``findings``."""
    return replace(lease, ended_at=now, reasons=tuple(codes(findings)))


def posture(lease: Lease, attested: Attested, state: PolicyState, *, now: datetime) -> Verdict:
    """Return what the policies of ``state`` say of the claims that ``lease`` rests on.

    Their age is not asked: between two attestations the interval stands for it.
    """
    fresh = replace(attested, challenge=replace(attested.challenge, issued_at=now))
    return judge(lease.key, fresh, state, now=now)


def drained(drains: Iterable[Drain], *, key: str, release: str, lease: str = "") -> tuple[Finding, ...]:
    """Return the finding for each order that keeps ``key`` from being released or renewed for ``release``."""
    return tuple(
        Finding(DRAINING, f"key {key}", "nothing that is drained", f"drain {drain.id}: {drain.reason}")
        for drain in drains
        if all(
            not wanted or wanted == got
            for wanted, got in ((drain.key, key), (drain.release, release), (drain.lease, lease))
        )
    )


def _until(
    key: str, policy: LoadedPolicy, attested: Attested, state: PolicyState, now: datetime
) -> tuple[datetime, str]:
    """Return the first second at which the lease does not hold, and the code of what ends it early.

    The evaluator is asked only at moments inside the policy's interval: there are hardly ever any.
    """
    form = policy.live.form
    end = now + timedelta(seconds=form.reattest_seconds)
    early = policy.bounds[: bisect_left(policy.bounds, end)]
    inside = [
        bound for bound in (*early, *bounds_of_claims(attested.claims)) if now <= bound and after(bound) < end
    ]
    because = ""
    if inside:
        found = horizon(lambda at: _afresh(key, policy, attested, at), inside, now)
        if found is not None and found.at < end:
            end, because = found.at, codes(found.findings)[0]
    if (channel := not_before(state.expires)) < end:
        end, because = channel, "release.channel.expired"
    return end, because


def _afresh(key: str, policy: LoadedPolicy, attested: Attested, at: datetime) -> Decision:
    challenge = replace(attested.challenge, issued_at=at)
    return appraise(attested.claims, policy.live, key=key, challenge=challenge, now=at)
