"""The broker: sessions in, evidence verified, keys out, and every decision in the log before its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from cryptography.hazmat.primitives import serialization

from tallystick.broker import (
    enrolling,
    evidence_record,
    lease_table,
    leases,
    leasing,
    releasing,
    wire,
)
from tallystick.broker.archive import Archive, SealedEvidence
from tallystick.broker.clock import Clock
from tallystick.broker.config import BrokerConfig
from tallystick.broker.decisions import Entry, Kind, codes, entry, instant, new_id, whole
from tallystick.broker.enrolment_ca import EnrolmentAuthority
from tallystick.broker.leasing import Leasing
from tallystick.broker.ledger import Ledger, Stale, Under
from tallystick.broker.logkey import LogKey
from tallystick.broker.policies import PolicySource, PolicyState
from tallystick.broker.proving import Backing, Proven, check_tee, prove
from tallystick.broker.results import result_of
from tallystick.broker.sessions import Attested, Session, Sessions
from tallystick.broker.store import Batch, Store
from tallystick.broker.tokens import TokenIssuer
from tallystick.broker.vault import KeyId, Vault, key_id
from tallystick.broker.witnessing import Witnessing
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
_TIDY_EVERY = timedelta(hours=1)
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
    witnessing: Witnessing
    manufacturers: tuple[Endorser, ...]  # whose endorsement keys may enrol
    authorities: tuple[EnrolmentAuthority, ...]  # who certify attestation keys, one for each label
    backing: Backing  # what the verification of evidence may rest on
    sessions: Sessions
    enrolments: enrolling.Enrolments
    threads: ThreadPoolExecutor
    leasing: Leasing = field(init=False)
    archive: Archive = field(init=False)  # of the evidence that was taken
    _backing_document: bytes = field(init=False)
    _tidied_at: datetime | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Prepare what works on the store and the vault."""
        self.leasing = Leasing(self.store)
        self.archive = Archive(self.store, self.vault.sealer, keep=self.config.lifetimes.evidence)
        self._backing_document = evidence_record.write_backing(self.backing)

    def close(self) -> None:
        """Finish what is being decided, write what waits, and let go of everything."""
        self.threads.shutdown(wait=True)
        self.ledger.close()
        with suppress(TallystickError):  # the next start says what is wrong
            self.witnessing.show()
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
        session = self.sessions.find(cookie, now=now)  # before anything is read for whoever sends this
        message = Attestation.parse(body)
        try:
            if not self.sessions.spend(session):
                raise NotGenuine("this session's nonce was used before", code="nonce.used")
            proven, made, token, sealed = await self.under_one_policy(
                lambda: self.in_thread(lambda: self._attested(session, message, body, now))
            )
            attested = Attested(
                attestation=made.decision,
                claims=proven.claims,
                challenge=proven.challenge,
                public_key=proven.public_key,
            )

            def also(batch: Batch) -> None:
                self.sessions.keep(batch, session, attested, made.record)
                if sealed is not None:
                    self.archive.add(batch.connection, sealed, self._backing_document)

            await self.ledger.record([made], now=now, nonce=session.spent, also=also)
        except TallystickError as error:
            public = {"tee": session.tee}
            raise await self._refused("attest", error, now=now, public=public, nonce=session.spent) from None
        self.sessions.remember(session, attested)
        return Token(token=token)

    async def fetch(self, cookie: str, path: str) -> bytes:
        """Return the key at ``path``, wrapped to the session's public key, once its release is in the log.

        Raises:
            Answer: the session has not attested, or the key is refused; the refusal is in the log by then.
            NotGenuine: there is no such session.
            Malformed, Unreachable, Refused: as they say.
        """
        now = self.clock.now()
        attested = await self.attested_session(cookie, now)
        try:
            key = key_id(path)
        except Malformed:
            raise wire.no_such_path() from None
        self.witnessing.check()
        return await self.under_one_policy(lambda: self._fetched(key, attested, now))

    async def enrol(self, body: bytes) -> EnrolmentChallenge:
        """Return the challenge that only the TPM with both keys can answer.

        Raises:
            Answer: the keys are refused; the refusal is in the log by then.
            Malformed, Unreachable, Refused: as they say.
        """
        now = self.clock.now()
        message = Enrolment.parse(body)
        try:
            return await self.in_thread(lambda: self.enrolments.open(message, self.manufacturers, now=now))
        except TallystickError as error:
            raise await self._refused("enrol", error, now=now, public={}) from None

    async def activate(self, body: bytes) -> AkCertificate:
        """Return the certificate of the attestation key whose TPM opened the secret.

        Raises:
            Answer: no such enrolment, or another secret; the refusal is in the log by then.
            Malformed, Unreachable, Refused: as they say.
        """
        now = self.clock.now()
        message = Activation.parse(body)
        spent = enrolling.spent(message.session)
        try:
            enrolled = self.enrolments.close(message.session, message.secret, now=now)
            der, made = await self.in_thread(lambda: self._certified(enrolled, now))
            await self.ledger.record([made], now=now, nonce=spent)
        except TallystickError as error:
            raise await self._refused("activate", error, now=now, public={}, nonce=spent) from None
        return AkCertificate(ak_certificate=der)

    def sweep(self) -> int:
        """End the leases that are no longer permitted, and drop what is past its time; return how many ended."""
        now = self.clock.now()
        if self._tidied_at is None or now - self._tidied_at >= _TIDY_EVERY:
            self._tidied_at = now
            with self.store.batch() as batch:
                self.archive.forget(batch.connection, now)
                lease_table.forget(batch.connection, before=now - self.config.lifetimes.leases)
        return self.leasing.sweep(self.policies.current(now), now)

    def checkpoint(self) -> str:
        """Return the signed checkpoint over everything that is in the log, with witnesses' lines once they have it."""
        head = self.ledger.head()
        return self.witnessing.latest(head.size) or self.log_key.checkpoint(head)

    async def _fetched(self, key: KeyId, attested: Attested, now: datetime) -> bytes:
        outcome, under = await self.in_thread(lambda: self._decided(key, attested, now))
        verdict, name = outcome.verdict, new_id(now)
        public = {**verdict.public(), "attestation": attested.attestation}
        also: Callable[[Batch], None] | None = None
        if not verdict.allowed:
            public |= {"stage": "resource", "codes": codes(verdict.findings)}
        elif verdict.state is not None:
            lease = leases.granted(name, verdict, attested, verdict.state, now=now)
            public["until"] = instant(lease.expires_at)
            also = leasing.granting(lease)
        kind = Kind.RELEASE if verdict.allowed else Kind.REFUSAL
        made = entry(kind, now=now, public=public, details=verdict.details(), decision=name)
        await self.ledger.record([made], now=now, under=under, also=also)
        if outcome.wrapped is None:
            raise wire.denied(verdict.findings, own=verdict.own, decision=made.decision)
        return outcome.wrapped

    async def attested_session(self, cookie: str, now: datetime) -> Attested:
        """Return what the session that ``cookie`` is has proved.

        Raises:
            Answer: nothing yet. NotGenuine: there is no such session.
        """
        session = self.sessions.find(cookie, now=now)
        attested = self.sessions.at_hand(session)
        attested = attested or await self.in_thread(lambda: self.sessions.attested(session))
        if attested is None:
            raise wire.not_attested()
        return attested

    def _sealed(self, session: Session, body: bytes, decision: str, now: datetime) -> SealedEvidence | None:
        """Return the evidence of an attestation as it is kept; None where none is."""
        if not self.archive.keeps:
            return None
        return self.archive.seal(
            evidence_record.RecordedEvidence(
                attestation=decision,
                at=now,
                tee=session.tee,
                nonce=session.nonce,
                issued_at=session.issued_at,
                message=body,
                backing=Digest.of(self._backing_document),
            )
        )

    async def under_one_policy(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Return what ``work`` gives, done again when another process has put other policies in force meanwhile.

        Raises:
            Stale: that happened each time.
        """
        for _ in range(_ATTEMPTS - 1):
            with suppress(Stale):
                return await work()
            self.policies.forget()
        return await work()

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        """Return what ``work`` gives, done in a thread of the broker's."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    def _attested(
        self, session: Session, message: Attestation, body: bytes, now: datetime
    ) -> tuple[Proven, Entry, str, SealedEvidence | None]:
        """Return what ``message`` proves, its entry, its token, and the evidence as it is kept, if it is."""
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
        sealed = self._sealed(session, body, made.decision, now)
        return proven, made, self.tokens.issue(result.submods, now=now), sealed

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
        outcome = releasing.decide(key, attested, state, self.vault, now=now)
        if outcome.wrapped is not None:
            drains = leasing.held_back(outcome.verdict, self.leasing.drains())
            outcome = releasing.withheld(outcome, drains)
        return outcome, under

    def _certified(self, enrolled: enrolling.Enrolled, now: datetime) -> tuple[bytes, Entry]:
        (authority,) = (one for one in self.authorities if one.label == enrolled.label)
        life = self.config.lifetimes.ak_certificate
        certificate = authority.certify(enrolled.key, now=now, life=life)
        der = certificate.public_bytes(serialization.Encoding.DER)
        spki = enrolled.key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        made = entry(
            Kind.ENROLMENT,
            now=now,
            public={"label": authority.label, "ak": str(Digest.of(spki)), "until": instant(now + life)},
            details={
                "ek_certificate": str(enrolled.ek_certificate),
                "ak_certificate": str(Digest.of(der)),
            },
        )
        return der, made

    async def _refused(
        self,
        stage: str,
        error: TallystickError,
        *,
        now: datetime,
        public: dict[str, Any],
        nonce: bytes | None = None,
    ) -> TallystickError | wire.Answer:
        """Log that something was refused, and return what the client is told; our own trouble is no refusal.

        Args:
            nonce: used up by the attempt that failed, unless it was used before.
        """
        if isinstance(error, Unreachable | Refused):
            return error
        if error.code == "nonce.used":
            nonce = None  # another attempt has it, and may be about to succeed
        findings = error.findings or (Finding(error.code, stage, "something that holds", error.message),)
        made = entry(
            Kind.REFUSAL,
            now=now,
            public={"stage": stage, "codes": codes(findings), **public},
            details={"findings": whole(findings), "message": error.message},
        )
        try:
            await self.ledger.record([made], now=now, nonce=nonce)
        except NotGenuine:
            await self.ledger.record([made], now=now)
        return wire.answer(error, findings=findings, decision=made.decision)
