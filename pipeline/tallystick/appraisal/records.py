"""What was asked, and what was decided."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tallystick.core.digests import Digest
from tallystick.core.findings import Finding
from tallystick.evidence.claims import Claims


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What the evidence must be bound to: computed by the broker, never taken from the evidence."""

    report_data: bytes
    issued_at: datetime
    device_report_data: bytes = b""  # what devices must be bound to; nothing: no device is accepted


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One answer: for which key, on which claims, under which policy, at which moment, and why."""

    key: str
    allowed: bool
    release: Digest | None  # the release whose tuple matched
    nearest: Digest | None  # when refused: the release that came closest
    findings: tuple[Finding, ...]  # every reason; empty when allowed
    policy: Digest  # of the compiled policy (its exact bytes)
    at: datetime
    claims: Claims

    def __post_init__(self) -> None:
        """Refuse to be a yes with a reason against it, or without the release it is for."""
        if self.allowed != (self.release is not None and not self.findings):
            raise ValueError("a decision allows exactly when a release matched and nothing speaks against it")
