"""What a policy's author says of a Vault, and of the tokens that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tallystick.formats.yamldoc import Fields
from tallystick.policy.model import Target, Waiver

_MOST_SECONDS = 3_600
_ISSUER = (r"[!-~]{1,256}", "the issuer's exact name, as `iss` says it")
_MOUNT = (r"[a-z0-9]([a-z0-9_/-]{0,62}[a-z0-9])?", "a mount path such as jwt")


class Tokens(Enum):
    """Whose attestation results a Vault takes."""

    EAR = "ear"  # Trustee's, or our broker's
    GCP = "gcp"  # Google Confidential Space
    ITA = "ita"  # Intel Trust Authority, version 2


def _seconds() -> dict[str, Any]:
    return {"type": "integer", "minimum": 1, "maximum": _MOST_SECONDS}


SCHEMA: Mapping[str, Any] = {
    "properties": {
        "tokens": {"enum": sorted(kind.value for kind in Tokens)},
        "issuer": {"type": "string", "pattern": f"^{_ISSUER[0]}$"},
        "audiences": {
            "type": "array",
            "items": {"type": "string", "pattern": f"^{_ISSUER[0]}$"},
            "minItems": 0,
            "uniqueItems": True,
        },
        "mount": {"type": "string", "pattern": f"^{_MOUNT[0]}$"},
        "secrets": {"type": "string", "pattern": f"^{_MOUNT[0]}$"},
        "token_seconds": _seconds(),
        "login_seconds": _seconds(),
    },
    "required": ["audiences", "issuer", "login_seconds", "mount", "secrets", "token_seconds", "tokens"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultJwt(Target):
    """A Vault with the JWT auth method, and a KV version 2 store with the keys."""

    tokens: Tokens
    issuer: str
    audiences: tuple[str, ...]  # one of which a token is for, sorted; empty: tokens without an audience alone
    mount: str  # of the auth method: "jwt"
    secrets: str  # mount of the KV store: "secret"
    token_seconds: int  # lifetime of the issuer's tokens
    login_seconds: int  # lifetime of what Vault gives for one

    @property
    def words(self) -> str:
        """What its owner says of it, in one line."""
        ages = f"{self.token_seconds} s + {self.login_seconds} s"
        audiences = ", ".join(self.audiences) or "no audience"
        return f"{self.tokens.value} tokens of {self.issuer} for {audiences}, {self.mount} to {self.secrets}, {ages}"

    @property
    def never_in_production(self) -> tuple[str, ...]:
        """A production key is not given to whoever holds a copy of a token."""
        return ("holder",)


def read(fields: Fields, waivers: tuple[Waiver, ...]) -> VaultJwt:
    """Return the entry of a policy; Malformed when a field is not of its form."""
    kinds = [kind.value for kind in Tokens]
    return VaultJwt(
        name="vault-jwt",
        place=fields.place,
        waivers=waivers,
        tokens=Tokens(fields.text("tokens", "|".join(kinds), "one of " + ", ".join(kinds))),
        issuer=fields.text("issuer", *_ISSUER),
        audiences=tuple(sorted(fields.texts("audiences", *_ISSUER))),
        mount=fields.text("mount", *_MOUNT),
        secrets=fields.text("secrets", *_MOUNT),
        token_seconds=fields.integer("token_seconds", 1, _MOST_SECONDS),
        login_seconds=fields.integer("login_seconds", 1, _MOST_SECONDS),
    )
