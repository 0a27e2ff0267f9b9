"""Whether a key leaves: the verified claims, appraised under the policy and revocations of this moment.

An attestation result is no input here, not even our own: every fetch of a key is decided from the claims.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from tallystick.appraisal.appraise import appraise
from tallystick.appraisal.records import Decision
from tallystick.broker.decisions import whole
from tallystick.broker.policies import LoadedPolicy, PolicyState
from tallystick.broker.sessions import Attested
from tallystick.broker.vault import KeyId, Vault
from tallystick.core.errors import TallystickError, Unreachable
from tallystick.core.findings import Finding
from tallystick.handshake import jwe


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer to one fetch of one key, with every reason."""

    key: str
    findings: tuple[Finding, ...]  # empty exactly when the key leaves
    policy: LoadedPolicy | None  # None when no policy in force names the key
    decision: Decision | None  # None when nothing was appraised
    state: PolicyState | None  # None when no policies could be verified

    @property
    def allowed(self) -> bool:
        """Whether the key leaves."""
        return not self.findings and self.decision is not None and self.decision.allowed

    @property
    def own(self) -> tuple[Finding, ...]:
        """The findings that are about the workload's own claims; what it claimed it may be told."""
        appraised = self.decision.findings if self.decision is not None else ()
        return tuple(finding for finding in self.findings if finding in appraised)

    def public(self) -> dict[str, Any]:
        """Return what the log says of it, beside the codes: names and digests."""
        said: dict[str, Any] = {"key": self.key}
        if self.state is not None:
            said["channel"] = self.state.channel
            said["channel_version"] = self.state.version
        if self.policy is not None:
            said["policy"] = str(self.policy.digest)
        if self.allowed and self.decision is not None and self.decision.release is not None:
            said["release"] = str(self.decision.release)
        return said

    def details(self) -> dict[str, Any]:
        """Return what the operator may read of it."""
        said: dict[str, Any] = {"findings": whole(self.findings)}
        if self.policy is not None:
            said["policy_name"] = self.policy.name
            said["gone"] = sorted(str(release.digest) for release in self.policy.gone.form.releases)
        if self.state is not None and self.policy is not None:
            said["revoked"] = [digest for digest in said["gone"] if digest in self.state.revoked]
        if self.decision is not None and self.decision.allowed and self.findings:
            said["withheld"] = True  # the policy allowed it; the key itself could not leave
        if self.decision is not None and self.decision.nearest is not None:
            said["nearest"] = str(self.decision.nearest)
        return said


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Outcome:
    """A verdict, and the wrapped key that may leave once the verdict is in the log."""

    verdict: Verdict
    wrapped: bytes | None


def decide(key: KeyId, attested: Attested, state: PolicyState, vault: Vault, *, now: datetime) -> Outcome:
    """Return whether ``key`` leaves for what ``attested`` proved, and the key, wrapped to its public key.

    Raises:
        Unreachable: the place of the sealed keys, or what seals them, does not answer.
    """
    verdict = judge(key, attested, state, now=now)
    if not verdict.allowed:
        return Outcome(verdict=verdict, wrapped=None)
    try:
        material = vault.material(key)
    except Unreachable:
        raise  # nothing was refused: whoever keeps the sealed keys does not answer
    except TallystickError as error:
        return _withheld(verdict, Finding(error.code, f"key {key}", "a live key", error.message))
    if material.record.channel != state.channel:
        finding = Finding("key.channel", f"channel of key {key}", material.record.channel, state.channel)
        return _withheld(verdict, finding)
    return Outcome(verdict=verdict, wrapped=jwe.encrypt(material.secret, attested.public_key))


def judge(key: str, attested: Attested, state: PolicyState, *, now: datetime) -> Verdict:
    """Return the verdict under the policies of ``state``, without looking at the key itself."""
    policy = state.by_key.get(key)
    if policy is None:
        findings = _unnamed(key, state)
        return Verdict(key=key, findings=findings, policy=None, decision=None, state=state)
    decision = appraise(attested.claims, policy.live, key=key, challenge=attested.challenge, now=now)
    findings = decision.findings
    if not decision.allowed and policy.gone.form.releases:
        findings = _revoked(key, attested, policy, state, now=now) or findings
    return Verdict(key=key, findings=findings, policy=policy, decision=decision, state=state)


def without_policies(key: str, error: TallystickError) -> Verdict:
    """Return the verdict when no policy could be verified: nothing is released then."""
    findings = error.findings or (
        Finding(error.code, "policies of the channel", "verified policies", error.message),
    )
    return Verdict(key=key, findings=findings, policy=None, decision=None, state=None)


def withheld(outcome: Outcome, findings: tuple[Finding, ...]) -> Outcome:
    """Return ``outcome``, without the key when ``findings`` speak against its leaving."""
    if not findings:
        return outcome
    return Outcome(verdict=replace(outcome.verdict, findings=findings), wrapped=None)


def _withheld(verdict: Verdict, finding: Finding) -> Outcome:
    return Outcome(verdict=replace(verdict, findings=(finding,)), wrapped=None)


def _unnamed(key: str, state: PolicyState) -> tuple[Finding, ...]:
    named = ", ".join(policy.name for policy in state.policies) or "no policy"
    want = f"a policy of channel {state.channel} that names it"
    return (Finding("key.unnamed", f"key {key}", want, named), *state.unusable)


def _revoked(
    key: str, attested: Attested, policy: LoadedPolicy, state: PolicyState, *, now: datetime
) -> tuple[Finding, ...]:
    """Return the one reason that counts when these claims are exactly those of a release that is out again."""
    decision = appraise(attested.claims, policy.gone, key=key, challenge=attested.challenge, now=now)
    if not decision.allowed:
        return ()
    entries = [e for r in policy.gone.form.releases if r.digest == decision.release for e in r.tuples]
    named = {str(decision.release), *(str(one) for entry in entries for one in entry.artifacts)}
    revoked = sorted(named.intersection(state.revoked))  # the release, or an artifact release beside it
    code = "release.revoked" if revoked else "release.removed"
    want = f"a release that channel {state.channel} lists and nobody has revoked"
    return (Finding(code, "release", want, ", ".join(revoked) or str(decision.release)),)
