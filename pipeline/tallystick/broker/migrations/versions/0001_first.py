"""The first tables: log, decisions, nonces, sessions, channels, policies."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa
from alembic import op

from tallystick.broker.tables import BIG, KEYED, STRICT

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables, and the head of an empty log."""
    head = op.create_table(
        "head",
        sa.Column("id", BIG, primary_key=True, autoincrement=False),
        sa.Column("size", BIG, nullable=False),
        sa.Column("root", sa.LargeBinary, nullable=False),
        sa.Column("frontier", sa.LargeBinary, nullable=False),
        sa.Column("seen_at", BIG, nullable=False),
        **STRICT,
    )
    empty = {"id": 1, "size": 0, "root": hashlib.sha256(b"").digest(), "frontier": b"", "seen_at": 0}
    op.bulk_insert(head, [empty])
    op.create_table(
        "decisions",
        sa.Column("position", BIG, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("leaf", sa.LargeBinary, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        **STRICT,
    )
    op.create_table(
        "tiles",
        sa.Column("level", BIG, primary_key=True, autoincrement=False),
        sa.Column("number", BIG, primary_key=True, autoincrement=False),
        sa.Column("hashes", sa.LargeBinary, nullable=False),
        **KEYED,
    )
    op.create_table(
        "nonces",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("used_at", BIG, nullable=False, index=True),
        **KEYED,
    )
    op.create_table(
        "sessions",
        sa.Column("name", sa.LargeBinary, primary_key=True),
        sa.Column("attestation", sa.Text, nullable=False),
        sa.Column("proof", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", BIG, nullable=False, index=True),
        **KEYED,
    )
    op.create_table(
        "channels",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("epoch", sa.LargeBinary, nullable=False),
        sa.Column("high_water", sa.LargeBinary, nullable=False),
        **KEYED,
    )
    op.create_table(
        "policies",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
        **KEYED,
    )
    op.create_table(
        "sealed_keys",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", BIG, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        **KEYED,
    )
