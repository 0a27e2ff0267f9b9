"""The only place of the command line that reads the clock (DESIGN.md, invariant 9)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from tallystick.core.errors import Misuse


def now() -> datetime:
    """Return the current instant, in UTC and whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)  # noqa: TID251


def at(text: str | None) -> datetime:
    """Return the instant that ``--at`` names, or the current one when the option was not given.

    Raises:
        Misuse: not an RFC 3339 time with an offset.
    """
    if text is None:
        return now()
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", text):
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise Misuse(
        f"--at: want an RFC 3339 time such as 2026-01-31T12:00:00Z, got {text[:40]}", code="time.malformed"
    )
