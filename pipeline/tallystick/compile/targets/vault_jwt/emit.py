"""The files for Vault, and what its roles can not say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tallystick.compile.targets.base import Emitted, Lack
from tallystick.compile.targets.common import papers, view
from tallystick.compile.targets.common.view import Row
from tallystick.compile.targets.vault_jwt.choice import Tokens, VaultJwt
from tallystick.compile.targets.vault_jwt.claims import ROOTS, STATUS, USER_CLAIM, names, pointer
from tallystick.core.digests import Digest
from tallystick.core.expect import Exactly, Expect, Includes, OneOf, Scalar
from tallystick.policy.constraints import constraints
from tallystick.policy.normal import NormalForm

NAME = "vault-jwt"
LABEL = "Vault JWT auth"
ROLES = "roles.json"
KEYS = "keys.hcl"
_PLAIN = re.compile(r"[A-Za-z0-9._/-]+")
HOLDER = Lack(
    requirement="holder",
    why="Vault answers whoever holds the token, and gives the key in the clear: nothing ties a login to the machine "
    "that the token is about",
)
TYPES = Lack(
    requirement="claim-types",
    why="Vault takes a list that holds a value for the value itself: that the issuer signs every claim in its "
    "documented type is taken for granted",
)
END = Lack(requirement="end", why="a role has no end: it holds until it is deleted")


def says(kind: str, path: str, expect: Expect) -> bool:
    """Say whether bound claims have words for ``expect``. A whole number has none: 2.9 is cut to 2."""
    if isinstance(expect, Includes):
        return len(expect.values) == 1
    values: tuple[Scalar, ...] = (expect.value,) if isinstance(expect, Exactly) else ()
    if isinstance(expect, OneOf):
        values = expect.values
    return bool(values) and all(isinstance(value, str | bool) for value in values)


def lacks(form: NormalForm, choice: VaultJwt) -> Iterator[Lack]:
    """Yield every requirement of ``form`` that a role can not express."""
    known = names(choice.tokens)
    yield from view.lacks(
        form, known, ROOTS[choice.tokens], says, f"a role over {choice.tokens.value} tokens"
    )
    yield from view.lacks_devices(form, "a role")
    for rule in form.platforms:
        for one in constraints(rule):
            if (
                isinstance(one.expect, Includes)
                and len([c for c in constraints(rule) if c.path == one.path]) > 1
            ):
                yield Lack(requirement=one.requirement, why=f"a role binds {one.path} once")
    yield from (HOLDER, TYPES, END)
    if choice.tokens is Tokens.EAR:
        yield Lack(
            requirement="roots",
            why="an EAR does not say whose evidence was taken: that is its issuer's policy",
        )
    whole = choice.token_seconds + choice.login_seconds
    if whole > form.max_age_seconds:
        why = f"token and login live {whole} s together, evidence is good for {form.max_age_seconds} s"
        yield Lack(requirement="freshness", why=why)


def assumptions(choice: VaultJwt) -> tuple[str, ...]:
    """Return what the deployment's configuration must say, because no role can."""
    return (
        (
            f"auth/{choice.mount}/config: the keys are those of {choice.issuer} alone, bound_issuer = {choice.issuer}, "
            "no default_role"
        ),
        (
            f"{choice.issuer}: tokens live at most {choice.token_seconds} s (exp - iat), and each claim has its "
            "documented type"
        ),
        f"{choice.secrets}/: a KV store of version 2; no other policy grants these paths to anybody but its owners",
    )


def emit(form: NormalForm, choice: VaultJwt) -> Emitted:
    """Return the files; :meth:`Backend.emit` says more."""
    whys = {lack.requirement: lack.why for lack in lacks(form, choice)}
    left = view.served(form, NAME)
    assumes = assumptions(choice)
    roles = {role_name(form, row): _role(left, choice, row) for row in view.rows(left)}
    found = {"about": papers.summary(form, NAME), "roles": roles}
    files = {
        ROLES: (json.dumps(found, indent=1) + "\n").encode(),
        KEYS: _keys(form, choice),
        papers.RESIDUAL: papers.residual(form, NAME, LABEL, whys, assumes),
        papers.README: papers.readme(form, NAME, LABEL, assumes, _apply(form, choice)),
    }
    return Emitted(
        target=NAME,
        files=dict(sorted(files.items())),
        max_age_seconds=choice.token_seconds + choice.login_seconds,
        not_after=view.end(form, NAME),
        assumes=assumes,
    )


