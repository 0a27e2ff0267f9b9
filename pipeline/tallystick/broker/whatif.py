"""What a new policy would have decided: recorded evidence replayed as of its time, by the evaluator itself.

A record is replayed only where the past can be made again: its evidence still verifies with the endorsements of
its time, and the policy of that time still says what it said. Whatever can not is named, never left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Any, Protocol

from tallystick.broker import again, evidence_record, recorded
from tallystick.broker.decisions import Kind
from tallystick.broker.evidence_record import RecordedEvidence
from tallystick.broker.policies import LoadedPolicy, loaded
from tallystick.broker.proving import Backing
from tallystick.broker.releasing import judge
from tallystick.broker.sessions import Attested
from tallystick.core.digests import Digest
from tallystick.core.errors import Refused, TallystickError
from tallystick.core.findings import Finding
from tallystick.policy.normal import NormalForm

_REMEMBERED = 4096  # attestations: one of them often fetches several keys


class Casebook(Protocol):
    """Where recorded decisions come from."""

    def records(self) -> Iterator[Mapping[str, Any]]:
        """Yield the record of every decision, in the order of the log."""
        ...

    def evidence(self, attestation: str) -> tuple[RecordedEvidence, Backing]:
        """Return the evidence of an attestation; a TallystickError says why there is none."""
        ...

    def policy(self, digest: Digest) -> bytes | None:
        """Return a compiled policy that was in force once."""
        ...


class Change(Enum):
    """What the new policy does to one decision."""

    ALLOWED = "newly allowed"
    DENIED = "newly denied"
    UNCHANGED = "unchanged"
    NOT_REPLAYABLE = "not replayable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One recorded decision under the new policy."""

    decision: str
    at: datetime
    key: str
    change: Change
    allowed: bool  # what was decided then
    release: str  # that matched, then or now; empty when none did
    findings: tuple[
        Finding, ...
    ]  # why the new policy refuses, why it was refused, or why it can not be replayed

    def document(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            "decision": self.decision,
            "at": f"{self.at:%Y-%m-%dT%H:%M:%SZ}",
            "key": self.key,
            "was": "allowed" if self.allowed else "refused",
            "release": self.release or None,
            "findings": [finding.document() for finding in self.findings],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was replayed."""

    replayed: tuple[Replayed, ...]
    elsewhere: int  # decisions about keys of other policies

    def of(self, change: Change) -> tuple[Replayed, ...]:
        """Return what came out as ``change``."""
        return tuple(one for one in self.replayed if one.change is change)


def replay(casebook: Casebook, data: bytes, form: NormalForm) -> Report:
    """Return what each recorded decision would have been under the compiled policy ``data``.

    Args:
        form: the normal form of ``data``.
    """
    judge_again = _Judge(casebook, data, form)
    keys = {rule.key for rule in form.keys}
    replayed: list[Replayed] = []
    elsewhere = 0
    for record in casebook.records():
        if record.get("kind") not in (Kind.RELEASE.value, Kind.REFUSAL.value) or "key" not in record:
            continue
        if record["key"] not in keys and record["details"].get("policy_name") != form.policy:
            elsewhere += 1
            continue
        replayed.append(judge_again.of(record))
    return Report(replayed=tuple(replayed), elsewhere=elsewhere)


class _Judge:
    """Decides again. Policies and proofs are kept between decisions, as many share one."""

    def __init__(self, casebook: Casebook, data: bytes, form: NormalForm) -> None:
        self._casebook = casebook
        self._attested = lru_cache(maxsize=_REMEMBERED)(self._prove)
        self._old = lru_cache(maxsize=_REMEMBERED)(self._recorded_policy)
        self._new = lru_cache(maxsize=256)(lambda gone: loaded(data, form, gone))

    def of(self, record: Mapping[str, Any]) -> Replayed:
        """Return ``record`` under the new policy."""
        try:
            return self._replayed(record)
        except TallystickError as error:
            findings = error.findings or (Finding(error.code, "evidence", "a replay", error.message),)
            return _said(record, Change.NOT_REPLAYABLE, findings)

    def _replayed(self, record: Mapping[str, Any]) -> Replayed:
        if "channel" not in record:
            message = "no policy could be verified then, whatever it was"
            raise Refused(message, code="whatif.no-channel")
        now = datetime.fromisoformat(record["at"])
        attested: Attested = self._attested(record["attestation"])
        details = record["details"]
        revoked = tuple(details.get("revoked", ()))
        policy = self._old(record.get("policy"), tuple(details.get("gone", ())))
        if policy is not None:
            before = judge(
                record["key"], attested, again.state_with(record, [policy], revoked=revoked), now=now
            )
            if not again.same(record, before):
                raise Refused(
                    "the same policy does not decide as it did then", code="whatif.decides-otherwise"
                )
        new: LoadedPolicy = self._new(frozenset(map(Digest.parse, revoked)))
        verdict = judge(record["key"], attested, again.state_with(record, [new], revoked=revoked), now=now)
        was = again.allowed(record)
        release = str(verdict.decision.release) if verdict.decision and verdict.decision.release else ""
        if verdict.allowed == was:
            return _said(record, Change.UNCHANGED, verdict.findings, release)
        if verdict.allowed:
            return _said(record, Change.ALLOWED, _findings(details), release)
        return _said(record, Change.DENIED, verdict.findings, record.get("release", ""))

    def _prove(self, attestation: str) -> Attested:
        kept, backing = self._casebook.evidence(attestation)
        return evidence_record.prove_again(kept, backing)

    def _recorded_policy(self, digest: str | None, gone: tuple[str, ...]) -> LoadedPolicy | None:
        if digest is None:
            return None
        data = self._casebook.policy(Digest.parse(digest))
        return again.policy_of({"policy": digest, "details": {"gone": gone}}, data)


def _findings(details: Mapping[str, Any]) -> tuple[Finding, ...]:
    return tuple(map(recorded.finding_of, details.get("findings", ())))


def _said(
    record: Mapping[str, Any], change: Change, findings: Iterable[Finding], release: str = ""
) -> Replayed:
    return Replayed(
        decision=record["decision"],
        at=datetime.fromisoformat(record["at"]),
        key=record["key"],
        change=change,
        allowed=again.allowed(record),
        release=release,
        findings=tuple(findings),
    )
