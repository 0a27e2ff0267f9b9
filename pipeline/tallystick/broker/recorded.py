"""Verified claims and their challenge as a record keeps them, so that a decision can be made again later."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tallystick.appraisal.records import Challenge
from tallystick.broker.decisions import instant
from tallystick.core.findings import Finding
from tallystick.evidence.claims import Claims


def claims_document(claims: Claims) -> dict[str, Any]:
    """Return ``claims``, and those of the machine's devices, as a JSON value."""
    bounds = (claims.valid_from, claims.valid_until)
    return {
        "kind": claims.kind,
        "values": dict(claims.values),
        "roots": list(claims.roots),
        "report_data": claims.report_data.hex(),
        "valid": [None if end is None else instant(end) for end in bounds],
        "notes": [note.document() for note in claims.notes],
        "devices": [claims_document(device) for device in claims.devices],
    }


def claims_of(said: Mapping[str, Any]) -> Claims:
    """Return the claims that :func:`claims_document` wrote."""
    since, until = (None if end is None else datetime.fromisoformat(end) for end in said["valid"])
    return Claims(
        kind=said["kind"],
        values=said["values"],
        roots=tuple(said["roots"]),
        report_data=bytes.fromhex(said["report_data"]),
        valid_from=since,
        valid_until=until,
        notes=tuple(map(finding_of, said["notes"])),
        devices=tuple(map(claims_of, said["devices"])),
    )


def challenge_document(challenge: Challenge) -> dict[str, str]:
    """Return what the evidence was bound to as a JSON value."""
    return {
        "report_data": challenge.report_data.hex(),
        "device_report_data": challenge.device_report_data.hex(),
        "issued_at": instant(challenge.issued_at),
    }


def challenge_of(said: Mapping[str, str]) -> Challenge:
    """Return the challenge that :func:`challenge_document` wrote."""
    return Challenge(
        report_data=bytes.fromhex(said["report_data"]),
        device_report_data=bytes.fromhex(said["device_report_data"]),
        issued_at=datetime.fromisoformat(said["issued_at"]),
    )


def finding_of(said: Mapping[str, str]) -> Finding:
    """Return a finding from its document."""
    return Finding(said["code"], said["where"], said["want"], said["got"])
