"""How a bundle is refused: one finding, with a stable code."""

from __future__ import annotations

from tallystick.core.errors import NotGenuine
from tallystick.core.findings import Finding


def refusal(what: str, code: str, where: str, want: str, got: str) -> NotGenuine:
    """Return the error that says why ``what`` is not genuine; the caller raises it."""
    finding = Finding(code, f"{what}: {where}", want, got[:200])
    return NotGenuine(finding.message, findings=[finding])
