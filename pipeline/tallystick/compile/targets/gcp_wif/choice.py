"""What a policy says of its Google keys: the pool and provider, and which keys of Cloud KMS they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.compile.targets import keyids
from tallystick.formats.yamldoc import Fields
from tallystick.policy.model import Target, Waiver

_NUMBER = (r"[1-9][0-9]{0,19}", "a project's number, as a text")
_ID = (r"[a-z][a-z0-9-]{2,30}[a-z0-9]", "an id of 4 to 32 lower-case letters, digits and hyphens")
_KEY = (
    r"projects/[a-z0-9:.-]{1,64}/locations/[a-z0-9-]{1,64}/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}",
    "the full name of a key of Cloud KMS",
)
SCHEMA: Mapping[str, Any] = {
    "properties": {
        "project_number": {"type": "string", "pattern": f"^{_NUMBER[0]}$"},
        "pool": {"type": "string", "pattern": f"^{_ID[0]}$"},
        "provider": {"type": "string", "pattern": f"^{_ID[0]}$"},
        "keys": keyids.schema(_KEY[0]),
    },
    "required": ["keys", "pool", "project_number", "provider"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GcpWifTarget(Target):
    """The policy's keys as keys of Cloud KMS, behind one provider of a workload identity pool."""

    project_number: str  # of the project that has the pool
    pool: str
    provider: str
    keys: tuple[tuple[str, str], ...]  # our key -> "projects/…/cryptoKeys/weights", sorted

    @property
    def words(self) -> str:
        """One line of what its owner says."""
        keys = ", ".join(f"{key} is {name}" for key, name in self.keys)
        return f"pool {self.pool} of project {self.project_number}, provider {self.provider}; {keys}"


def read(fields: Fields, waivers: tuple[Waiver, ...]) -> GcpWifTarget:
    """Return the entry of a policy; Malformed when a field is not of its form."""
    return GcpWifTarget(
        name="gcp-wif",
        place=fields.place,
        waivers=waivers,
        project_number=fields.text("project_number", *_NUMBER),
        pool=fields.text("pool", *_ID),
        provider=fields.text("provider", *_ID),
        keys=keyids.read(fields, *_KEY),
    )


def of(target: Target) -> GcpWifTarget:
    """Return ``target`` as what it is; ValueError for another target's: a caller's bug."""
    if not isinstance(target, GcpWifTarget):
        raise ValueError("the gcp-wif target takes a policy's gcp-wif entry")
    return target