def policy_name(form: NormalForm) -> str:
    """Return the name of the Vault policy that grants the keys."""
    return f"tallystick-{form.policy}"


def role_name(form: NormalForm, row: Row) -> str:
    """Return a role's name: the policy's, and the digest of the tuple that it binds."""
    pins = json.dumps([row.platform, row.pinned]).encode()
    return f"{policy_name(form)}-{Digest.of(pins).hex[:16]}"


def paths(form: NormalForm, choice: VaultJwt) -> list[str]:
    """Return where the keys are.

    Raises:
        ValueError: a key's name has other characters than a path; the policy's reader never makes one.
    """
    for rule in form.keys:
        if not _PLAIN.fullmatch(rule.key):
            raise ValueError(f"{rule.key!r} is no path")
    return [f"{choice.secrets}/data/{rule.key}" for rule in form.keys]


def _role(left: NormalForm, choice: VaultJwt, row: Row) -> dict[str, Any]:
    """Return one role: exactly one tuple, as every list of values in a role stands alone."""
    known = names(choice.tokens)[row.kind]
    claims: dict[str, Any] = {"/iss": choice.issuer}
    if choice.tokens is Tokens.EAR:
        claims[pointer(STATUS)] = "affirming"
    for one in constraints(view.rule_of(left, row)):
        claims[pointer(known[one.path])] = _narrowed(claims.get(pointer(known[one.path])), one.expect)
    for path, value in row.pinned:
        claims[pointer(known[path])] = _narrowed(claims.get(pointer(known[path])), Exactly(value))
    return {
        "role_type": "jwt",
        "user_claim": USER_CLAIM[choice.tokens],
        "bound_audiences": list(choice.audiences),
        "bound_claims_type": "string",
        "bound_claims": dict(sorted(claims.items())),
        "expiration_leeway": -1,
        "not_before_leeway": -1,
        "clock_skew_leeway": -1,
        "token_type": "batch",
        "token_ttl": choice.login_seconds,
        "token_max_ttl": choice.login_seconds,
        "token_no_default_policy": True,
        "token_policies": [policy_name(left)],
    }


def _narrowed(held: Any, expect: Expect) -> Any:
    """Return the values that a claim may have, when it may already have only ``held``."""
    if isinstance(expect, Exactly):
        wanted: list[Scalar] = [expect.value]
    else:
        wanted = list(expect.values) if isinstance(expect, OneOf | Includes) else []
    before: Mapping[Any, None] | None = (
        None if held is None else dict.fromkeys(held if isinstance(held, list) else [held])
    )
    both = wanted if before is None else [value for value in wanted if value in before]
    return both[0] if len(both) == 1 else both


def _keys(form: NormalForm, choice: VaultJwt) -> bytes:
    lines = [f"# {line}".rstrip() for line in papers.head(form, NAME, f"Vault policy {policy_name(form)}")]
    for path in paths(form, choice):
        lines += ["", f'path "{path}" {{', '  capabilities = ["read"]', "}"]
    return ("\n".join(lines) + "\n").encode()


def _apply(form: NormalForm, choice: VaultJwt) -> str:
    name = policy_name(form)
    return f"""## Apply

A role binds one released tuple; a login names the role of the release that the machine runs. OpenBao's `bao` takes the
same commands.

```sh
# 1. Take away what is no longer released, first. Batch tokens that were given live on for {choice.login_seconds} s.
for role in $(vault list -format=json auth/{choice.mount}/role | jq -r '.[]' | grep '^{name}-'); do
  jq -e --arg r "$role" '.roles[$r]' roles.json > /dev/null || vault delete "auth/{choice.mount}/role/$role"
done

# 2. The policy that grants the keys
vault policy write {name} keys.hcl

# 3. The roles
for role in $(jq -r '.roles | keys[]' roles.json); do
  jq --arg r "$role" '.roles[$r]' roles.json | vault write "auth/{choice.mount}/role/$role" -
done

# 4. In the machine
vault write "auth/{choice.mount}/login" role="$ROLE" jwt="$TOKEN"
```
"""
