"""From an attestation message to what it proves: genuine, fresh, and bound to the client's own public key."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tallystick.appraisal.records import Challenge
from tallystick.broker.sessions import Session
from tallystick.core.errors import NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.evidence.claims import Claims
from tallystick.handshake import binding, initdata
from tallystick.handshake.kbs import Attestation
from tallystick.handshake.teekey import TeePublicKey
from tallystick.signing.records import Endorser

# KBS tee -> evidence kind. A tee that is not here is refused at the first message.
KINDS = {"tpm": "tpm-quote"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """What one attestation message proved."""

    claims: Claims
    challenge: Challenge
    public_key: TeePublicKey
    init_data: dict[str, Any] | None  # what the init-data text says, once its digest is in the evidence


def check_tee(tee: str) -> str:
    """Return ``tee`` when its evidence can be verified here.

    Raises:
        Unsupported: it can not.
    """
    if tee not in KINDS:
        raise Unsupported("KBS request", at="tee", want="one of " + ", ".join(KINDS), got=tee)
    return tee


def prove(session: Session, message: Attestation, endorsers: Sequence[Endorser], *, now: datetime) -> Proven:
    """Return what ``message`` proves in ``session``. Cheap checks come first.

    Raises:
        NotGenuine: another nonce, evidence that does not hold, or that is bound to something else.
        Malformed, Unsupported: the evidence is not what its tee sends.
    """
    if not hmac.compare_digest(session.nonce.encode(), message.nonce.encode("utf-8", "surrogatepass")):
        raise _refuse("attestation.nonce", "runtime-data.nonce", "the nonce of this session", message.nonce)
    if message.additional_evidence:
        raise Unsupported(
            "KBS attestation", at="additional_evidence", want="none", got="evidence of more devices"
        )
    digest = binding.report_data(
        session.nonce,
        message.tee_pubkey,
        additional_evidence=message.additional_evidence,
        algorithm=binding.choose_hash(session.tee, ()),
    )
    claims = _verify(session.tee, message.primary_evidence, endorsers, now=now)
    if not hmac.compare_digest(claims.report_data, digest):
        raise _refuse(
            "attestation.report-data",
            "report data (nonce and public key)",
            digest.hex(),
            claims.report_data.hex(),
        )
    return Proven(
        claims=claims,
        challenge=Challenge(report_data=digest, issued_at=session.issued_at),
        public_key=message.tee_pubkey,
        init_data=_init_data(message.init_data, claims),
    )


def _init_data(text: str | None, claims: Claims) -> dict[str, Any] | None:
    """Return what the init-data says, when the evidence carries its digest; None when none was sent."""
    if text is None:
        return None
    body = text.encode("utf-8", "surrogatepass")
    found = initdata.parse(body)
    want, got = initdata.pcr8(body).hex(), str(claims.values.get("init_data"))
    if want != got:
        raise _refuse("attestation.init-data", "PCR 8 (init-data)", want, got)
    return {"version": initdata.VERSION, "algorithm": found.algorithm, "data": dict(found.data)}


def _verify(tee: str, evidence: Any, endorsers: Sequence[Endorser], *, now: datetime) -> Claims:
    raise NotImplementedError


def _refuse(code: str, where: str, want: str, got: str) -> NotGenuine:
    finding = Finding(code, where, want, got[:120])
    return NotGenuine(f"attestation: {finding.message}", findings=[finding])
