"""The broker: sessions in, evidence verified, keys out, and every decision in the log before its answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from cryptography.hazmat.primitives import serialization

from tallystick.broker import enrolling, releasing, wire
from tallystick.broker.clock import Clock
from tallystick.broker.config import BrokerConfig
from tallystick.broker.decisions import Entry, Kind, codes, entry, instant, whole
from tallystick.broker.enrolment_ca import EnrolmentAuthority
from tallystick.broker.ledger import Ledger, Stale, Under
from tallystick.broker.logkey import LogKey
from tallystick.broker.policies import PolicySource, PolicyState
from tallystick.broker.proving import Backing, Proven, check_tee, prove
from tallystick.broker.results import result_of
from tallystick.broker.sessions import Attested, Session, Sessions
from tallystick.broker.store import Store
from tallystick.broker.tokens import TokenIssuer
from tallystick.broker.vault import KeyId, Vault, key_id
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, Refused, TallystickError, Unreachable
from tallystick.core.findings import Finding
from tallystick.handshake import binding
from tallystick.handshake.kbs import (
    Activation,
    AkCertificate,
    Attestation,
    Challenge,
    Enrolment,
    EnrolmentChallenge,
    Request,
    Token,
)
from tallystick.signing.records import Endorser

_T = TypeVar("_T")
_ATTEMPTS = 3  # to decide under policies that stay in force until the decision is logged


@dataclass(slots=True, kw_only=True, eq=False)
class Broker:
    """Everything that one broker process works with. ``opening.open_broker`` makes one.

    Its methods run on one event loop; verification and cryptography run in its threads.
    """

    config: BrokerConfig
    clock: Clock
    store: Store
    ledger: Ledger
    vault: Vault
    policies: PolicySource
    tokens: TokenIssuer
    log_key: LogKey
    manufacturers: tuple[Endorser, ...]  # whose endorsement keys may enrol
    authorities: tuple[EnrolmentAuthority, ...]  # who certify attestation keys, one for each label
    backing: Backing  # what the verification of evidence may rest on
    sessions: Sessions
    enrolments: enrolling.Enrolments
    threads: ThreadPoolExecutor

    def close(self) -> None:
        """Finish what is being decided, write what waits, and let go of everything."""
        self.threads.shutdown(wait=True)
        self.ledger.close()
        self.store.close()

    def auth(self, body: bytes) -> tuple[str, Challenge]:
        """Return the cookie and the challenge of a new session.

        Raises:
            Malformed, Unsupported: another protocol version, or a tee whose evidence is not verified here.
            Refused: the clock has run back.
        """
        request = Request.parse(body)
        chosen = binding.choose_hash(check_tee(request.tee), request.hash_algorithms)
        cookie, session = self.sessions.open(request.tee, now=self.clock.now())
        return cookie, Challenge(nonce=session.nonce, hash_algorithm=chosen)

    async def attest(self, cookie: str, body: bytes) -> Token:
        """Return the attestation result of genuine evidence. The session's nonce is used up either way.

        Raises:
            Answer: the evidence does not hold; the refusal is in the log by then.
            NotGenuine: there is no such session.
            Malformed, Unreachable, Refused: as they say.
        """
        now = self.clock.now()
        message = Attestation.parse(body)
        session = self.sessions.spend(cookie, now=now)
        nonce = hashlib.sha256(session.nonce.encode()).digest()
        try:
            if session.spent:
                raise NotGenuine("this session's nonce was used before", code="nonce.used")
            proven, made, token = await self._under_one_policy(
                lambda: self._in_thread(lambda: self._attested(session, message, now))
            )
            await self.ledger.record([made], now=now, nonce=nonce)
        except TallystickError as error:
            raise await self._refused("attest", error, now=now, public={"tee": session.tee}) from None
        attested = Attested(
            attestation=made.decision,
            claims=proven.claims,
            challenge=proven.challenge,
            public_key=proven.public_key,
        )
        self.sessions.attest(cookie, attested, now=now)
        return Token(token=token)

    async def fetch(self, cookie: str, path: str) -> bytes:
        """Return the key at ``path``, wrapped to the session's public key, once its release is in the log.

        Raises:
            Answer: the session has not attested, or the key is refused; the refusal is in the log by then.
            NotGenuine: there is no such session.
            Malformed, Unreachable, Refused: as they say.
        """
        now = self.clock.now()
        attested = self.sessions.find(cookie, now=now).attested
        if attested is None:
            raise wire.not_attested()
        try:
            key = key_id(path)
        except Malformed:
            raise wire.no_such_path() from None
        return await self._under_one_policy(lambda: self._fetched(key, attested, now))

    async def enrol(self, body: bytes) -> EnrolmentChallenge:
        """Return the challenge that only the TPM with both keys can answer.

        Raises:
            Answer: the keys are refused; the refusal is in the log by then.
            Malformed, Unreachable, Refused: as they say.
        """
        now = self.clock.now()
        message = Enrolment.parse(body)
        try:
            offer = await self._in_thread(lambda: enrolling.offer(message, self.manufacturers, now=now))
        except TallystickError as error:
            raise await self._refused("enrol", error, now=now, public={}) from None
        return EnrolmentChallenge(
            credential_blob=offer.credential_blob,
            encrypted_secret=offer.encrypted_secret,
            session=self.enrolments.open(offer, now=now),
        )

    async def activate(self, body: bytes) -> AkCertificate:
        """Return the certificate of the attestation key whose TPM opened the secret.

        Raises:
            Answer: no such enrolment, or another secret; the refusal is in the log by then.
            Malformed, Unreachable, Refused: as they say.
        """
        now = self.clock.now()
        message = Activation.parse(body)
        try:
            offer = self.enrolments.close(message.session, message.secret, now=now)
        except TallystickError as error:
            raise await self._refused("activate", error, now=now, public={}) from None
        der, made = await self._in_thread(lambda: self._certified(offer, now))
        await self.ledger.record([made], now=now)
        return AkCertificate(ak_certificate=der)

    def checkpoint(self) -> str:
        """Return the signed checkpoint over everything that is in the log."""
        return self.log_key.checkpoint(self.ledger.head())

    async def _fetched(self, key: KeyId, attested: Attested, now: datetime) -> bytes:
        outcome, under = await self._in_thread(lambda: self._decided(key, attested, now))
        verdict = outcome.verdict
        public = {**verdict.public(), "attestation": attested.attestation}
        if not verdict.allowed:
            public |= {"stage": "resource", "codes": codes(verdict.findings)}
        kind = Kind.RELEASE if verdict.allowed else Kind.REFUSAL
        made = entry(kind, now=now, public=public, details=verdict.details())
        await self.ledger.record([made], now=now, under=under)
        if outcome.wrapped is None:
            raise wire.denied(verdict.findings, own=verdict.own, decision=made.decision)
        return outcome.wrapped

    async def _under_one_policy(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Return what ``work`` gives, done again when another process has put other policies in force meanwhile.

        Raises:
            Stale: that happened each time.
        """
        for _ in range(_ATTEMPTS - 1):
            with suppress(Stale):
                return await work()
            self.policies.forget()
        return await work()

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    def _attested(self, session: Session, message: Attestation, now: datetime) -> tuple[Proven, Entry, str]:
        proven = prove(session, message, self.backing, now=now)
        state: PolicyState | None
        try:
            state = self.policies.current(now)
        except Unreachable:
            raise
        except TallystickError:
            state = None  # the evidence is genuine all the same; the fetch of a key says what is wrong
        result = result_of(session, proven, state, now=now)
        made = entry(Kind.ATTESTATION, now=now, public=result.public, details=result.details)
        return proven, made, self.tokens.issue(result.submods, now=now)

    def _decided(
        self, key: KeyId, attested: Attested, now: datetime
    ) -> tuple[releasing.Outcome, Under | None]:
        """Return the answer, and the policies that it rests on."""
        try:
            state = self.policies.current(now)
        except Unreachable:
            raise
        except TallystickError as error:
            return releasing.Outcome(verdict=releasing.without_policies(key, error), wrapped=None), None
        under = Under(channel=state.channel, epoch=state.epoch)
        return releasing.decide(key, attested, state, self.vault, now=now), under

    def _certified(self, offer: enrolling.Offer, now: datetime) -> tuple[bytes, Entry]:
        (authority,) = (one for one in self.authorities if one.label == offer.endorsed.label)
        life = self.config.lifetimes.ak_certificate
        certificate = authority.certify(offer.key.key, now=now, life=life)
        der = certificate.public_bytes(serialization.Encoding.DER)
        spki = offer.key.key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        made = entry(
            Kind.ENROLMENT,
            now=now,
            public={"label": authority.label, "ak": str(Digest.of(spki)), "until": instant(now + life)},
            details={
                "ek_certificate": str(offer.endorsed.certificate),
                "ak_certificate": str(Digest.of(der)),
            },
        )
        return der, made

    async def _refused(
        self, stage: str, error: TallystickError, *, now: datetime, public: dict[str, Any]
    ) -> TallystickError | wire.Answer:
        """Log that something was refused, and return what the client is told; our own trouble is no refusal."""
        if isinstance(error, Unreachable | Refused):
            return error
        findings = error.findings or (Finding(error.code, stage, "something that holds", error.message),)
        made = entry(
            Kind.REFUSAL,
            now=now,
            public={"stage": stage, "codes": codes(findings), **public},
            details={"findings": whole(findings), "message": error.message},
        )
        await self.ledger.record([made], now=now)
        return wire.answer(error, findings=findings, decision=made.decision)
