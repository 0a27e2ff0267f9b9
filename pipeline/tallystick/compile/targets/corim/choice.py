"""What a policy's author says of the Verifier that a CoRIM is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.formats.yamldoc import Fields
from tallystick.policy.model import Target, Waiver

_MOST_SECONDS = 86_400
SCHEMA: Mapping[str, Any] = {
    "properties": {"evidence_seconds": {"type": "integer", "minimum": 1, "maximum": _MOST_SECONDS}},
    "required": ["evidence_seconds"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CorimTarget(Target):
    """A Verifier with a CoRIM store."""

    evidence_seconds: int  # oldest evidence that the Verifier, or who asks it, takes

    @property
    def words(self) -> str:
        """What its owner says of it, in one line."""
        return f"evidence of at most {self.evidence_seconds} s"


def read(fields: Fields, waivers: tuple[Waiver, ...]) -> CorimTarget:
    """Return the entry of a policy; Malformed when a field is not of its form."""
    seconds = fields.integer("evidence_seconds", 1, _MOST_SECONDS)
    return CorimTarget(name="corim", place=fields.place, waivers=waivers, evidence_seconds=seconds)
