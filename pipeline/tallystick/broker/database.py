"""Where the store is: a SQLite file (WAL) by default, PostgreSQL for replicas. What has been committed is on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, create_engine, event, exc, make_url

from tallystick.core.errors import Malformed, Misuse, Unreachable, Unsupported

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

Place = Path | str  # a SQLite file, or the URL of a PostgreSQL database
POSTGRESQL = "postgresql+psycopg"
_BUSY_SECONDS = 10.0
_CONNECT_SECONDS = 10
_IDLE_SECONDS = 10  # a process that stands still inside a batch lets go of the lock after these
_WRITES = "tallystick_writes"  # the execution option of a connection that begins by taking the write lock


def url_of(place: Place) -> URL:
    """Return SQLAlchemy's URL of ``place``.

    Raises:
        Malformed: text that is no URL (``store.url``).
        Unsupported: another database.
        Misuse: it carries a password, which every user of the machine could read in the process list.
    """
    if isinstance(place, Path):
        return URL.create("sqlite", database=str(place.absolute()))
    try:
        url = make_url(place)
    except (exc.ArgumentError, ValueError):
        raise Malformed(
            "--store", at="URL", want=f"{POSTGRESQL}://…", got="something else", code="store.url"
        ) from None
    if url.drivername != POSTGRESQL:
        raise Unsupported("--store", at="URL", want=f"{POSTGRESQL}://…", got=url.drivername)
    if url.password is not None:
        raise Misuse(
            "--store: a password would be seen in the process list; PGPASSFILE names a file for it",
            code="store.password",
        )
    return url


def name_of(place: Place) -> str:
    """Return how messages name ``place``."""
    return str(place)


def connect(place: Place) -> Engine:
    """Return the engine for ``place``; nothing is asked of the database yet.

    Raises:
        Malformed, Unsupported, Misuse: as :func:`url_of`; or the driver is not installed (``store.driver``).
    """
    url = url_of(place)
    if isinstance(place, Path):
        engine = create_engine(url, connect_args={"timeout": _BUSY_SECONDS})
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        engine = create_engine(url, connect_args={"connect_timeout": _CONNECT_SECONDS})
    except ModuleNotFoundError:
        raise Misuse(
            "--store: PostgreSQL needs psycopg: pip install 'tallystick[postgresql]'", code="store.driver"
        ) from None
    event.listen(engine, "connect", _set_up_postgresql)
    return engine


@contextmanager
def reading(engine: Engine, place: Place) -> Iterator[Connection]:
    """Give a connection that reads; each statement sees what is committed by then.

    Raises:
        Unreachable, Malformed: as :func:`named`.
    """
    with named(place), _reader(engine).connect() as connection:
        yield connection


@contextmanager
def writing(engine: Engine, place: Place) -> Iterator[Connection]:
    """Give one transaction that is durable when the block has ended, and undone when it raises.

    Raises:
        Unreachable, Malformed: as :func:`named`.
    """
    with named(place), engine.connect() as connection:
        chosen = connection.execution_options(**{_WRITES: True})
        with chosen.begin():
            yield chosen


@contextmanager
def named(place: Place) -> Iterator[None]:
    """Say what the drivers' errors mean for the reader.

    Raises:
        Unreachable: locked, full, or nobody answers (``store.unreachable``).
        Malformed: a damaged or foreign database.
    """
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.TimeoutError) as error:
        message = f"broker store: {name_of(place)}: {_cause(error)}"
        raise Unreachable(message, code="store.unreachable") from None
    except exc.DBAPIError as error:
        if error.connection_invalidated:
            message = f"broker store: {name_of(place)}: {_cause(error)}"
            raise Unreachable(message, code="store.unreachable") from None
        raise Malformed(
            "broker store", at=name_of(place), want="a database of this broker", got=_cause(error)
        ) from None


def _cause(error: exc.SQLAlchemyError) -> str:
    """Return the first line of what the driver said: no statement and no parameter."""
    said = str(getattr(error, "orig", None) or error).strip().splitlines()
    return said[0] if said else type(error).__name__


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the "begin" event says BEGIN, not the driver
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get(_WRITES, False):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _reader(engine: Engine) -> Engine:
    """Return ``engine`` without transactions around what is read: on PostgreSQL they cost two round trips."""
    return engine.execution_options(isolation_level="AUTOCOMMIT") if engine.name == "postgresql" else engine


def _set_up_postgresql(connection: Any, _: object) -> None:
    """Refuse a server that would lose what it said it has committed; bound how long one process holds the others.

    Source: PostgreSQL 15, "Write Ahead Log" (fsync, synchronous_commit) and "Client Connection Defaults".
    """
    with connection.cursor() as cursor:
        for name in ("fsync", "synchronous_commit"):
            cursor.execute(f"SHOW {name}")
            (value,) = cursor.fetchone()
            if value == "off":
                connection.close()
                raise Unreachable(
                    f"broker store: {name} is off: the server would lose what it has committed",
                    code="store.not-durable",
                )
        for name, seconds in (
            ("idle_in_transaction_session_timeout", _IDLE_SECONDS),
            ("lock_timeout", 2 * _IDLE_SECONDS),
        ):
            cursor.execute("SELECT set_config(%s, %s, false)", (name, f"{seconds}s"))
    connection.commit()
