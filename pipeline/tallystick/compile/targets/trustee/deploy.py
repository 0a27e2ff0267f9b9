"""Putting a compiled policy in force in a Trustee: the steps, in an order in which nothing else is ever admitted.

Evidence gets a key only when Reference Values, appraisal policies and resource policy name the same release. So
until the last step nothing is admitted but what the old and the new policies both admit: that tightens, and the
resource policy at the end widens. The first time there is no old policy of ours, and the door is closed first.

Source: Trustee, kbs/docs/kbs.yaml and kbs/src/api_server.rs (the admin API); rvps/src/extractors/sample.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tallystick.compile.targets.trustee.emit import AS_POLICY, GPU_POLICY, RESOURCE_POLICY
from tallystick.compile.targets.trustee.simulate import reference_values

DENY_ALL = b"package policy\n\nimport rego.v1\n\ndefault allow := false\n"
# The file's policy and the id that the attestation service evaluates: an upload as "default" is never used.
_APPRAISALS = ((AS_POLICY, "default_cpu"), (GPU_POLICY, "default_gpu"))


class Kind(Enum):
    """What a step sends, and where: the path below ``/kbs/v0/``."""

    RESOURCE_POLICY = "resource-policy"
    APPRAISAL_POLICY = "attestation-policy"
    REFERENCE_VALUES = "reference-value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One request of the admin API."""

    kind: Kind
    what: str  # for people: "appraisal policy default_cpu"
    body: bytes


def steps(files: Mapping[str, bytes], *, first: bool) -> tuple[Step, ...]:
    """Return the requests that put ``files`` in force, in their order.

    Args:
        first: close the door before anything else, since what is deployed is not ours.
    """
    found = [_resource(DENY_ALL, "resource policy: deny all")] if first else []
    for name, policy in _APPRAISALS:
        if name in files:
            body = {"type": "rego", "policy_id": policy, "policy": _b64url(files[name])}
            found.append(
                Step(kind=Kind.APPRAISAL_POLICY, what=f"appraisal policy {policy}", body=_json(body))
            )
    for name in _messages(files):
        found.append(Step(kind=Kind.REFERENCE_VALUES, what=f"Reference Values {name}", body=files[name]))
    found.append(_resource(files[RESOURCE_POLICY], "resource policy"))
    return tuple(found)


def expected(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return what the RVPS answers for each of our ids once ``files`` are in force."""
    return reference_values(files[name] for name in _messages(files))


def _messages(files: Mapping[str, bytes]) -> Iterator[str]:
    names = (name for name in files if name.startswith("rvps_"))
    yield from sorted(names, key=lambda name: int(name.removeprefix("rvps_").removesuffix(".json")))


def _resource(policy: bytes, what: str) -> Step:
    return Step(kind=Kind.RESOURCE_POLICY, what=what, body=_json({"policy": _b64url(policy)}))


def _json(document: Mapping[str, str]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
