"""What a policy says of a Trustee deployment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.formats.yamldoc import Fields
from tallystick.policy.model import Target, Waiver

_BASE64 = (r"[A-Za-z0-9+/]{40,2048}={0,2}", "the base64 of a DER public key")
_VERSION = (r"[0-9]{1,3}(\.[0-9]{1,3}){1,2}", "a Trustee version such as 0.21")
_MAX_SESSION_MINUTES = 60

SCHEMA: Mapping[str, Any] = {
    "properties": {
        "version": {"type": "string", "pattern": f"^{_VERSION[0]}$"},
        "session_minutes": {"type": "integer", "minimum": 1, "maximum": _MAX_SESSION_MINUTES},
        "attestation_keys": {
            "type": "array",
            "items": {"type": "string", "pattern": f"^{_BASE64[0]}$"},
            "minItems": 0,
            "uniqueItems": True,
        },
    },
    "required": ["attestation_keys", "session_minutes", "version"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrusteeTarget(Target):
    """A Trustee deployment, and what its owner says of its configuration."""

    version: str  # "0.21"
    session_minutes: int  # its `attestation_service.timeout`: longest time from challenge to evidence
    attestation_keys: tuple[str, ...]  # base64 DER SPKI of the keys that may sign evidence; empty: not pinned

    @property
    def words(self) -> str:
        """What its owner says of it, in one line."""
        keys = f"{len(self.attestation_keys)} attestation key(s): {', '.join(self.attestation_keys)}"
        return f"{self.version}, session {self.session_minutes} min, {keys}"

    @property
    def never_in_production(self) -> tuple[str, ...]:
        """A production key is not given to whoever can make an RSA key."""
        return ("attestation-key-root",)


def read(fields: Fields, waivers: tuple[Waiver, ...]) -> TrusteeTarget:
    """Return the entry of a policy; Malformed when a field is not of its form."""
    return TrusteeTarget(
        name="trustee",
        place=fields.place,
        waivers=waivers,
        version=fields.text("version", *_VERSION),
        session_minutes=fields.integer("session_minutes", 1, _MAX_SESSION_MINUTES),
        attestation_keys=tuple(sorted(fields.texts("attestation_keys", *_BASE64))),
    )


def of(target: Target) -> TrusteeTarget:
    """Return ``target`` as what it is; ValueError for another target's: a caller's bug."""
    if not isinstance(target, TrusteeTarget):
        raise ValueError("the trustee target takes a policy's trustee entry")
    return target
