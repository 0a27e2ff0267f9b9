"""What the log says of a decision, and the record behind it that the operator may read.

The leaf names the decision and commits to the record; it carries no claim, no reference value and no secret.
The record is salted, so that nobody can test a guess of its content against the public commitment.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.core.findings import Finding

LEAF_SCHEMA = "tallystick/broker-leaf/v1"
RECORD_SCHEMA = "tallystick/broker-decision/v1"
_ID_BYTES = 6
_SALT_BYTES = 16


class Kind(Enum):
    """What was decided."""

    ATTESTATION = "attestation"  # evidence was genuine, fresh and bound; an attestation result was issued
    RELEASE = "release"  # a key left, wrapped
    REFUSAL = "refusal"  # a key, an attestation or an enrolment was refused
    LEASE = "lease"  # a lease was renewed or ended, or a drain was ordered or lifted
    ENROLMENT = "enrolment"  # an attestation key was certified
    POLICY = "policy"  # other policies, or other revocations, are in force from here on
    KEY = "key"  # a key was generated, imported, rotated or destroyed
    ADMIN = "admin"  # an administrator asked for something, or was enrolled or removed


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One decision, ready to be logged."""

    kind: Kind
    decision: str
    leaf: bytes
    record: bytes


def new_id(now: datetime) -> str:
    """Return an identifier that sorts by time and can not be guessed from another one."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(_ID_BYTES)}"


def entry(
    kind: Kind, *, now: datetime, public: Mapping[str, Any], details: Mapping[str, Any], decision: str = ""
) -> Entry:
    """Return the leaf and the record of one decision.

    Args:
        public: what the log may say: names, digests and codes.
        details: what only the operator may read; nothing here is a secret either.
        decision: its identifier, when the caller has given it out already.
    """
    name = decision or new_id(now)
    head = {"decision": name, "kind": kind.value, "at": instant(now), **public}
    record = jsondoc.canonical(
        {"schema": RECORD_SCHEMA, **head, "details": dict(details), "salt": secrets.token_hex(_SALT_BYTES)}
    )
    leaf = jsondoc.canonical({"schema": LEAF_SCHEMA, **head, "commitment": _commitment(record)})
    return Entry(kind=kind, decision=name, leaf=leaf, record=record)


def parse_leaf(data: bytes) -> dict[str, Any]:
    """Return what a leaf says.

    Raises:
        Malformed: not a canonical JSON object with a decision and a kind.
        Unsupported: another schema.
    """
    return _parse(data, "broker leaf", LEAF_SCHEMA)


def parse_record(data: bytes) -> dict[str, Any]:
    """Return what a record says.

    Raises:
        Malformed, Unsupported: as :func:`parse_leaf`.
    """
    return _parse(data, "broker decision", RECORD_SCHEMA)


def check_opens(leaf: Mapping[str, Any], record: bytes) -> None:
    """Check that ``record`` is what ``leaf`` commits to.

    Raises:
        NotGenuine: ``decision.altered``.
    """
    got = _commitment(record)
    if leaf.get("commitment") != got:
        finding = Finding("decision.altered", "commitment", str(leaf.get("commitment")), got)
        raise NotGenuine(f"the record of decision {leaf.get('decision')} was altered", findings=[finding])


def instant(now: datetime) -> str:
    """Return ``now`` in RFC 3339, in UTC and whole seconds."""
    return f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def whole(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return findings as the operator reads them."""
    return [finding.document() for finding in findings]


def codes(findings: Iterable[Finding]) -> list[str]:
    """Return the stable codes of ``findings``, each once, sorted."""
    return sorted({finding.code for finding in findings})


def _commitment(record: bytes) -> str:
    return f"sha256:{hashlib.sha256(record).hexdigest()}"


def _parse(data: bytes, what: str, schema: str) -> dict[str, Any]:
    value = jsondoc.loads(data, what)
    if not isinstance(value, dict):
        raise Malformed(what, at="document", want="an object", got=type(value).__name__)
    if value.get("schema") != schema:
        raise Unsupported(what, at="schema", want=schema, got=str(value.get("schema")))
    if jsondoc.canonical(value) != data:
        raise Malformed(what, at="document", want="canonical JSON", got="another spelling")
    for name in ("decision", "kind", "at"):
        if not isinstance(value.get(name), str):
            raise Malformed(what, at=name, want="a string", got=type(value.get(name)).__name__)
    return value
