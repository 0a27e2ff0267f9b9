"""Sealed keys in the broker's store, where every replica finds them. Who administers the database sees none of them."""

from __future__ import annotations

from threading import Lock

from sqlalchemy import delete, insert, select

from tallystick.broker.places import NEW, Kept, raced
from tallystick.broker.store import Store
from tallystick.broker.tables import sealed_keys


class StorePlace:
    """One row for each document."""

    __slots__ = ("_lock", "_store", "_url")

    def __init__(self, url: str) -> None:
        """Hold the store's URL; it is opened when something is first asked of it, and stays open."""
        self._url = url
        self._store: Store | None = None
        self._lock = Lock()

    def read(self, name: str) -> Kept | None:
        """Return the document, as :meth:`Place.read`; errors as :meth:`Store.open`."""
        query = select(sealed_keys.c.data, sealed_keys.c.version).where(sealed_keys.c.name == name)
        with self._opened().reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Kept(bytes(row.data), int(row.version))

    def write(self, name: str, data: bytes, *, after: int) -> None:
        """Keep ``data``, as :meth:`Place.write`."""
        mine = sealed_keys.c.name == name
        with self._opened().batch() as batch:
            found = batch.connection.execute(select(sealed_keys.c.version).where(mine)).scalar()
            if (NEW if found is None else found) != after:
                raise raced()
            batch.connection.execute(delete(sealed_keys).where(mine))
            row = {"name": name, "version": after + 1, "data": data}
            batch.connection.execute(insert(sealed_keys), row)

    def names(self) -> tuple[str, ...]:
        """Return the names of all documents, sorted."""
        with self._opened().reading() as connection:
            return tuple(
                connection.execute(select(sealed_keys.c.name).order_by(sealed_keys.c.name)).scalars()
            )

    def _opened(self) -> Store:
        with self._lock:
            if self._store is None:
                self._store = Store.open(self._url)
            return self._store
