"""What a policy's author says of a Keylime deployment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.formats.yamldoc import Fields
from tallystick.policy.model import Target, Waiver

_MOST_SECONDS = 3_600
SCHEMA: Mapping[str, Any] = {
    "properties": {"quote_interval_seconds": {"type": "integer", "minimum": 1, "maximum": _MOST_SECONDS}},
    "required": ["quote_interval_seconds"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Keylime(Target):
    """A Keylime verifier and its tenant."""

    quote_interval_seconds: int  # `[verifier] quote_interval`: how often an agent is asked for another quote

    @property
    def words(self) -> str:
        """What its owner says of it, in one line."""
        return f"a quote every {self.quote_interval_seconds} s"


def read(fields: Fields, waivers: tuple[Waiver, ...]) -> Keylime:
    """Return the entry of a policy; Malformed when a field is not of its form."""
    seconds = fields.integer("quote_interval_seconds", 1, _MOST_SECONDS)
    return Keylime(name="keylime", place=fields.place, waivers=waivers, quote_interval_seconds=seconds)
