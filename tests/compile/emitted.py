"""Emitted policies of made-up forms, loaded as Trustee would load them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from compile.releases import policy
from policy.policyworld import NOW, WEIGHTS, form, registers, release

from tallystick.compile.domain import Case
from tallystick.compile.targets.base import Emitted
from tallystick.compile.targets.trustee import emit
from tallystick.compile.targets.trustee.choice import TrusteeTarget
from tallystick.compile.targets.trustee.engines import Regorus
from tallystick.compile.targets.trustee.simulate import (
    Denied,
    allows,
    appraisal,
    reference_values,
    resource,
    tcb_claims,
    token,
)
from tallystick.policy.model import Policy
from tallystick.policy.normal import NormalForm, Residual

PINNED = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5eg=="
DEMO = policy()


def choice(wanted: Policy = DEMO) -> TrusteeTarget:
    found = wanted.target("trustee")
    assert isinstance(found, TrusteeTarget)
    return found


def pinned_choice() -> TrusteeTarget:
    waivers = tuple(w for w in choice().waivers if w.requirement != "attestation-key-root")
    return replace(choice(), attestation_keys=(PINNED,), waivers=waivers)


def trustee_form(*releases, target: TrusteeTarget | None = None, **changes: object) -> NormalForm:
    residuals = tuple(
        Residual(target="trustee", requirement=waiver.requirement, waived=waiver.waived)
        for waiver in (target or choice()).waivers
    )
    return form(*(releases or (release("a"), release("b", days=1))), residuals=residuals, **changes)


def case(image: str = "a", **changed: object) -> Case:
    claims = {**registers(image), **changed}
    return Case("tpm-quote", "a test", {name: value for name, value in claims.items() if value is not ...})


@dataclass
class Deployment:
    """A Trustee that has everything of one compilation."""

    files: Mapping[str, bytes]
    at: datetime = NOW

    @classmethod
    def of(cls, made: Emitted) -> Deployment:
        return cls(made.files)

    @property
    def values(self) -> dict[str, object]:
        return reference_values(data for name, data in sorted(self.files.items()) if name.startswith("rvps_"))

    def appraise(self, evidence: Case, values: Mapping[str, object] | None = None) -> dict | None:
        text = self.files[emit.AS_POLICY].decode()
        engine = Regorus(text, self.values if values is None else values, self.at)
        try:
            return appraisal(engine, tcb_claims(evidence))
        except Denied:
            return None

    def gives(self, key: str, claims: dict) -> bool:
        engine = Regorus(self.files[emit.RESOURCE_POLICY].decode(), {}, self.at)
        return allows(engine, claims, resource(key))

    def releases(self, evidence: Case, key: str = WEIGHTS, age_seconds: float = 0) -> bool:
        """From evidence to key."""
        submod = self.appraise(evidence)
        if submod is None:
            return False
        return self.gives(key, token(submod, self.at - timedelta(seconds=age_seconds)))


def deployed(*releases, target: TrusteeTarget | None = None, **changes: object) -> Deployment:
    made = trustee_form(*releases, target=target, **changes)
    return Deployment.of(emit.emit(made, target or choice()))
