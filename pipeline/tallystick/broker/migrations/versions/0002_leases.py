"""Leases and drains; recorded evidence, its keys, and what it was verified with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tallystick.broker.tables import BIG, KEYED, STRICT

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "leases",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("release", sa.Text, nullable=False, index=True),
        sa.Column("holder", sa.Text, nullable=False, index=True),
        sa.Column("attestation", sa.Text, nullable=False),
        sa.Column("issued_at", BIG, nullable=False),
        sa.Column("renewed_at", BIG, nullable=False),
        sa.Column("expires_at", BIG, nullable=False, index=True),
        sa.Column("because", sa.Text, nullable=False),
        sa.Column("ended_at", BIG),
        sa.Column("reasons", sa.Text, nullable=False),
        **KEYED,
    )
    op.create_table(
        "drains",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", BIG, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("release", sa.Text, nullable=False),
        sa.Column("lease", sa.Text, nullable=False),
        **KEYED,
    )
    op.create_table(
        "postures",
        sa.Column("channel", sa.Text, primary_key=True),
        sa.Column("epoch", sa.LargeBinary, nullable=False),
        **KEYED,
    )
    op.create_table(
        "evidence",
        sa.Column("attestation", sa.Text, primary_key=True),
        sa.Column("day", sa.Text, nullable=False, index=True),
        sa.Column("backing", sa.LargeBinary, nullable=False, index=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        **STRICT,
    )
    op.create_table(
        "evidence_keys",
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        **KEYED,
    )
    op.create_table(
        "backings",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
        **KEYED,
    )
