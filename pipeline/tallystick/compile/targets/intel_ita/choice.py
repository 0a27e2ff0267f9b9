"""What a policy's author says of a Trust Authority tenant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.formats.yamldoc import Fields
from tallystick.policy.model import Target, Waiver

_MOST_SECONDS = 3_600
SCHEMA: Mapping[str, Any] = {
    "properties": {"token_seconds": {"type": "integer", "minimum": 1, "maximum": _MOST_SECONDS}},
    "required": ["token_seconds"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class IntelIta(Target):
    """A tenant of Intel Trust Authority, and its relying party."""

    token_seconds: int  # lifetime of its tokens, which the relying party holds them to

    @property
    def words(self) -> str:
        """What its owner says of it, in one line."""
        return f"tokens live {self.token_seconds} s"


def read(fields: Fields, waivers: tuple[Waiver, ...]) -> IntelIta:
    """Return the entry of a policy; Malformed when a field is not of its form."""
    seconds = fields.integer("token_seconds", 1, _MOST_SECONDS)
    return IntelIta(name="intel-ita", place=fields.place, waivers=waivers, token_seconds=seconds)
