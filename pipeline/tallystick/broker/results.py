"""The attestation result of proven evidence: what others may rely on, and what the log says of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tallystick.appraisal.appraise import appraise
from tallystick.broker import recorded
from tallystick.broker.policies import LoadedPolicy, PolicyState
from tallystick.broker.proving import Proven
from tallystick.broker.sessions import Session
from tallystick.broker.tokens import (
    APPROVED_BOOT,
    APPROVED_CONFIGURATION,
    GENUINE_HARDWARE,
    UNRECOGNIZED_RUNTIME,
    UNSAFE_HARDWARE,
    annotated,
)
from tallystick.core.jsondoc import canonical
from tallystick.evidence.claims import Claims
from tallystick.formats import ear
from tallystick.policy.platforms import DEVELOPMENT_ROOTS

# Trustee, attestation-service: the class of a device names its submodule
_DEVICE_CLASSES = {"nvidia-gpu": "gpu", "nvidia-switch": "switch"}
_MOST_INIT_DATA_BYTES = 32 << 10  # more is left out of the token, which travels in a header


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One attestation result before it is signed and logged."""

    submods: tuple[tuple[str, ear.Submod], ...]  # ("cpu0", …), ("gpu0", …)
    public: dict[str, Any]
    details: dict[str, Any]


def result_of(session: Session, proven: Proven, state: PolicyState | None, *, now: datetime) -> Result:
    """Return the result for ``proven``: affirming only when a policy in force accepts it.

    Args:
        state: the policies in force; None when none could be verified, and then no boot is approved.
    """
    accepting = tuple(policy for policy in state.policies if _accepts(policy, proven, now)) if state else ()
    key = proven.public_key.document()
    init_data = proven.init_data
    if init_data is not None and len(canonical(init_data)) > _MOST_INIT_DATA_BYTES:
        init_data = None
    runtime = {"nonce": session.nonce, "tee-pubkey": key}
    policy = ",".join(str(found.digest) for found in accepting)
    submods = [
        (
            "cpu0",
            ear.submod(
                _vector(proven.claims, accepted=bool(accepting)),
                policy=policy,
                annotated=annotated(session.tee, proven.claims, runtime=runtime, init=init_data),
            ),
        )
    ]
    counted: Counter[str] = Counter()
    for device in proven.claims.devices:
        kind = _DEVICE_CLASSES[device.kind]
        told = annotated("nvidia", device, runtime=runtime, init=None)
        vector = _vector(device, accepted=bool(accepting))
        submods.append((f"{kind}{counted[kind]}", ear.submod(vector, policy=policy, annotated=told)))
        counted[kind] += 1
    public = {
        "tee": session.tee,
        "nonce": f"sha256:{hashlib.sha256(session.nonce.encode()).hexdigest()}",
        "public_key": f"sha256:{hashlib.sha256(canonical(key)).hexdigest()}",
        "status": submods[0][1].status.value,
        "policies": [str(policy.digest) for policy in accepting],
    }
    return Result(submods=tuple(submods), public=public, details=_details(proven))


def _vector(claims: Claims, *, accepted: bool) -> dict[str, int]:
    """Return the trustworthiness vector: what is accepted is accepted as a whole, machine and devices."""
    development = any(root in DEVELOPMENT_ROOTS for root in claims.roots)
    vector = {"hardware": UNSAFE_HARDWARE if development else GENUINE_HARDWARE}
    if accepted:
        return vector | {"executables": APPROVED_BOOT, "configuration": APPROVED_CONFIGURATION}
    return vector | {"executables": UNRECOGNIZED_RUNTIME}


def _accepts(policy: LoadedPolicy, proven: Proven, now: datetime) -> bool:
    """Whether the policy accepts these claims; which of its keys is asked for makes no difference to that."""
    return any(
        appraise(proven.claims, policy.live, key=rule.key, challenge=proven.challenge, now=now).allowed
        for rule in policy.live.form.keys[:1]
    )


def _details(proven: Proven) -> dict[str, Any]:
    """Return what it takes to decide again later: the claims, and what they were bound to."""
    return {
        "claims": recorded.claims_document(proven.claims),
        "challenge": recorded.challenge_document(proven.challenge),
        "public_key": proven.public_key.document(),
    }
