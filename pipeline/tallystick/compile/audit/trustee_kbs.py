"""Trustee's resource policy: what a KBS gives to tokens that show nothing, too little, or something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from tallystick.compile.audit import rego
from tallystick.compile.audit.records import Audited, PermissivePath, ReferenceValues
from tallystick.compile.targets.trustee import limits
from tallystick.compile.targets.trustee.engines import RegoError, Regorus
from tallystick.compile.targets.trustee.simulate import allows, resource
from tallystick.core.errors import Malformed

_AT = datetime(2026, 1, 1, tzinfo=UTC)
_PATH = "any/other/resource"
_GOOD = {"configuration": 2, "executables": 3, "hardware": 2}


class Audit:
    """Resource policies of confidential-containers/trustee's KBS."""

    name = "trustee-resource-policy"

    def recognises(self, data: bytes, file_name: str) -> bool:
        """Say whether this is a policy that decides ``allow``, and no trust claims."""
        text = rego.text_of(data)
        if text is None:
            return False
        code = limits.code_of(text)
        return "allow" in code and "trust_claims" not in code

    def audit(self, data: bytes, reference: ReferenceValues | None) -> Audited:
        """Return every permissive path that was found, each with a token that opens a resource because of it."""
        text = rego.text_of(data)
        if text is None:
            raise Malformed("Trustee policy", at="package", want="package policy", got="another, or no text")
        try:
            engine = Regorus(text, {}, _AT)
        except RegoError as error:
            raise Malformed(
                "Trustee policy", at="Rego", want="a policy that regorus takes", got=str(error)
            ) from None
        found = [
            PermissivePath(
                code=code, where="allow", what=what, fix=fix, evidence={"token": token, "path": _PATH}
            )
            for code, what, fix, token in _tokens()
            if allows(engine, token, resource(_PATH))
        ]
        if "import rego.v1" not in limits.code_of(text) and " if " in limits.code_of(text):
            what = "`if` without `import rego.v1` is no condition in engines before 0.5 (Trustee before 0.17)"
            fix = "begin with: package policy, import rego.v1"
            found.append(PermissivePath(code="trustee.no-import", where="head", what=what, fix=fix))
        return Audited(
            language=self.name,
            paths=tuple(found),
            released=None,
            accepted=None,
            limits=(
                "the appraisal policies, which decide what is affirmed",
                "attestation_token.insecure_header_jwk, with which anybody signs a token",
            ),
        )


def _tokens() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield (code, what the policy does, the fix, token), the worst first."""
    status = 'ask cpu0["ear.status"] == "affirming"'
    vector = "compare the trustworthiness vector, entry by entry"
    yield "trustee.kbs.no-result", "gives to a token without any attestation result", status, {}
    yield "trustee.kbs.no-result", "gives to a token without submods", status, {"submods": {}}
    for said in ("contraindicated", "warning", "none"):
        what = f"gives to {said} evidence"
        yield "trustee.kbs.status", what, status, _token({"cpu0": _submod(said)})
    partial = {name: value for name, value in _submod("affirming").items() if name != "ear.status"}
    what = "gives to a result without a status: absent is not unequal"
    yield "trustee.kbs.status", what, status, _token({"cpu0": partial})
    what = "gives to an affirming status whose vector says nothing of executables"
    yield "trustee.kbs.vector", what, vector, _token({"cpu0": _submod("affirming", {"hardware": 2})})
    what = "gives to evidence of no hardware at all (sample)"
    fix = "refuse a token whose annotated evidence names sample"
    yield "trustee.kbs.sample", what, fix, _token({"cpu0": _submod("affirming", tee="sample")})
    what = "gives although a GPU is not affirmed"
    fix = "ask that cpu0 is the only submod, or the status of every one"
    yield "trustee.kbs.devices", what, fix, _token({"cpu0": _submod("affirming"), "gpu0": _submod("warning")})
    what = "gives every resource to every affirming machine, whatever the resource's name"
    fix = 'list resources: data["resource-path"] == [repository, type, tag]'
    yield "trustee.kbs.every-resource", what, fix, _token({"cpu0": _submod("affirming", _GOOD)})


def _token(submods: Mapping[str, Any]) -> dict[str, Any]:
    return {"iss": "CoCo-Attestation-Service", "iat": int(_AT.timestamp()), "submods": dict(submods)}


def _submod(status: str, vector: Mapping[str, int] | None = None, tee: str = "snp") -> dict[str, Any]:
    return {
        "ear.status": status,
        "ear.trustworthiness-vector": dict(_GOOD if vector is None else vector),
        "ear.veraison.annotated-evidence": {tee: {"measurement": "00" * 48}},
    }
