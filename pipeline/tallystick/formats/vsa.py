"""SLSA Verification Summary Attestation v1: one verifier's verdict on some artifacts, and what it rests on.

Source: SLSA 1.2, "Verification Summary Attestation (VSA)", predicate type below; its fields are unchanged
since 1.0 apart from ``verifier.version`` (1.1). Unset, null and empty fields mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import intoto, slsa
from tallystick.formats.intoto import Statement
from tallystick.formats.slsa import Resource

PREDICATE_TYPE = "https://slsa.dev/verification_summary/v1"
PASSED = "PASSED"
FAILED = "FAILED"
SLSA_VERSION = "1.2"
_WHAT = "VSA"
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The predicate of a VSA. Unknown fields stay in the statement."""

    verifier_id: str
    verifier_version: tuple[tuple[str, str], ...] = ()
    time_verified: datetime | None = None
    resource_uri: str
    policy: Resource
    inputs: tuple[Resource, ...] = ()  # inputAttestations: what was looked at, each by digest
    result: str  # PASSED or FAILED
    levels: tuple[str, ...]  # verifiedLevels, as written
    dependency_levels: tuple[tuple[str, int], ...] = ()
    slsa_version: str = ""

    def document(self) -> dict[str, Any]:
        """Return the predicate as JSON has it, without empty optional fields."""
        optional = {
            "timeVerified": _written(self.time_verified) if self.time_verified else "",
            "inputAttestations": [resource.document() for resource in self.inputs],
            "dependencyLevels": dict(self.dependency_levels),
            "slsaVersion": self.slsa_version,
        }
        version = {"version": dict(self.verifier_version)} if self.verifier_version else {}
        return {
            "verifier": {"id": self.verifier_id, **version},
            "resourceUri": self.resource_uri,
            "policy": self.policy.document(),
            "verificationResult": self.result,
            "verifiedLevels": list(self.levels),
            **{name: value for name, value in optional.items() if value},
        }


def make(
    subjects: Iterable[tuple[str, Mapping[str, str]]],
    summary: Summary,
    annotations: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the RFC 8785 bytes of the statement that ``summary`` is about ``subjects``; ``annotations`` as theirs."""
    data = intoto.make(subjects, PREDICATE_TYPE, summary.document(), annotations)
    parse(intoto.parse(data))
    return data


def parse(statement: Statement) -> Summary:
    """Return the summary that ``statement`` holds.

    Raises:
        Malformed: a required field is missing or has another type, or the result is neither of the two.
        Unsupported: a statement with another predicate.
    """
    if statement.predicate_type != PREDICATE_TYPE:
        raise Unsupported(_WHAT, at="predicateType", want=PREDICATE_TYPE, got=statement.predicate_type)
    fields = statement.predicate
    verifier = _object(fields, "verifier", required=True)
    versions = _object(verifier, "version")
    levels = fields.get("dependencyLevels") or {}
    return Summary(
        verifier_id=_text(verifier, "id", required=True),
        verifier_version=tuple((name, _text(versions, name)) for name in sorted(versions)),
        time_verified=_time(fields.get("timeVerified")),
        resource_uri=_text(fields, "resourceUri", required=True),
        policy=_policy(_object(fields, "policy", required=True)),
        inputs=_inputs(fields.get("inputAttestations") or []),
        result=_result(_text(fields, "verificationResult", required=True)),
        levels=_levels(fields.get("verifiedLevels")),
        dependency_levels=_counts(levels),
        slsa_version=_text(fields, "slsaVersion"),
    )


def _policy(value: dict[str, Any]) -> Resource:
    policy = slsa.resource(value, "policy")
    if not policy.uri:
        raise Malformed(_WHAT, at="policy.uri", want="a uri: this field is required", got="none")
    return policy


def _inputs(value: Any) -> tuple[Resource, ...]:
    if not isinstance(value, list):
        raise Malformed(_WHAT, at="inputAttestations", want="a list", got=type(value).__name__)
    found = tuple(slsa.resource(item, f"inputAttestations[{i}]") for i, item in enumerate(value))
    for index, item in enumerate(found):
        if not item.digests:
            at = f"inputAttestations[{index}].digest"
            raise Malformed(_WHAT, at=at, want="a digest: this field is required", got="none")
    return found


def _result(text: str) -> str:
    if text not in {PASSED, FAILED}:
        raise Malformed(_WHAT, at="verificationResult", want=f"{PASSED} or {FAILED}", got=text)
    return text


def _levels(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(level, str) and level for level in value):
        raise Malformed(_WHAT, at="verifiedLevels", want="a list of texts", got=repr(value))
    return tuple(value)


def _counts(value: Any) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, dict):
        raise Malformed(_WHAT, at="dependencyLevels", want="an object", got=type(value).__name__)
    for level, count in value.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise Malformed(_WHAT, at=f"dependencyLevels.{level}", want="a count", got=repr(count))
    return tuple(sorted(value.items()))


def _time(value: Any) -> datetime | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and (match := _TIME.fullmatch(value)):
        try:
            return datetime.fromisoformat(match[1] + match[3]).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise Malformed(_WHAT, at="timeVerified", want="an RFC 3339 time", got=repr(value))


def _written(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _object(where: Mapping[str, Any], name: str, *, required: bool = False) -> dict[str, Any]:
    value = where.get(name)
    if not value and not required:
        value = {}
    if not isinstance(value, dict):
        raise Malformed(_WHAT, at=name, want="an object", got=type(value).__name__)
    return value


def _text(where: Mapping[str, Any], name: str, *, required: bool = False) -> str:
    value = where.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value):
        raise Malformed(_WHAT, at=name, want="a text", got=repr(value))
    return value
