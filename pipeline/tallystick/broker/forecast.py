"""What ends when, and which workloads stop then: the channel's metadata, policies, waivers, endorsements, leases.

Each ``at`` is the first whole second at which the thing does not hold, which is when the decision flips: TUF metadata
end at their expiry, everything else after its last moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from cryptography import x509

from tallystick.appraisal.appraise import appraise
from tallystick.appraisal.horizon import NO_END, after, bounds_of, horizon, not_before, waivers
from tallystick.appraisal.records import Decision
from tallystick.broker.policies import LoadedPolicy, PolicyState
from tallystick.broker.sessions import Attested
from tallystick.core.findings import Finding
from tallystick.evidence.bundle import Part
from tallystick.evidence.bundle_forecast import forecast as endorsements_of
from tallystick.evidence.chain import common_name
from tallystick.release import metadata, roles
from tallystick.release.metadata import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """One thing that ends."""

    at: datetime  # the first whole second at which it does not hold
    kind: str  # "channel", "approval", "policy", "waiver", "endorsement", "certificate"
    what: str
    then: str  # what stops
    stops: tuple[str, ...] = ()  # the workloads among those that were given

    def document(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            "at": _time(self.at),
            "kind": self.kind,
            "what": self.what,
            "then": self.then,
            "stops": list(self.stops),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Something that runs on a released key: a lease, or the last recorded evidence of one."""

    name: str
    key: str
    attested: Attested


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """When a workload's next attestation is refused although the machine stays as it is."""

    workload: Workload
    at: datetime | None  # None: never by time alone
    findings: tuple[Finding, ...]

    def document(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            "workload": self.workload.name,
            "key": self.workload.key,
            "at": None if self.at is None else _time(self.at),
            "findings": [finding.document() for finding in self.findings],
        }


def of_channel(state: State) -> Iterator[Ending]:
    """Yield the end of each of the channel's metadata; approvals are the signatures of a shared role."""
    name = state.settings.name
    top = (state.root.signed, state.timestamp.signed, state.snapshot.signed, state.targets.signed)
    for role, signed in zip(roles.TOP, top, strict=True):
        yield Ending(
            at=not_before(signed.expires),
            kind="channel",
            what=f"{role} of channel {name}, version {signed.version}",
            then=f"nothing of channel {name} is released",
        )
    for role, delegated in state.delegated.items():
        people = metadata.signers(role, delegated, state.targets.signed, state.people)
        by = ", ".join(person.name for person in people)
        yield Ending(
            at=not_before(delegated.signed.expires),
            kind="approval",
            what=f"{role} of channel {name}, version {delegated.signed.version}, signed by {by}",
            then=f"nothing of channel {name} is released",
        )


def of_policies(policies: Iterable[LoadedPolicy]) -> Iterator[Ending]:
    """Yield the end of each policy and of each of its waivers."""
    for policy in policies:
        form = policy.live.form
        keys = ", ".join(rule.key for rule in form.keys)
        then = f"no key of {policy.name} is released: {keys}"
        yield Ending(at=after(form.not_after), kind="policy", what=f"policy {policy.name}", then=then)
        for name, waiver in waivers(form):
            yield Ending(
                at=after(waiver.until),
                kind="waiver",
                what=f"waiver of {name} in {policy.name} ({waiver.decision}, {waiver.decided_by})",
                then=f"{name} is asked again",
            )


def of_endorsements(parts: Sequence[Part]) -> Iterator[Ending]:
    """Yield the end of each dated thing in endorsement files; what has no end is left out."""
    for entry in endorsements_of(parts):
        if entry.valid_until is not None and entry.valid_until < NO_END:
            what = f"{entry.part}: {entry.what}"
            yield Ending(at=after(entry.valid_until), kind="endorsement", what=what, then=entry.stops)


def of_certificates(certificates: Iterable[tuple[str, x509.Certificate]], then: str) -> Iterator[Ending]:
    """Yield the end of each certificate that has one, named by where it is."""
    for where, one in certificates:
        if one.not_valid_after_utc >= NO_END:
            continue
        what = f"{where}: certificate {common_name(one)}"
        yield Ending(at=after(one.not_valid_after_utc), kind="certificate", what=what, then=then)


def stop_of(workload: Workload, state: PolicyState, now: datetime) -> Stop:
    """Return when ``workload`` stops under the policies of ``state``, with the reasons of that second.

    The machine is taken to attest again, with the same claims and fresh, until then.
    """
    policy = state.by_key.get(workload.key)
    if policy is None:
        finding = Finding("key.unnamed", f"key {workload.key}", "a policy that names it", "none")
        return Stop(workload=workload, at=now, findings=(finding,))
    ends = horizon(
        lambda at: decide(workload, policy, at), bounds_of(policy.live.form, workload.attested.claims), now
    )
    channel = max(not_before(state.expires), now)
    if ends is None or channel < ends.at:
        want, got = f"metadata of {state.channel} that hold", f"expired at {_time(state.expires)}"
        finding = Finding("release.channel.expired", f"channel {state.channel}", want, got)
        return Stop(workload=workload, at=channel, findings=(finding,))
    return Stop(workload=workload, at=ends.at, findings=ends.findings)


def decide(workload: Workload, policy: LoadedPolicy, at: datetime) -> Decision:
    """Return the decision on the same claims shown afresh at ``at``."""
    attested = workload.attested
    challenge = replace(attested.challenge, issued_at=at)
    return appraise(attested.claims, policy.live, key=workload.key, challenge=challenge, now=at)


def with_stops(endings: Iterable[Ending], stops: Sequence[Stop]) -> tuple[Ending, ...]:
    """Return the endings in order of time, each with the workloads that stop at that second."""
    by_time: dict[datetime, list[str]] = {}
    for stop in stops:
        if stop.at is not None:
            by_time.setdefault(stop.at, []).append(stop.workload.name)
    found = [replace(ending, stops=tuple(by_time.get(ending.at, ()))) for ending in endings]
    return tuple(sorted(found, key=lambda ending: (ending.at, ending.kind, ending.what)))


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
