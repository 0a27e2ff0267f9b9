"""An audit of attestation policies of Microsoft Azure Attestation: who is issued a token that was not meant.

Source: Microsoft, "Claim and claim rules", "Examples of an attestation policy".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tallystick.compile.audit.asking import Asker, assumed
from tallystick.compile.audit.records import Audited, PermissivePath, ReferenceValues
from tallystick.compile.logic.formula import Atom, Value, negated
from tallystick.compile.logic.tests import Among, Present
from tallystick.compile.targets.azure_skr import attestation, authorised
from tallystick.compile.targets.azure_skr.attestation import AttestationPolicy, Condition
from tallystick.compile.targets.azure_skr.prove import token

_VERSION = re.compile(rb"^\s*version\s*=\s*[0-9.]+\s*;")
_LIMITS = (
    "who can set the policies and signers of the instance",
    "what a relying party asks of the token beside this (x-ms-policy-hash, claims)",
    "functions of policy version 1.2: their values are taken for the worst",
)
_DEBUG = ("x-ms-sgx-is-debuggable", "x-ms-sevsnpvm-is-debuggable", "$is-debuggable")


class Audit:
    """The auditor of attestation policies."""

    name = "azure-maa-policy"

    def recognises(self, data: bytes, file_name: str) -> bool:
        """Say whether it begins with a version and has authorization rules."""
        return _VERSION.match(data) is not None and b"authorizationrules" in data

    def audit(self, data: bytes, reference: ReferenceValues | None) -> Audited:
        """Return for which evidence a token is issued. An attestation policy names no release."""
        policy = attestation.read(data)
        asker = Asker(accepted=authorised.authorised(policy), shown=_shown)
        found = [*_anything(asker), *_debug(policy, asker), *_custom(policy)]
        return Audited(language=self.name, paths=tuple(found), released=None, accepted=None, limits=_LIMITS)


def _anything(asker: Asker) -> Iterator[PermissivePath]:
    claims = sorted(_claims(asker))
    nothing = [negated(Atom(claim, Present())) for claim in claims]
    yield from asker.path(
        "maa.permit-all", "authorizationrules", "a token is issued for evidence without any of the claims",
        "ask for claims of issuer AttestationService before permit(); issuance rules can not fail attestation",
        *nothing,
    )  # fmt: skip


def _debug(policy: AttestationPolicy, asker: Asker) -> Iterator[PermissivePath]:
    named = [claim for claim in _DEBUG if claim in _claims(asker)]
    for claim in named or _DEBUG[1:2]:
        yield from asker.path(
            "maa.debug-not-pinned", "authorizationrules", "a token is issued for a machine that is debugged",
            f'[type=="{claim}", issuer=="AttestationService", value==false]', Atom(claim, Among(*_yes())),
        )  # fmt: skip


def _yes() -> tuple[bool, ...]:
    return (True,)


def _custom(policy: AttestationPolicy) -> Iterator[PermissivePath]:
    """Conditions that whoever sends the evidence can meet with claims of his own."""
    for rule in policy.rules("authorizationrules"):
        if rule.action != "permit":
            continue
        open_ = [one for one in rule.conditions if not one.negated and _open(one)]
        if open_ and len(open_) == len(rule.conditions):
            kinds = ", ".join(str(one.literal("type")) for one in open_)
            yield PermissivePath(
                code="maa.custom-claim",
                where=f"authorizationrules, line {rule.line}",
                what=f"every condition can be met by claims that the sender adds: {kinds}",
                fix='add issuer=="AttestationService" to each condition',
                evidence={
                    "custom claims": {str(one.literal("type")): str(one.literal("value")) for one in open_}
                },
            )


def _open(condition: Condition) -> bool:
    return condition.literal("issuer") in (None, authorised.CUSTOM)


def _claims(asker: Asker) -> set[str]:
    from tallystick.compile.logic.formula import atoms

    return {atom.path for atom in atoms(asker.accepted)}


def _shown(claims: Mapping[str, Value]) -> dict[str, Any]:
    return assumed(claims, token)
