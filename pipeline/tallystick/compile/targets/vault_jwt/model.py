"""What Vault decides of a login with a JWT whose signature holds.

Source: hashicorp/vault-plugin-auth-jwt v0.26, claims.go (getClaim, validateBoundClaims, matchFound, normalizeList) and
path_login.go; hashicorp/cap v0.15, jwt/jwt.go (validateAll: issuer, audience and times with their leeways). Our own
words for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

_LEEWAY = 150  # seconds, when a leeway is 0 or not given
_SKEW = 60
_MISSING = object()


def logs_in(role: Mapping[str, Any], claims: Mapping[str, Any], now: datetime) -> bool:
    """Say whether Vault gives a token of ``role`` to the bearer of a JWT with these claims."""
    return (
        role.get("role_type") == "jwt"
        and _audience(role.get("bound_audiences") or [], claims.get("aud"))
        and _in_time(role, claims, now.timestamp())
        and isinstance(_claim(claims, str(role.get("user_claim", ""))), str)
        and bound(role, claims)
    )


def bound(role: Mapping[str, Any], claims: Mapping[str, Any]) -> bool:
    """Say whether every bound claim holds: one of its values is one of the claim's."""
    globs = role.get("bound_claims_type", "string") == "glob"
    for name, wanted in (role.get("bound_claims") or {}).items():
        got = _claim(claims, name)
        listed = wanted if isinstance(wanted, list) else [wanted]
        if got is _MISSING or got is None:
            return False
        if not isinstance(got, list | str | bool | int | float):
            return False
        found = got if isinstance(got, list) else [got]
        if not any(_same(one, value, globs=globs) for value in listed for one in found):
            return False
    return True


def _same(got: Any, wanted: Any, *, globs: bool) -> bool:
    if globs:
        return isinstance(got, str) and isinstance(wanted, str) and _glob(wanted, got)
    return type(got) is type(wanted) and got == wanted


def _glob(pattern: str, text: str) -> bool:
    """Source: ryanuber/go-glob: ``*`` is any text, everything else is itself."""
    import re

    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim by its name, or by its JSON pointer. Vault cuts the fraction off a number."""
    found: Any = claims
    for part in name[1:].split("/") if name.startswith("/") else [name]:
        if not isinstance(found, Mapping) or part not in found:
            return _MISSING
        found = found[part]
    return int(found) if isinstance(found, float) else found


def _audience(bound_audiences: list[str], aud: Any) -> bool:
    listed = [aud] if isinstance(aud, str) and aud else aud if isinstance(aud, list) else []
    if not bound_audiences:
        return not listed
    return any(one in listed for one in bound_audiences)


def _in_time(role: Mapping[str, Any], claims: Mapping[str, Any], now: float) -> bool:
    issued, expires, begins = (_seconds(claims.get(name)) for name in ("iat", "exp", "nbf"))
    if not (issued or expires or begins):
        return False
    if not expires:
        expires = max(issued, begins) + _leeway(role, "expiration_leeway", _LEEWAY)
    if not begins:
        begins = issued or expires - _leeway(role, "not_before_leeway", _LEEWAY)
    skew = _leeway(role, "clock_skew_leeway", _SKEW)
    return begins <= now + skew and now - skew <= expires and issued <= now + skew


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0


def _leeway(role: Mapping[str, Any], name: str, usual: int) -> int:
    given = role.get(name, 0)
    if not isinstance(given, int) or given == 0:
        return usual
    return max(given, 0)
