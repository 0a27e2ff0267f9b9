"""What a policy says of its Azure keys: who attests, how long his tokens live, and which keys they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.compile.targets import keyids
from tallystick.formats.yamldoc import Fields
from tallystick.policy.model import Target, Waiver

# Without a slash at the end: a token's issuer has none, and the two are compared as texts.
_AUTHORITY = (
    r"https://[a-z0-9][a-z0-9-]*(\.[a-z0-9-]+)*\.attest\.azure\.(net|us|cn)",
    "an attestation instance such as https://acme.weu.attest.azure.net",
)
_KEY = (
    r"https://[a-z0-9-]{1,63}\.(vault|managedhsm)\.(azure\.net|usgovcloudapi\.net|azure\.cn)/keys/[A-Za-z0-9-]{1,127}",
    "the address of a key without its version",
)
_MOST_MINUTES = 1_440
SCHEMA: Mapping[str, Any] = {
    "properties": {
        "authority": {"type": "string", "pattern": f"^{_AUTHORITY[0]}$"},
        "token_minutes": {"type": "integer", "minimum": 1, "maximum": _MOST_MINUTES},
        "keys": keyids.schema(_KEY[0]),
    },
    "required": ["authority", "keys", "token_minutes"],
}

# Microsoft's own instances, one a region, for everybody: nobody else can set their policies.
_SHARED = re.compile(r"https://shared[a-z0-9]+\.[a-z0-9]+\.attest\.azure\.(net|us|cn)")


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureSkrTarget(Target):
    """The policy's keys as keys of a Key Vault (Premium) or a managed HSM."""

    authority: str  # "https://acme.weu.attest.azure.net", no slash at the end
    token_minutes: int  # how long its tokens are valid; Microsoft's shared instances: 480
    keys: tuple[tuple[str, str], ...]  # our key -> "https://acme.vault.azure.net/keys/weights", sorted

    @property
    def shared(self) -> bool:
        """Whether the authority is one of Microsoft's for everybody, whose policy is not ours to set."""
        return _SHARED.fullmatch(self.authority) is not None

    @property
    def words(self) -> str:
        """One line of what its owner says."""
        keys = ", ".join(f"{key} is {url}" for key, url in self.keys)
        return f"attested by {self.authority}, tokens of {self.token_minutes} minutes; {keys}"


def read(fields: Fields, waivers: tuple[Waiver, ...]) -> AzureSkrTarget:
    """Return the entry of a policy; Malformed when a field is not of its form."""
    return AzureSkrTarget(
        name="azure-skr",
        place=fields.place,
        waivers=waivers,
        authority=fields.text("authority", *_AUTHORITY),
        token_minutes=fields.integer("token_minutes", 1, _MOST_MINUTES),
        keys=keyids.read(fields, *_KEY),
    )


def of(target: Target) -> AzureSkrTarget:
    """Return ``target`` as what it is; ValueError for another target's: a caller's bug."""
    if not isinstance(target, AzureSkrTarget):
        raise ValueError("the azure-skr target takes a policy's azure-skr entry")
    return target
