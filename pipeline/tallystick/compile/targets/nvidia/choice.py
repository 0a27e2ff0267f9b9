"""What a policy's author says of NVIDIA's attestation SDK: nothing, it has no deployment of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.formats.yamldoc import Fields
from tallystick.policy.model import Target, Waiver

SCHEMA: Mapping[str, Any] = {"properties": {}, "required": []}


@dataclass(frozen=True, slots=True, kw_only=True)
class Nvidia(Target):
    """The SDK in the relying party."""

    @property
    def words(self) -> str:
        """What its owner says of it, in one line."""
        return "attestation SDK"


def read(fields: Fields, waivers: tuple[Waiver, ...]) -> Nvidia:
    """Return the entry of a policy."""
    return Nvidia(name="nvidia", place=fields.place, waivers=waivers)
