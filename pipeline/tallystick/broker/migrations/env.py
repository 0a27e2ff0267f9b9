"""What Alembic runs for every migration: on the connection that ``migrating.py`` hands over, in one transaction."""

from __future__ import annotations

from alembic import context

from tallystick.broker.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA, render_as_batch=True
)
context.run_migrations()
