"""The tables of the broker's store, as SQLAlchemy Core has them. ``migrations/`` brings a database to this shape.

A column that holds a time holds seconds since 1970-01-01T00:00:00Z; a digest is its bytes.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table, Text

# SQLite knows one integer, and its 64-bit row number is an "INTEGER PRIMARY KEY" by that very name.
BIG = BigInteger().with_variant(Integer, "sqlite")
STRICT: dict[str, Any] = {"sqlite_strict": True}
KEYED: dict[str, Any] = {**STRICT, "sqlite_with_rowid": False}  # the primary key is the table

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

# One row, number 1. Whoever writes locks it first, so that there is one order of leaves for all replicas.
head = Table(
    "head",
    METADATA,
    Column("id", BIG, primary_key=True, autoincrement=False),
    Column("size", BIG, nullable=False),  # leaves in the log
    Column("root", LargeBinary, nullable=False),  # over all of them
    Column("frontier", LargeBinary, nullable=False),  # tlog.merkle.Frontier
    Column("seen_at", BIG, nullable=False),  # the latest time that was ever acted on
    **STRICT,
)

# Every decision: the leaf that the log has of it, and the record that the leaf commits to.
decisions = Table(
    "decisions",
    METADATA,
    Column("position", BIG, primary_key=True, autoincrement=False),  # index of the leaf
    Column("id", Text, nullable=False, unique=True),
    Column("leaf", LargeBinary, nullable=False),
    Column("record", LargeBinary, nullable=False),  # canonical JSON, salt included
    **STRICT,
)

# Whole runs of 256 hashes, so that a proof reads a few rows (C2SP tlog-tiles, section "Merkle Tree").
tiles = Table(
    "tiles",
    METADATA,
    Column("level", BIG, primary_key=True, autoincrement=False),
    Column("number", BIG, primary_key=True, autoincrement=False),
    Column("hashes", LargeBinary, nullable=False),
    **KEYED,
)

# Nonces that were used up, for as long as their sessions could last.
nonces = Table(
    "nonces",
    METADATA,
    Column("digest", LargeBinary, primary_key=True),
    Column("used_at", BIG, nullable=False, index=True),
    **KEYED,
)

# Sessions that have attested.
sessions = Table(
    "sessions",
    METADATA,
    Column("name", LargeBinary, primary_key=True),  # SHA-256 of the cookie
    Column("attestation", Text, nullable=False),  # the decision
    Column(
        "proof", LargeBinary, nullable=False
    ),  # MAC of the broker's key: who only writes here attests nobody
    Column("expires_at", BIG, nullable=False, index=True),
    **KEYED,
)

# What is in force of each channel, and the versions that it may never fall below.
channels = Table(
    "channels",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("epoch", LargeBinary, nullable=False),  # changes when policies or revocations do
    Column("high_water", LargeBinary, nullable=False),
    **KEYED,
)

# The vault's sealed documents, where it keeps them in this store (storeplace.py).
sealed_keys = Table(
    "sealed_keys",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("version", BIG, nullable=False),
    Column("data", LargeBinary, nullable=False),
    **KEYED,
)

# Compiled policies that decided, so that their decisions can be made again.
policies = Table(
    "policies",
    METADATA,
    Column("digest", LargeBinary, primary_key=True),
    Column("data", LargeBinary, nullable=False),
    **KEYED,
)

# Keys in holders' hands (leases.py). Kept for a while after their end, to say who had a key.
leases = Table(
    "leases",
    METADATA,
    Column("id", Text, primary_key=True),  # the decision that released the key
    Column("key", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("release", Text, nullable=False, index=True),
    Column("holder", Text, nullable=False, index=True),  # thumbprint of the attested key
    Column("attestation", Text, nullable=False),
    Column("issued_at", BIG, nullable=False),
    Column("renewed_at", BIG, nullable=False),
    Column("expires_at", BIG, nullable=False, index=True),
    Column("because", Text, nullable=False),
    Column("ended_at", BIG),
    Column("reasons", Text, nullable=False),  # codes, with spaces between
    **KEYED,
)

# Standing orders: what they cover is neither released nor renewed. An empty text covers everything.
drains = Table(
    "drains",
    METADATA,
    Column("id", Text, primary_key=True),  # its decision
    Column("at", BIG, nullable=False),
    Column("reason", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("release", Text, nullable=False),
    Column("lease", Text, nullable=False),
    **KEYED,
)

# The epoch of each channel under which every lease was last looked at.
postures = Table(
    "postures",
    METADATA,
    Column("channel", Text, primary_key=True),
    Column("epoch", LargeBinary, nullable=False),
    **KEYED,
)

# Evidence as it was sent, sealed under the key of its day (archive.py).
evidence = Table(
    "evidence",
    METADATA,
    Column("attestation", Text, primary_key=True),  # the decision
    Column("day", Text, nullable=False, index=True),  # "2026-11-22", in UTC
    Column("backing", LargeBinary, nullable=False, index=True),
    Column("sealed", LargeBinary, nullable=False),
    **STRICT,
)

# One key a day, sealed by the vault's sealer. Without it nothing of its day opens any more.
evidence_keys = Table(
    "evidence_keys",
    METADATA,
    Column("day", Text, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    **KEYED,
)

# What evidence was verified with, by the digest of its document.
backings = Table(
    "backings",
    METADATA,
    Column("digest", LargeBinary, primary_key=True),
    Column("data", LargeBinary, nullable=False),
    **KEYED,
)
