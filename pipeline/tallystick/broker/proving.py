"""From an attestation message to what it proves: genuine, fresh, and bound to the client's own public key."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tallystick.appraisal.records import Challenge
from tallystick.broker.sessions import Session
from tallystick.core.errors import NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.evidence import composite, tpm_quote
from tallystick.evidence.claims import Claims
from tallystick.evidence.endorsements import Endorsements
from tallystick.handshake import binding, initdata
from tallystick.handshake.kbs import Attestation, encode
from tallystick.handshake.teekey import TeePublicKey

TPM = "tpm"  # its attestation keys are certified by the broker's own authorities


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """What one attestation message proved."""

    claims: Claims
    challenge: Challenge
    public_key: TeePublicKey
    init_data: dict[str, Any] | None  # what the init-data text says, whose digest is in the evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Backing:
    """What the verification of evidence may rest on."""

    authorities: Endorsements  # who is believed to certify a TPM's attestation keys
    collateral: tuple[
        bytes, ...
    ] = ()  # files: chains, CRLs, TCB info, RIMs. Believed for their signatures alone


def check_tee(tee: str) -> str:
    """Return ``tee`` when its evidence can be verified here.

    Raises:
        Unsupported: it can not.
    """
    known = composite.kinds_by_tee()
    if tee not in known:
        raise Unsupported("KBS request", at="tee", want="one of " + ", ".join(sorted(known)), got=tee)
    return tee


def prove(session: Session, message: Attestation, backing: Backing, *, now: datetime) -> Proven:
    """Return what ``message`` proves in ``session``. Cheap checks come first.

    Raises:
        NotGenuine: another nonce, evidence that does not hold, or that is bound to something else.
        Malformed, Unsupported: the evidence is not what its tee sends.
    """
    if not hmac.compare_digest(session.nonce.encode(), message.nonce.encode("utf-8", "surrogatepass")):
        raise _refuse("attestation.nonce", "runtime-data.nonce", "the nonce of this session", message.nonce)
    init_data = _init_data(message.init_data)
    judge = _tpm if session.tee == TPM else _machine
    claims = judge(session, message, backing, now)
    algorithm = binding.choose_hash(session.tee, ())
    devices = binding.device_report_data(session.nonce, message.tee_pubkey, algorithm=algorithm)
    return Proven(
        claims=claims,
        challenge=Challenge(
            report_data=claims.report_data,  # which is bound to nonce and key: ``judge`` compared it
            device_report_data=binding.device_nonce(devices),
            issued_at=session.issued_at,
        ),
        public_key=message.tee_pubkey,
        init_data=init_data,
    )


def _tpm(session: Session, message: Attestation, backing: Backing, now: datetime) -> Claims:
    if message.additional_evidence:
        raise Unsupported("KBS attestation", at="additional_evidence", want="none with a TPM", got="some")
    digest = binding.report_data(
        session.nonce, message.tee_pubkey, algorithm=binding.choose_hash(session.tee, ())
    )
    claims = tpm_quote.verify_under(
        encode(message.primary_evidence),
        backing.authorities,
        at=now,
        nonce=digest,
        init_data=None if message.init_data is None else initdata.digest(_bytes(message.init_data)),
    )
    if not hmac.compare_digest(claims.report_data, digest):  # whatever the kind's own module compared
        where = "report data (nonce and public key)"
        raise _refuse("attestation.report-data", where, digest.hex(), claims.report_data.hex())
    return claims


def _machine(session: Session, message: Attestation, backing: Backing, now: datetime) -> Claims:
    """Evidence that a hardware maker signed, with that of the machine's devices."""
    return composite.verify_message(
        composite.kinds_by_tee()[session.tee],
        message,
        backing.collateral,
        algorithm=binding.choose_hash(session.tee, ()),
        at=now,
    )


def _init_data(text: str | None) -> dict[str, Any] | None:
    """Return what the init-data says; None when none was sent. Its digest is held against the evidence."""
    if text is None:
        return None
    found = initdata.parse(_bytes(text))
    return {"version": initdata.VERSION, "algorithm": found.algorithm, "data": dict(found.data)}


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _refuse(code: str, where: str, want: str, got: str) -> NotGenuine:
    finding = Finding(code, where, want, got[:120])
    return NotGenuine(f"attestation: {finding.message}", findings=[finding])
