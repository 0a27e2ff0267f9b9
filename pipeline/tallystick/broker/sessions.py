"""Sessions of the KBS handshake: bounded, short, and in memory, so that a restart forgets every nonce.

Source: Trustee, kbs/src/attestation/session.rs (cookie, states, five minutes). Two differences: a nonce is
used up by the first attempt to attest, whatever comes of it, and an attested session does not attest again.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tallystick.appraisal.records import Challenge
from tallystick.core.errors import NotGenuine
from tallystick.evidence.claims import Claims
from tallystick.handshake.teekey import TeePublicKey

NONCE_BYTES = 32  # Trustee, kbs/src/attestation/backend.rs, NONCE_SIZE_BYTES
_COOKIE_BYTES = 16


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
    spent: bool = False  # an attempt to attest has used the nonce up
    attested: Attested | None = None


class Sessions:
    """At most ``limit`` sessions that wait for evidence, and as many attested ones; the oldest give way.

    The table is keyed by the cookie's hash, so that a look-up takes no time that depends on how much of a
    guessed cookie is right. Not thread-safe: it belongs to the event loop.
    """

    __slots__ = ("_attested", "_life", "_limit", "_waiting")

    def __init__(self, *, limit: int, life: timedelta) -> None:
        self._limit = limit
        self._life = life
        self._waiting: OrderedDict[bytes, Session] = OrderedDict()
        self._attested: OrderedDict[bytes, Session] = OrderedDict()

    @property
    def life(self) -> timedelta:
        """How long a session lasts from its challenge on."""
        return self._life

    def __len__(self) -> int:
        return len(self._waiting) + len(self._attested)

    def open(self, tee: str, *, now: datetime) -> tuple[str, Session]:
        """Return a new session and the cookie that names it."""
        cookie = secrets.token_hex(_COOKIE_BYTES)
        session = Session(
            tee=tee,
            nonce=base64.b64encode(secrets.token_bytes(NONCE_BYTES)).decode("ascii"),
            issued_at=now,
            expires_at=now + self._life,
        )
        _put(self._waiting, _key(cookie), session, limit=self._limit, now=now)
        return cookie, session

    def find(self, cookie: str, *, now: datetime) -> Session:
        """Return the session that ``cookie`` names.

        Raises:
            NotGenuine: there is none, or it has expired (``session.unknown``).
        """
        key = _key(cookie)
        session = self._waiting.get(key) or self._attested.get(key)
        if session is None or session.expires_at <= now:
            self._waiting.pop(key, None)
            self._attested.pop(key, None)
            raise NotGenuine("there is no such session, or it has expired", code="session.unknown")
        return session

    def spend(self, cookie: str, *, now: datetime) -> Session:
        """Return the session as it was, and use its nonce up: the caller has the only attempt there is.

        A session that is spent already comes back with ``spent`` set; the caller refuses it.

        Raises:
            NotGenuine: there is no such session (``session.unknown``).
        """
        session = self.find(cookie, now=now)
        key = _key(cookie)
        if not session.spent:
            self._waiting[key] = replace(session, spent=True)
        return session

    def attest(self, cookie: str, attested: Attested, *, now: datetime) -> None:
        """Keep what the session proved. A session that was evicted meanwhile is not brought back.

        Raises:
            NotGenuine: the session is gone (``session.unknown``).
        """
        session = self.find(cookie, now=now)
        key = _key(cookie)
        self._waiting.pop(key, None)
        _put(self._attested, key, replace(session, attested=attested), limit=self._limit, now=now)


def _key(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).digest()


def _put(
    table: OrderedDict[bytes, Session], key: bytes, session: Session, *, limit: int, now: datetime
) -> None:
    """Add a session at the young end, after the expired ones and then the oldest have left the other end."""
    while table:
        oldest = next(iter(table.values()))
        if oldest.expires_at > now and len(table) < limit:
            break
        table.popitem(last=False)
    table[key] = session
