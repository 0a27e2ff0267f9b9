"""A decision as people and programs read it. It says what the evaluator found, and computes nothing itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tallystick.appraisal.records import Decision
from tallystick.appraisal.steps import next_step
from tallystick.core.digests import Digest


def document(decision: Decision) -> dict[str, Any]:
    """Return ``decision`` as ``--json`` prints it. For operators: it shows what the policy wants."""
    return {
        "key": decision.key,
        "allowed": decision.allowed,
        "release": _or_none(decision.release),
        "nearest": _or_none(decision.nearest),
        "policy": str(decision.policy),
        "at": _time(decision.at),
        "kind": decision.claims.kind,
        "findings": [{**one.document(), "next": next_step(one.code)} for one in decision.findings],
    }


def words(decision: Decision) -> str:
    """Return ``decision`` in sentences, one line for each reason."""
    if decision.allowed:
        return (
            f"allowed: {decision.key} for release {decision.release}\n"
            f"  at {_time(decision.at)} under the policy {decision.policy}"
        )
    lines = [f"refused: {decision.key}, for {len(decision.findings)} reason(s)"]
    lines += [f"  - {finding.message}  [{finding.code}]" for finding in decision.findings]
    if decision.nearest is not None:
        lines.append(f"  nearest release: {decision.nearest}")
    lines.append(f"  at {_time(decision.at)} under the policy {decision.policy}")
    return "\n".join(lines)


def codes(decision: Decision) -> tuple[str, ...]:
    """Return what a refused workload may be told: the codes, and no value that the policy wants."""
    return tuple(sorted({finding.code for finding in decision.findings}))


def _or_none(digest: Digest | None) -> str | None:
    return None if digest is None else str(digest)


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
