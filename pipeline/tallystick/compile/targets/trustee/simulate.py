"""Trustee's two services, as far as they decide: the attestation service makes an EAR, the KBS judges it.

Source: Trustee 0.21, attestation-service/src/ear_token/broker.rs (issue, transform_claims),
kbs/src/api_server.rs (api), deps/policy-engine/src/policy/rego.rs; rust-ear, src/trust.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from tallystick.compile.domain import Case
from tallystick.compile.targets.trustee import limits
from tallystick.compile.targets.trustee.engines import Engine, Missing, RegoError
from tallystick.formats.ear import Tier

_TEE = {"tpm-quote": "tpm", "snp-report": "snp", "tdx-quote": "tdx", "sample": "sample"}


class Denied(Exception):
    """The service answered with an error, and nothing else happened."""


def reference_values(messages: Iterable[bytes]) -> dict[str, Any]:
    """Return what the RVPS holds after ``messages``, each as its ``sample`` extractor stores it.

    Raises:
        ValueError: a message that the RVPS would not take.
    """
    held: dict[str, Any] = {}
    for data in messages:
        message = json.loads(data)
        if message.get("version") != "0.1.0" or message.get("type") != "sample":
            raise ValueError("not an RVPS message of the sample extractor, version 0.1.0")
        payload = json.loads(base64.b64decode(message["payload"], validate=True))
        if not isinstance(payload, dict):
            raise ValueError("the payload of an RVPS message is an object")
        held |= payload
    return held


def tcb_claims(case: Case) -> dict[str, Any]:
    """Return the input of an appraisal policy: transform_claims puts the TEE's claims under its name."""
    claims = dict(case.claims)
    claims.setdefault("ak_public", "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A")
    init_data = claims.pop("init_data", claims.get("pcr08"))
    report_data = claims.pop("report_data", "00" * 32)
    return {
        _TEE.get(case.kind, case.kind): claims,
        "init_data": init_data if isinstance(init_data, str) else "",
        "init_data_claims": {"artifacts.json": {}},
        "report_data": report_data,
        "runtime_data_claims": {"nonce": "bm9uY2U=", "tee-pubkey": {"kty": "EC"}},
    }


def appraisal(policy: Engine, evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Return the EAR submod that the attestation service makes of ``evidence``.

    Raises:
        Denied: evaluation failed, or what it gave makes the service fail.
    """
    trust = _rule(policy, "trust_claims", evidence)
    extensions = _rule(policy, "extensions", evidence)
    if trust is None:
        raise Denied("trust claims are not an object")
    vector = _vector({} if trust is Missing else trust)
    submod = {
        "ear.status": _status(vector.values()),
        "ear.trustworthiness-vector": vector,
        "ear.appraisal-policy-id": "default",
        "ear.veraison.annotated-evidence": dict(evidence),
    }
    for name, value in _extensions([] if extensions is Missing or extensions is None else extensions):
        submod[name] = value
    return submod


def token(submod: Mapping[str, Any], issued_at: datetime) -> dict[str, Any]:
    """Return the claims of an attestation token over one appraisal, as the KBS sees them."""
    return {
        "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
        "iat": int(issued_at.timestamp()),
        "exp": int(issued_at.timestamp()) + 300,
        "iss": "CoCo-Attestation-Service",
        "submods": {"cpu0": dict(submod)},
    }


def resource(key: str) -> dict[str, Any]:
    """Return what the KBS tells its policy of a request for ``key``."""
    return {"plugin": "resource", "resource-path": key.split("/"), "query": {}}


def allows(policy: Engine, claims: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Return whether the KBS gives the resource: the rule ``allow`` is the boolean true, and nothing else."""
    try:
        return policy.evaluate("allow", claims, data) is True
    except (RegoError, Missing):
        return False


def _rule(policy: Engine, rule: str, evidence: Mapping[str, Any]) -> Any:
    try:
        return policy.evaluate(rule, evidence, {})
    except Missing:
        return Missing
    except RegoError as error:
        raise Denied(str(error)) from None


def _extensions(found: Any) -> Iterator[tuple[str, Any]]:
    """The private claims that an appraisal gets: Trustee reads a list of TokenExtension, or fails."""
    if not isinstance(found, list):
        raise Denied("extensions are not a list")
    for one in found:
        if (
            not isinstance(one, dict)
            or set(one) != {"name", "key", "value"}
            or not isinstance(one["name"], str)
        ):
            raise Denied("an extension is not one")
        yield one["name"], one["value"]


def _vector(trust: Any) -> dict[str, int]:
    if not isinstance(trust, dict):
        raise Denied("trust claims are not an object")
    if not trust:
        return dict.fromkeys(sorted(limits.VECTOR), 0)
    vector: dict[str, int] = {}
    for name, value in trust.items():
        if name not in limits.VECTOR or not isinstance(value, int) or isinstance(value, bool):
            raise Denied(f"{name}: {value!r} makes the attestation service fail")
        vector[name] = (value + 128) % 256 - 128  # `as i8` wraps
    return vector


def _status(values: Iterable[int]) -> str:
    """The worst tier; an entry of tier "none" does not lower it."""
    order = list(Tier)
    return max((Tier.of(value) for value in values), key=order.index, default=Tier.NONE).value
