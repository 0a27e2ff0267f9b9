"""What would have made a refusal a release. It is only suggested once the evaluator, asked again, says yes to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from tallystick.appraisal.appraise import appraise
from tallystick.appraisal.index import Prepared, prepare
from tallystick.appraisal.records import Challenge, Decision
from tallystick.core.findings import Change
from tallystick.evidence.claims import Claims

_OF_EVIDENCE = ("roots", "report_data", "valid_from", "valid_until")


def suggest(decision: Decision, policy: Prepared, challenge: Challenge) -> tuple[Change, ...]:
    """Return the changes that together make ``decision`` a yes; usually one, of one field.

    Empty when it is a yes already, and when nothing that the evidence or the request says could make it one: a
    waiver that has ended, a device that is missing, a release that was revoked.
    """
    changes = tuple(dict.fromkeys(f.change for f in decision.findings if f.change is not None))
    again = decide_with(changes, decision, policy, challenge)
    return changes if again.allowed else ()


def decide_with(
    changes: tuple[Change, ...], decision: Decision, policy: Prepared, challenge: Challenge
) -> Decision:
    """Return the decision on the same question with ``changes`` made to it, at the same moment."""
    claims, key = decision.claims, decision.key
    for change in changes:
        match change.field:
            case ("key",):
                key = str(change.to)
            case ("challenge", "issued_at"):
                challenge = replace(challenge, issued_at=_moment(change.to))
            case ("policy", "not_after"):
                policy = prepare(replace(policy.form, not_after=_moment(change.to)), policy.digest)
            case field:
                claims = _changed(claims, field, change.to)
    return appraise(claims, policy, key, challenge, decision.at)


def _changed(claims: Claims, field: tuple[str, ...], to: object) -> Claims:
    match field:
        case ("devices", number, *rest):
            devices = list(claims.devices)
            devices[int(number)] = _changed(devices[int(number)], tuple(rest), to)
            return replace(claims, devices=tuple(devices))
        case ("claims", path):
            return replace(claims, values=_with(claims.values, path.split("."), to))
        case (name,) if name in _OF_EVIDENCE:
            given: dict[str, Any] = {name: to}
            return replace(claims, **given)
    raise ValueError(f"no field {'/'.join(field)}")


def _with(values: Mapping[str, Any], path: list[str], to: object) -> dict[str, Any]:
    """Return ``values`` with the claim at ``path`` set; what stands in the path's way gives way."""
    inner = values.get(path[0])
    below = inner if isinstance(inner, Mapping) else {}
    return {**values, path[0]: to if len(path) == 1 else _with(below, path[1:], to)}


def _moment(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise TypeError(f"want a moment, got {type(value).__name__}")
    return value
