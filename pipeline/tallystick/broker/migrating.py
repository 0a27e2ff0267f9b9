"""Bringing a database to the tables of this program: making it, and moving an older one on (``tally broker migrate``).

A broker never migrates by itself: other replicas of an older version may be running beside it. It says what to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from tallystick.broker.database import Place, name_of, writing
from tallystick.core.errors import Malformed, Misuse, Unsupported

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

LATEST = "0002"  # the revision that tables.py describes; a test holds it against migrations/
_TABLE = "alembic_version"


def revision(connection: Connection) -> str | None:
    """Return the revision of a database; None for one that is empty.

    Raises:
        Malformed: it has tables, and they are not ours (``store.foreign``).
    """
    names = inspect(connection).get_table_names()
    if not names:
        return None
    if _TABLE not in names:
        raise Malformed(
            "broker store",
            at="tables",
            want="those of a broker",
            got=", ".join(sorted(names)),
            code="store.foreign",
        )
    found = connection.execute(text(f"SELECT version_num FROM {_TABLE}")).scalar()  # noqa: S608 - a constant
    return None if found is None else str(found)


def check(connection: Connection, place: Place) -> None:
    """Check that the database has the tables of this program.

    Raises:
        Misuse: there are none yet (``store.empty``), or older ones (``store.older``).
        Unsupported: newer ones (``store.newer``).
    """
    found = revision(connection)
    if found == LATEST:
        return
    if found is None:
        raise Misuse(f"there is no broker in {name_of(place)}; run `tally broker init`", code="store.empty")
    if found in _known():
        raise Misuse(
            f"the store {name_of(place)} is at revision {found} and this program at {LATEST}:"
            " back it up, stop its brokers and run `tally broker migrate`",
            code="store.older",
        )
    raise Unsupported(
        "broker store", at=name_of(place), want=f"revision {LATEST} or older", got=found, code="store.newer"
    )


def migrate(engine: Engine, place: Place) -> tuple[str | None, str]:
    """Bring the database to the latest revision, in one transaction; return the one it was at, and the latest.

    Raises:
        Unsupported: it is newer than this program (``store.newer``).
        Malformed: its tables are not ours.
        Unreachable: the database does not answer, or a broker holds its tables for too long.
    """
    from alembic import command
    from alembic.config import Config

    with writing(engine, place) as connection:
        before = revision(connection)
        if before is not None and before not in _known():
            check(connection, place)
        config = Config()
        config.set_main_option("script_location", str(_folder()))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, LATEST


def _known() -> frozenset[str]:
    return frozenset(path.name[:4] for path in (_folder() / "versions").glob("[0-9]*_*.py"))


def _folder() -> Path:
    return Path(__file__).with_name("migrations")
