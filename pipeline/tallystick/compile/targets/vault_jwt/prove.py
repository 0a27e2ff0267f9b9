"""The proof of Vault roles: each emitted role in a model of the login, on the whole domain."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from tallystick.compile.domain import Case, released
from tallystick.compile.targets.base import Proof
from tallystick.compile.targets.common import trial, view
from tallystick.compile.targets.common.trial import Trial
from tallystick.compile.targets.vault_jwt import emit, model
from tallystick.compile.targets.vault_jwt.choice import VaultJwt
from tallystick.compile.targets.vault_jwt.claims import names, pointer, token
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed
from tallystick.core.findings import Finding
from tallystick.policy.normal import NormalForm
from tallystick.policy.platforms import ClaimType, known_platform

ENGINE = "model of vault-plugin-auth-jwt"
_PATH = re.compile(r'\npath "([^"*+]+)" \{\n  capabilities = \["read"\]\n\}\n')
_COMMENT = re.compile(r"^#[^\n]*\n", re.MULTILINE)
_MOST_AROUND = 64  # tuples that are tried with other issuers, audiences and times
_FIXED = {  # what every role says, whatever it binds
    "role_type": "jwt",
    "bound_claims_type": "string",
    "token_type": "batch",  # a batch token can not be renewed, and renewing looks at no claim
    "token_no_default_policy": True,
}


def prove(files: Mapping[str, bytes], form: NormalForm, choice: VaultJwt, now: datetime) -> Proof:
    """Return what was shown of ``files``; raises :class:`Unproven` when it is not what was released."""
    right = emit.emit(form, choice).files
    trial.expect_files(emit.NAME, files, right)
    proof = evaluate(files, form, choice, now)
    trial.expect_equal(emit.NAME, files, right)
    return proof


def evaluate(files: Mapping[str, bytes], form: NormalForm, choice: VaultJwt, now: datetime) -> Proof:
    """Return what evaluating the roles alone shows.

    Raises:
        Unproven: as :func:`prove`, but for what no evidence in the domain tells apart.
    """
    roles = Roles(files[emit.ROLES], now)
    left = view.served(form, emit.NAME)
    tokens = _Issued(left, choice, now)
    run = Trial(emit.NAME, left, tokens.of, roles.admits)
    run.domain(trial.claimlike(roles.literals()), roles.suspects(left, choice))
    for what, claims, right in tokens.around(roles.audiences()):
        run.surrounding(what, claims, got=roles.admits(claims), right=right)
    _grants(run, roles, files[emit.KEYS], form, choice)
    run.finish()
    return run.proof((ENGINE,))


class Roles:
    """Every role of the emitted file. A login names its role, so any that admits is enough."""

    def __init__(self, data: bytes, now: datetime) -> None:
        self._now = now
        try:
            found = jsondoc.loads(data, "roles")["roles"]
            self.all: dict[str, dict[str, Any]] = {name: dict(role) for name, role in found.items()}
            bound = [dict(role["bound_claims"]) for role in self.all.values()]
        except (Malformed, KeyError, TypeError, ValueError, AttributeError) as error:
            raise trial.unreadable(emit.NAME, emit.ROLES, "roles with bound claims", repr(error)) from None
        values = Counter(name for claims in bound for name in claims)
        distinct = {name: len({repr(claims.get(name)) for claims in bound}) for name in values}
        self._pivot = max(distinct, key=lambda name: distinct[name], default="")
        self._by_pivot: dict[Any, list[dict[str, Any]]] = {}
        for role in self.all.values():
            wanted = role["bound_claims"].get(self._pivot)
            key = wanted if isinstance(wanted, str) and role.get("bound_claims_type") == "string" else None
            self._by_pivot.setdefault(key, []).append(role)

    def admits(self, claims: Mapping[str, Any]) -> bool:
        """Say whether the bearer of a token with these claims can log in under any role."""
        value = model._claim(claims, self._pivot)
        near = self._by_pivot.get(value, []) if isinstance(value, str) else []
        return any(model.logs_in(role, claims, self._now) for role in (*near, *self._by_pivot.get(None, [])))

    def literals(self) -> list[str]:
        """Return every text that a role binds."""
        return sorted(set(trial.strings([role["bound_claims"] for role in self.all.values()])))

    def audiences(self) -> list[str]:
        """Return every audience that a role takes."""
        return sorted({str(one) for role in self.all.values() for one in role.get("bound_audiences") or ()})

    def suspects(self, form: NormalForm, choice: VaultJwt) -> Iterator[Case]:
        """Yield what each role binds, as evidence: its first values, and every other value once."""
        bases = {case.kind: case.claims for case in reversed(list(released(form)))}
        for kind, known in names(choice.tokens).items():
            back = {pointer(path): claim for claim, path in known.items()}
            if kind not in bases:
                continue
            for role_name, role in self.all.items():
                listed = {
                    back[name]: value if isinstance(value, list) else [value]
                    for name, value in role["bound_claims"].items()
                    if name in back
                }
                first = {path: values[0] for path, values in listed.items() if values}
                if not set(first) & set(bases[kind]):
                    continue
                for path, values in listed.items():
                    for value in values[1:]:
                        yield Case(kind, f"what {role_name} binds", {**bases[kind], **first, path: value})
                yield Case(kind, f"what {role_name} binds", {**bases[kind], **first})


class _Issued:
    """Tokens that the issuer would sign, at the time of the proof."""

    def __init__(self, form: NormalForm, choice: VaultJwt, now: datetime) -> None:
        self._form, self._choice, self._now = form, choice, int(now.timestamp())

    def of(self, case: Case) -> dict[str, Any] | None:
        """Return the token over a case; None for one that the issuer never signs: a claim of another type."""
        if case.devices or not self._typed(case):
            return None
        return token(self._choice.tokens, case, self._about())

    def around(self, audiences: list[str]) -> Iterator[tuple[str, dict[str, Any], bool]]:
        """Yield tokens of good evidence that are of another issuer or audience, or out of time."""
        seconds = self._choice.token_seconds
        for case in islice(released(self._form), _MOST_AROUND):
            good = token(self._choice.tokens, case, self._about())
            changes: list[tuple[str, dict[str, Any], bool]] = [
                ("itself", {}, True),
                ("another issuer", {"iss": "https://other.example"}, False),
                ("no issuer", {"iss": None}, False),
                ("another audience", {"aud": "other"}, False),
                *((f"the audience {one}", {"aud": one}, one in self._choice.audiences) for one in audiences),
                ("an expired token", {"iat": self._now - seconds - 1, "exp": self._now - 1}, False),
                ("a token of the last second", {"iat": self._now - seconds, "exp": self._now}, True),
                ("a token of the future", {"iat": self._now + 1, "nbf": self._now + 1}, False),
                ("no times", {"iat": None, "exp": None, "nbf": None}, False),
                ("no end, a second ago", {"iat": self._now - 1, "nbf": None, "exp": None}, False),
            ]
            for what, change, right in changes:
                yield f"{case.what}, {what}", {**good, **change}, right

    def _about(self) -> dict[str, Any]:
        about: dict[str, Any] = {
            "iss": self._choice.issuer,
            "sub": "somebody",
            "iat": self._now,
            "nbf": self._now,
        }
        if self._choice.audiences:
            about["aud"] = self._choice.audiences[0]
        return {**about, "exp": self._now + self._choice.token_seconds}

    def _typed(self, case: Case) -> bool:
        """Say whether every claim that a role may bind has its documented type, or is absent or null."""
        kinds = [
            known_platform(rule.platform) for rule in self._form.platforms if rule.evidence_kind == case.kind
        ]
        for path, value in case.claims.items():
            lists = any(known is not None and known.claim_type(path) is ClaimType.TEXTS for known in kinds)
            if lists and value is not None:
                if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                    return False
            elif isinstance(value, list | float):
                return False
        return True


def _grants(run: Trial, roles: Roles, data: bytes, form: NormalForm, choice: VaultJwt) -> None:
    """Every role grants the policy's keys to read, for no longer than was said, and nothing else."""
    text = _COMMENT.sub("", data.decode("utf-8", "replace"))
    granted, rest = _PATH.findall(text), _PATH.sub("", text).strip()
    if granted != emit.paths(form, choice) or rest:
        want, got = ", ".join(emit.paths(form, choice)), ", ".join([*granted, *([rest] if rest else [])])
        run.wrong(Finding("prove.admits", emit.KEYS, want=want, got=got))
    fixed = {
        **_FIXED,
        "token_policies": [emit.policy_name(form)],
        "token_ttl": choice.login_seconds,
        "token_max_ttl": choice.login_seconds,
        "expiration_leeway": -1,
        "not_before_leeway": -1,
        "clock_skew_leeway": -1,
    }
    for name, role in roles.all.items():
        for field, value in fixed.items():
            if role.get(field) != value:
                run.wrong(
                    Finding("prove.role", f"{name}: {field}", want=str(value), got=str(role.get(field)))
                )
        unknown = sorted(set(role) - set(fixed) - {"user_claim", "bound_audiences", "bound_claims"})
        if unknown:
            run.wrong(Finding("prove.role", name, want="no other field", got=", ".join(unknown)))
