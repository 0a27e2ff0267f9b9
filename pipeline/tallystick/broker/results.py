"""The attestation result of proven evidence: what others may rely on, and what the log says of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tallystick.appraisal.appraise import appraise
from tallystick.broker.decisions import canonical, instant
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
from tallystick.formats import ear
from tallystick.policy.platforms import DEVELOPMENT_ROOTS

_MOST_INIT_DATA_BYTES = 32 << 10  # more is left out of the token, which travels in a header


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One attestation result before it is signed and logged."""

    submod: ear.Submod
    public: dict[str, Any]
    details: dict[str, Any]


def result_of(session: Session, proven: Proven, state: PolicyState | None, *, now: datetime) -> Result:
    """Return the result for ``proven``: affirming only when a policy in force accepts it.

    Args:
        state: the policies in force; None when none could be verified, and then no boot is approved.
    """
    accepting = tuple(policy for policy in state.policies if _accepts(policy, proven, now)) if state else ()
    development = any(root in DEVELOPMENT_ROOTS for root in proven.claims.roots)
    vector = {"hardware": UNSAFE_HARDWARE if development else GENUINE_HARDWARE}
    if accepting:
        vector |= {"executables": APPROVED_BOOT, "configuration": APPROVED_CONFIGURATION}
    else:
        vector |= {"executables": UNRECOGNIZED_RUNTIME}
    key = proven.public_key.document()
    init_data = proven.init_data
    if init_data is not None and len(canonical(init_data)) > _MOST_INIT_DATA_BYTES:
        init_data = None
    submod = ear.submod(
        vector,
        policy=",".join(str(policy.digest) for policy in accepting),
        annotated=annotated(
            session.tee, proven.claims, runtime={"nonce": session.nonce, "tee-pubkey": key}, init=init_data
        ),
    )
    public = {
        "tee": session.tee,
        "nonce": f"sha256:{hashlib.sha256(session.nonce.encode()).hexdigest()}",
        "public_key": f"sha256:{hashlib.sha256(canonical(key)).hexdigest()}",
        "status": submod.status.value,
        "policies": [str(policy.digest) for policy in accepting],
    }
    return Result(submod=submod, public=public, details=_details(session, proven))


def _accepts(policy: LoadedPolicy, proven: Proven, now: datetime) -> bool:
    """Whether the policy accepts these claims; which of its keys is asked for makes no difference to that."""
    return any(
        appraise(proven.claims, policy.live, key=rule.key, challenge=proven.challenge, now=now).allowed
        for rule in policy.live.form.keys[:1]
    )


def _details(session: Session, proven: Proven) -> dict[str, Any]:
    """Return what it takes to decide again later: the claims, and what they were bound to."""
    claims = proven.claims
    bounds = (claims.valid_from, claims.valid_until)
    return {
        "claims": {
            "kind": claims.kind,
            "values": dict(claims.values),
            "roots": list(claims.roots),
            "report_data": claims.report_data.hex(),
            "valid": [None if end is None else instant(end) for end in bounds],
            "notes": [note.document() for note in claims.notes],
        },
        "challenge": {
            "report_data": proven.challenge.report_data.hex(),
            "issued_at": instant(session.issued_at),
        },
        "public_key": proven.public_key.document(),
    }
