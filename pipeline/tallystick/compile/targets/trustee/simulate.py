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

from tallystick.compile.domain import Case, Device
from tallystick.compile.targets.trustee import codec, limits
from tallystick.compile.targets.trustee.engines import Engine, Missing, RegoError
from tallystick.formats.ear import Tier

_AFFIRMED = {"configuration": 2, "executables": 3, "hardware": 2}  # what a policy that is not ours may say


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


def tcb_claims(case: Case, version: str = codec.VERSIONS[-1]) -> dict[str, Any]:
    """Return the input of an appraisal policy: transform_claims puts the TEE's claims under its name.

    Raises:
        Denied: the verifier itself refuses such evidence.
    """
    claims = dict(case.claims)
    tee = codec.tee(version, case.kind)
    if tee is None:
        return {case.kind: claims, **_surrounding("", "00" * 32)}
    if codec.refused(tee, claims):
        raise Denied("the verifier refuses it")
    if "ak_public" in tee.places:
        claims.setdefault("ak_public", "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A")
    moved = {
        name: claims.pop(name)
        for name in ("init_data", "report_data")
        if name not in tee.places and name in claims
    }
    init_data = moved.get("init_data", claims.get("pcr08", claims.get("tpm.pcr08", "")))
    around = _surrounding(
        init_data if isinstance(init_data, str) else "", moved.get("report_data", "00" * 32)
    )
    if "init_data" in tee.places:
        del around["init_data"]  # comes with the claims, or not at all
    return {**around, **codec.evidence(tee, claims)}


def _surrounding(init_data: str, report_data: Any) -> dict[str, Any]:
    return {
        "init_data": init_data,
        "init_data_claims": {"artifacts.json": {}},
        "report_data": report_data,
        "runtime_data_claims": {"nonce": "bm9uY2U=", "tee-pubkey": {"kty": "EC"}},
    }


def devices(
    policy: Engine | None, shown: Iterable[Device], version: str = codec.VERSIONS[-1]
) -> dict[str, dict[str, Any]]:
    """Return the submods of devices. One that our policy does not look at is affirmed: another policy may say so.

    Args:
        policy: our ``default_gpu``; None when there is none.
    """
    found: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for device in shown:
        tee = codec.tee(version, device.kind)
        ours = tee is not None and tee.device
        name = "gpu" if ours else "switch"
        number = counts.setdefault(name, 0)
        counts[name] += 1
        evidence = (
            codec.evidence(tee, device.claims) if tee is not None else {device.kind: dict(device.claims)}
        )
        if ours and policy is not None:
            found[f"{name}{number}"] = appraisal(policy, evidence)
        else:
            found[f"{name}{number}"] = _submod(_AFFIRMED, evidence)
    return found


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
    submod = _submod(vector, evidence)
    for name, value in _extensions([] if extensions is Missing or extensions is None else extensions):
        submod[name] = value
    return submod


def _submod(vector: Mapping[str, int], evidence: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ear.status": _status(vector.values()),
        "ear.trustworthiness-vector": dict(vector),
        "ear.appraisal-policy-id": "default",
        "ear.veraison.annotated-evidence": dict(evidence),
    }


def token(
    submod: Mapping[str, Any], issued_at: datetime, others: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Return the claims of an attestation token over the machine's appraisal and its devices', as the KBS sees them."""
    return {
        "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
        "iat": int(issued_at.timestamp()),
        "exp": int(issued_at.timestamp()) + 300,
        "iss": "CoCo-Attestation-Service",
        "submods": {"cpu0": dict(submod), **(others or {})},
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
