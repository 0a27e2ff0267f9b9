"""Recorded evidence in the store: sealed, and gone when its time is over.

Every UTC day has a data key of its own, sealed by the vault's master key and never stored otherwise; evidence is
sealed under the key of its day. Retention drops the evidence and the key, so that what a copy of the database still
holds of that day opens for nobody who does not have the vault as well.

Source: NIST SP 800-38D (AES-GCM, 96-bit random nonces; at most 2**32 of them under one key).
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import delete, insert, select

from tallystick.broker import evidence_record
from tallystick.broker.casebook import not_kept
from tallystick.broker.decisions import check_opens, parse_leaf, parse_record
from tallystick.broker.evidence_record import RecordedEvidence
from tallystick.broker.leaflog import LeafLog
from tallystick.broker.proving import Backing
from tallystick.broker.sealing import Sealer
from tallystick.broker.store import Store
from tallystick.broker.tables import backings, evidence, evidence_keys
from tallystick.core import jsondoc
from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine, Refused
from tallystick.core.findings import Finding
from tallystick.core.jsondoc import canonical

if TYPE_CHECKING:
    from sqlalchemy import Connection

_KEY_BYTES = 32
_NONCE_BYTES = 12
_MOST_BACKINGS = 64  # that stay in memory: they change with the broker's files


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedEvidence:
    """One attestation's evidence, ready to be written."""

    attestation: str
    day: str
    backing: bytes  # digest
    sealed: bytes


class Archive:
    """Seals evidence and opens it again. Safe for threads."""

    def __init__(self, store: Store, sealer: Sealer, *, keep: timedelta) -> None:
        """Hold the store and the vault's sealer.

        Args:
            keep: how long evidence is kept; zero keeps none.
        """
        self._store = store
        self._sealer = sealer
        self._keep = keep
        self._keys: dict[str, AESGCM] = {}
        self._lock = Lock()
        self._backing = lru_cache(maxsize=_MOST_BACKINGS)(self._read_backing)

    @property
    def keeps(self) -> bool:
        """Whether evidence is kept at all."""
        return self._keep > timedelta(0)

    def seal(self, kept: RecordedEvidence) -> SealedEvidence:
        """Return ``kept``, sealed under the key of its day, which is made when it is the first."""
        day = _day(kept.at)
        nonce = os.urandom(_NONCE_BYTES)
        beside = _beside(kept.attestation, day)
        sealed = nonce + self._key(day).encrypt(nonce, evidence_record.write(kept), beside)
        return SealedEvidence(
            attestation=kept.attestation, day=day, backing=kept.backing.value, sealed=sealed
        )

    def add(self, connection: Connection, found: SealedEvidence, backing: bytes) -> None:
        """Write sealed evidence, and the document of what it was verified with unless that is there."""
        there = select(backings.c.digest).where(backings.c.digest == found.backing)
        if connection.execute(there).first() is None:
            connection.execute(insert(backings), {"digest": found.backing, "data": backing})
        row = {"attestation": found.attestation, "day": found.day, "backing": found.backing}
        connection.execute(insert(evidence), row | {"sealed": found.sealed})

    def forget(self, connection: Connection, now: datetime) -> None:
        """Drop the evidence whose time is over, the keys of its days, and what nothing rests on any more."""
        first = _day(now - self._keep)
        connection.execute(delete(evidence).where(evidence.c.day < first))
        connection.execute(delete(evidence_keys).where(evidence_keys.c.day < first))
        still = select(evidence.c.backing)
        connection.execute(delete(backings).where(backings.c.digest.not_in(still)))
        with self._lock:
            self._keys = {day: key for day, key in self._keys.items() if day >= first}

    def evidence(self, attestation: str) -> tuple[RecordedEvidence, Backing]:
        """Return the evidence of ``attestation``, opened.

        Raises:
            Refused: it is not kept, or not any more (``evidence.not-kept``).
            NotGenuine: it was altered, or sealed by another vault (``evidence.altered``).
        """
        with self._store.reading() as connection:
            query = select(evidence).where(evidence.c.attestation == attestation)
            row = connection.execute(query).one_or_none()
        if row is None:
            raise not_kept(attestation)
        sealed = bytes(row.sealed)
        try:
            nonce, data = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            plain = self._existing_key(row.day).decrypt(nonce, data, _beside(attestation, row.day))
        except (InvalidTag, ValueError):
            message = f"the evidence of attestation {attestation} was altered, or is another vault's"
            raise NotGenuine(message, code="evidence.altered") from None
        kept = evidence_record.read(plain)
        return kept, self._backing(kept.backing)

    def _read_backing(self, digest: Digest) -> Backing:
        with self._store.reading() as connection:
            query = select(backings.c.data).where(backings.c.digest == digest.value)
            data = connection.execute(query).scalar()
        if data is None or Digest.of(bytes(data)) != digest:
            got = "nothing" if data is None else str(Digest.of(bytes(data)))
            finding = Finding("evidence.backing", "what evidence was verified with", str(digest), got)
            raise NotGenuine(finding.message, findings=[finding])
        return evidence_record.read_backing(bytes(data))

    def _existing_key(self, day: str) -> AESGCM:
        with self._lock:
            if day in self._keys:
                return self._keys[day]
        with self._store.reading() as connection:
            query = select(evidence_keys.c.sealed).where(evidence_keys.c.day == day)
            sealed = connection.execute(query).scalar()
        if sealed is None:
            raise Refused(f"the key of the evidence of {day} is gone", code="evidence.not-kept")
        return self._opened(day, bytes(sealed))

    def _key(self, day: str) -> AESGCM:
        """Return the key of ``day``; the first process that needs it makes it, and all take that one."""
        try:
            return self._existing_key(day)
        except Refused:
            fields = self._sealer.seal(secrets.token_bytes(_KEY_BYTES), _beside("", day))
            with self._store.batch() as batch:
                query = select(evidence_keys.c.sealed).where(evidence_keys.c.day == day)
                sealed = batch.connection.execute(query).scalar()
                if sealed is None:
                    sealed = canonical(fields)
                    batch.connection.execute(insert(evidence_keys), {"day": day, "sealed": sealed})
            return self._opened(day, bytes(sealed))

    def _opened(self, day: str, sealed: bytes) -> AESGCM:
        fields = jsondoc.loads(sealed, "evidence key")
        key = AESGCM(self._sealer.unseal(fields, _beside("", day)))
        with self._lock:
            return self._keys.setdefault(day, key)


class StoredCasebook:
    """The broker's own records, each held to the log; and the evidence behind them."""

    def __init__(self, store: Store, archive: Archive) -> None:
        self._store = store
        self._archive = archive

    def records(self) -> Iterator[Mapping[str, Any]]:
        """Yield the record of every decision.

        Raises:
            NotGenuine: the log was altered, or a record is not what its leaf commits to.
        """
        for kept in LeafLog(self._store).decisions():
            check_opens(parse_leaf(kept.leaf), kept.record)
            yield parse_record(kept.record)

    def evidence(self, attestation: str) -> tuple[RecordedEvidence, Backing]:
        """Return the evidence of an attestation; errors as :meth:`Archive.evidence`."""
        return self._archive.evidence(attestation)

    def policy(self, digest: Digest) -> bytes | None:
        """Return a compiled policy that was in force once."""
        return self._store.policy(digest.value)


def _day(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d}"


def _beside(attestation: str, day: str) -> bytes:
    """Return what is authenticated beside evidence, or beside the key of a day."""
    text = {"schema": evidence_record.SCHEMA, "attestation": attestation, "day": day}
    return json.dumps(text, sort_keys=True, separators=(",", ":")).encode()
