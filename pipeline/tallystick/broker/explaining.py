"""Why a decision was what it was: its record, checked against the log, and decided again by the same evaluator.

For the operator: it shows what the policy wants, which the refused workload was not told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tallystick.appraisal.steps import next_step
from tallystick.appraisal.suggesting import suggest
from tallystick.broker import again, recorded
from tallystick.broker.config import Home
from tallystick.broker.decisions import Kind, check_opens, parse_leaf, parse_record
from tallystick.broker.leaflog import LeafLog
from tallystick.broker.policies import LoadedPolicy
from tallystick.broker.releasing import Verdict, judge
from tallystick.broker.sessions import Attested, recorded_attestation
from tallystick.broker.store import Store
from tallystick.core.digests import Digest
from tallystick.core.findings import Change, Finding
from tallystick.policy.normal import PermittedRelease


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One decision as the operator reads it. Its record has opened the log's commitment."""

    decision: str
    kind: Kind
    at: datetime
    said: Mapping[str, Any]  # what the log says of it: key, policy, release, codes
    findings: tuple[Finding, ...]  # every reason, with what was wanted and what was got
    policy: str  # the policy's name; empty where none applied
    release: PermittedRelease | None  # that matched
    nearest: PermittedRelease | None  # that came closest, when none matched
    leaf: int  # in the log
    size: int  # of the log
    again: (
        bool | None
    )  # decided again from the record: the same answer; None where there is nothing to decide
    changes: tuple[Change, ...]  # that together would have made it a yes; the evaluator has said so

    def document(self) -> dict[str, Any]:
        """Return the explanation as ``--json`` prints it."""
        return {
            **self.said,
            "findings": [{**one.document(), "next": next_step(one.code)} for one in self.findings],
            "changes": [change.document() for change in self.changes],
            "policy_name": self.policy or None,
            "release": _release(self.release),
            "nearest": _release(self.nearest),
            "log": {"index": self.leaf, "size": self.size},
            "decided_again": self.again,
        }


def explain(home: Home, decision: str) -> Explanation:
    """Return why ``decision`` was what it was.

    Raises:
        Refused: this broker never made it (``decision.unknown``).
        NotGenuine: its record is not what the log commits to, or the log does not hold.
    """
    store = Store.open(home.store)
    try:
        kept = store.decision(decision)
        log = LeafLog(store)
        leaf = parse_leaf(log.leaf(kept))
        check_opens(leaf, kept.record)
        record = parse_record(kept.record)
        policy = _policy(store, record)
        findings = tuple(map(recorded.finding_of, record["details"].get("findings", ())))
        nearest = record["details"].get("nearest")
        judged = _again(store, log, record, policy)
        return Explanation(
            decision=decision,
            kind=Kind(record["kind"]),
            at=datetime.fromisoformat(record["at"]),
            said={name: value for name, value in leaf.items() if name not in ("schema", "commitment")},
            findings=findings,
            policy=record["details"].get("policy_name", ""),
            release=_named(policy, record.get("release")),
            nearest=_named(policy, nearest),
            leaf=kept.position,
            size=log.size,
            again=None if judged is None else again.same(record, judged[0]),
            changes=() if judged is None else _changes(*judged),
        )
    finally:
        store.close()


def _again(
    store: Store, log: LeafLog, record: Mapping[str, Any], policy: LoadedPolicy | None
) -> tuple[Verdict, Attested] | None:
    """Return what the evaluator says now of the same claims, policy and moment; None where nothing was decided."""
    if policy is None or "attestation" not in record:
        return None
    attested = _attested(store, log, record["attestation"])
    state = again.state_with(record, [policy], revoked=record["details"]["revoked"])
    return judge(record["key"], attested, state, now=datetime.fromisoformat(record["at"])), attested


def _changes(verdict: Verdict, attested: Attested) -> tuple[Change, ...]:
    """Return what would have made the verdict a yes; nothing where not the policy alone speaks against it."""
    decision, policy = verdict.decision, verdict.policy
    if decision is None or policy is None or verdict.findings != decision.findings:
        return ()
    return suggest(decision, policy.live, attested.challenge)


def _attested(store: Store, log: LeafLog, attestation: str) -> Attested:
    """Return what an attestation proved, from its own record."""
    kept = store.decision(attestation)
    check_opens(parse_leaf(log.leaf(kept)), kept.record)
    return recorded_attestation(attestation, kept.record)


def _policy(store: Store, record: Mapping[str, Any]) -> LoadedPolicy | None:
    """Return the policy that decided, as it stood then."""
    named = record.get("policy")
    return again.policy_of(record, None if named is None else store.policy(Digest.parse(named).value))


def _named(policy: LoadedPolicy | None, digest: str | None) -> PermittedRelease | None:
    if policy is None or digest is None:
        return None
    known = (*policy.live.form.releases, *policy.gone.form.releases)
    return next((release for release in known if str(release.digest) == digest), None)


def _release(release: PermittedRelease | None) -> dict[str, str] | None:
    if release is None:
        return None
    return {"digest": str(release.digest), "name": release.name, "version": release.version}
