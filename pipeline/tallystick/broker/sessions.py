"""Sessions of the KBS handshake. A cookie carries its own session, so every worker and replica knows it.

What waits for evidence is nowhere but in the cookie: the nonce, the tee and the time, under a MAC of the broker's key.
What has attested is in the store, and the claims in the attestation's record. A nonce is used up in the store, by the
first attempt to attest, whatever comes of it, and an attested session does not attest again.

Source: Trustee, kbs/src/attestation/session.rs (cookie, states, five minutes).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import TypeVar

from tallystick.appraisal.records import Challenge
from tallystick.broker import recorded
from tallystick.broker.decisions import parse_record
from tallystick.broker.store import Batch, Store
from tallystick.core.errors import NotGenuine
from tallystick.evidence.claims import Claims
from tallystick.handshake.teekey import TeePublicKey

KEY_BYTES = 32
NONCE_BYTES = 32  # Trustee, kbs/src/attestation/backend.rs, NONCE_SIZE_BYTES
_STAMP_BYTES = 8  # seconds since 1970-01-01T00:00:00Z
_MAC_BYTES = 32
_MOST_CHARACTERS = 200
_V = TypeVar("_V")
_COOKIE, _ATTESTED = b"tallystick/session/v1", b"tallystick/attested/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """What a session has proven: the verified claims, and what they are bound to."""

    attestation: str  # identifier of the attestation's own leaf
    claims: Claims
    challenge: Challenge
    public_key: TeePublicKey  # what released keys are wrapped to


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One client's handshake."""

    tee: str
    nonce: str  # base64, as the challenge carried it
    issued_at: datetime
    expires_at: datetime
    name: bytes = b""  # SHA-256 of the cookie

    @property
    def spent(self) -> bytes:
        """What the store remembers when the nonce is used up."""
        return hashlib.sha256(self.nonce.encode()).digest()


class Sessions:
    """Opens sessions, and remembers the latest ``limit`` that attested here; the store has them all. For threads."""

    __slots__ = ("_attested", "_key", "_life", "_limit", "_lock", "_spent", "_store")

    def __init__(self, key: bytes, store: Store, *, limit: int, life: timedelta) -> None:
        """Hold the broker's key for MACs, the same for all that share ``store``."""
        self._key = key
        self._store = store
        self._limit = limit
        self._life = life
        self._attested: OrderedDict[bytes, Attested] = OrderedDict()
        self._spent: OrderedDict[bytes, None] = OrderedDict()
        self._lock = Lock()

    @property
    def life(self) -> timedelta:
        """How long a session lasts from its challenge on."""
        return self._life

    def __len__(self) -> int:
        return len(self._attested)

    def open(self, tee: str, *, now: datetime) -> tuple[str, Session]:
        """Return a new session and the cookie that is it."""
        at = int(now.timestamp()).to_bytes(_STAMP_BYTES, "big")
        body = at + secrets.token_bytes(NONCE_BYTES) + tee.encode()
        cookie = base64.urlsafe_b64encode(mac(self._key, _COOKIE, body) + body).rstrip(b"=").decode("ascii")
        return cookie, self._session(cookie, body)

    def find(self, cookie: str, *, now: datetime) -> Session:
        """Return the session that ``cookie`` is.

        Raises:
            NotGenuine: this broker did not make it, or it has expired (``session.unknown``).
        """
        body = self._body(cookie)
        session = None if body is None else self._session(cookie, body)
        if session is None or session.expires_at <= now:
            raise NotGenuine("there is no such session, or it has expired", code="session.unknown")
        return session

    def spend(self, session: Session) -> bool:
        """Begin an attempt to attest; False when this process has seen one before.

        This saves work alone: what no two attempts get past, in whatever processes, is the nonce in the store.
        """
        with self._lock:
            first = session.name not in self._spent
            _put(self._spent, session.name, None, limit=self._limit)
        return first

    def keep(self, batch: Batch, session: Session, attested: Attested, record: bytes) -> None:
        """Let ``session`` stand for the attestation with this ``record``, in the transaction that logs it."""
        proof = self._proof(session, attested.attestation, record)
        batch.attest(session.name, attested.attestation, proof, until=session.expires_at)

    def remember(self, session: Session, attested: Attested) -> None:
        """Have what the session proved at hand, now that it is durable."""
        with self._lock:
            _put(self._attested, session.name, attested, limit=self._limit)

    def at_hand(self, session: Session) -> Attested | None:
        """Return what the session proved where this process remembers it."""
        return self._attested.get(session.name)

    def attested(self, session: Session) -> Attested | None:
        """Return what the session proved, whichever process it attested to; None when it has not.

        Raises:
            NotGenuine: somebody else wrote it into the store (``session.altered``).
            Unreachable: the store does not answer.
        """
        row = self._store.session(session.name)
        if row is None:
            return None
        name, proof = row
        kept = self._store.decision(name)
        if not hmac.compare_digest(proof, self._proof(session, name, kept.record)):
            raise NotGenuine(f"the store's record of attestation {name} is not ours", code="session.altered")
        attested = recorded_attestation(name, kept.record)
        self.remember(session, attested)
        return attested

    def _session(self, cookie: str, body: bytes) -> Session:
        issued_at = datetime.fromtimestamp(int.from_bytes(body[:_STAMP_BYTES], "big"), UTC)
        nonce, tee = body[_STAMP_BYTES : _STAMP_BYTES + NONCE_BYTES], body[_STAMP_BYTES + NONCE_BYTES :]
        return Session(
            tee=tee.decode(),
            nonce=base64.b64encode(nonce).decode("ascii"),
            issued_at=issued_at,
            expires_at=issued_at + self._life,
            name=hashlib.sha256(cookie.encode()).digest(),
        )

    def _body(self, cookie: str) -> bytes | None:
        """Return what a cookie of ours carries; None of any other."""
        if len(cookie) > _MOST_CHARACTERS:
            return None
        try:
            data = base64.b64decode(cookie + "=" * (-len(cookie) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        body = data[_MAC_BYTES:]
        same = hmac.compare_digest(data[:_MAC_BYTES], mac(self._key, _COOKIE, body))
        one_spelling = base64.urlsafe_b64encode(data).rstrip(b"=") == cookie.encode()
        return body if same and one_spelling else None

    def _proof(self, session: Session, attestation: str, record: bytes) -> bytes:
        parts = (session.name, hashlib.sha256(attestation.encode()).digest(), hashlib.sha256(record).digest())
        return mac(self._key, _ATTESTED, b"".join(parts))


def _put(table: OrderedDict[bytes, _V], name: bytes, value: _V, *, limit: int) -> None:
    table[name] = value
    if len(table) > limit:
        table.popitem(last=False)


def mac(key: bytes, purpose: bytes, data: bytes) -> bytes:
    """Return HMAC-SHA256 of ``data`` for one purpose, which has no zero byte."""
    return hmac.digest(key, purpose + b"\0" + data, "sha256")


def recorded_attestation(name: str, record: bytes) -> Attested:
    """Return what an attestation proved, from its record, which has held."""
    details = parse_record(record)["details"]
    return Attested(
        attestation=name,
        claims=recorded.claims_of(details["claims"]),
        challenge=recorded.challenge_of(details["challenge"]),
        public_key=TeePublicKey.parse(details["public_key"]),
    )
