"""Recorded decisions made again: the state of policies that a record says, and the recorded policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from tallystick.broker.decisions import Kind, codes
from tallystick.broker.policies import LoadedPolicy, PolicyState, loaded
from tallystick.broker.releasing import Verdict
from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine
from tallystick.core.findings import Finding
from tallystick.policy import document


def policy_of(record: Mapping[str, Any], data: bytes | None) -> LoadedPolicy | None:
    """Return the policy that decided ``record`` as it stood then; None when none applied.

    Args:
        data: the compiled policy that was kept under the digest that the record names.

    Raises:
        NotGenuine: it was not kept, or other bytes were (``policy.record``).
    """
    named = record.get("policy")
    if named is None:
        return None
    digest = Digest.parse(named)
    if data is None or Digest.of(data) != digest:
        got = "no policy" if data is None else str(Digest.of(data))
        finding = Finding("policy.record", "policy of the decision", str(digest), got)
        raise NotGenuine(finding.message, findings=[finding])
    gone = frozenset(map(Digest.parse, record["details"].get("gone", ())))
    return loaded(data, document.read(data), gone)


def state_with(
    record: Mapping[str, Any], policies: Iterable[LoadedPolicy], *, revoked: Iterable[str]
) -> PolicyState:
    """Return the state in which ``policies`` decide at the moment of ``record``."""
    found = tuple(policies)
    by_key = {rule.key: policy for policy in found for rule in policy.live.form.keys}
    return PolicyState(
        channel=record["channel"],
        version=record["channel_version"],
        expires=datetime.fromisoformat(record["at"]),
        revoked=tuple(sorted(revoked)),
        policies=found,
        by_key=MappingProxyType(by_key),
        unusable=(),
    )


def same(record: Mapping[str, Any], verdict: Verdict) -> bool:
    """Return whether ``verdict`` is what ``record`` says was decided."""
    if allowed(record):
        return verdict.allowed
    return not verdict.allowed and codes(verdict.findings) == record["codes"]


def allowed(record: Mapping[str, Any]) -> bool:
    """Return whether the policy allowed it then, also where the key itself could not leave."""
    return record["kind"] == Kind.RELEASE.value or bool(record["details"].get("withheld"))
