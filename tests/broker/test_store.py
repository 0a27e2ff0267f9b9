"""The store: its tables and their migrations, what a foreign or damaged database gets, proofs from tiles."""

import sqlite3
import threading
from contextlib import closing, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select

from tallystick.broker import database, migrating, tables
from tallystick.broker.leaflog import LeafLog
from tallystick.broker.store import Store
from tallystick.core.errors import Malformed, Misuse, NotGenuine, TallystickError, Unreachable, Unsupported
from tallystick.tlog.merkle import Tree, leaf_hash, verify_consistency, verify_inclusion
from tallystick.tlog.tiles import TiledTree, completed


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    path = tmp_path_factory.mktemp("empty") / "store.sqlite"
    Store.create(path)
    return path.read_bytes()


@pytest.fixture
def place(empty, tmp_path):
    path = tmp_path / "store.sqlite"
    path.write_bytes(empty)
    return path


def change(place, statement, *values):
    with closing(sqlite3.connect(place)) as db, db:
        db.execute(statement, values)


def test_the_migrations_make_the_tables_that_the_program_uses(place):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = database.connect(place)
    with database.reading(engine, place) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.METADATA) == []
        assert migrating.revision(connection) == migrating.LATEST
    engine.dispose()


def test_the_latest_revision_is_the_one_that_is_checked():
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(migrating._folder()))
    assert script.get_heads() == [migrating.LATEST]
    assert {revision.revision for revision in script.walk_revisions()} == migrating._known()


def test_a_store_is_made_once_and_must_be_ours(place, tmp_path):
    made = tmp_path / "made"
    Store.create(made)
    assert made.stat().st_mode & 0o077 == 0
    with pytest.raises(Misuse, match="exists already"):
        Store.create(made)
    with pytest.raises(Misuse, match="run `tally broker init`"):
        Store.open(tmp_path / "none")
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(Malformed, match="want a database of this broker"):
        Store.open(garbage)


@pytest.mark.parametrize(
    ("statement", "error", "code"),
    [
        ("UPDATE alembic_version SET version_num = '0000'", Unsupported, "store.newer"),
        ("UPDATE alembic_version SET version_num = '9999'", Unsupported, "store.newer"),
        ("DROP TABLE alembic_version", Malformed, "store.foreign"),
        ("UPDATE head SET size = 1", NotGenuine, "log.altered"),
        ("UPDATE head SET root = x'00'", NotGenuine, "log.altered"),
        ("INSERT INTO decisions VALUES (0, 'd', x'00', x'00')", NotGenuine, "log.shorter"),
    ],
)
def test_a_store_that_is_not_as_it_should_be_is_refused(place, statement, error, code):
    change(place, statement)
    with pytest.raises(error) as caught:
        Store.open(place)
    assert caught.value.code == code


def test_an_older_store_is_refused_until_it_is_migrated(place, monkeypatch):
    monkeypatch.setattr(migrating, "LATEST", "9999")
    with pytest.raises(Misuse, match="run `tally broker migrate`") as caught:
        Store.open(place)
    assert caught.value.code == "store.older"


def test_an_empty_database_is_no_store_until_it_is_made(tmp_path):
    path = tmp_path / "store.sqlite"
    path.touch()
    with pytest.raises(Misuse) as caught:
        Store.open(path)
    assert caught.value.code == "store.empty"
    engine = database.connect(path)
    assert migrating.migrate(engine, path) == (None, migrating.LATEST)
    assert migrating.migrate(engine, path) == (migrating.LATEST, migrating.LATEST)
    engine.dispose()
    Store.open(path).close()


def test_a_migration_that_fails_leaves_the_database_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "store.sqlite"
    path.touch()
    engine = database.connect(path)

    def broken(*args):
        raise Unreachable("disk full", code="store.unreachable")

    monkeypatch.setattr("alembic.operations.Operations.bulk_insert", broken)
    with pytest.raises(Unreachable):
        migrating.migrate(engine, path)
    with database.reading(engine, path) as connection:
        assert migrating.revision(connection) is None
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", "store.url"),
        ("postgresql+psycopg://u:secret@h/d", "store.password"),
        ("postgresql://h/d", "unsupported"),
        ("sqlite:///x", "unsupported"),
        ("postgresql+psycopg://h:port/d", "store.url"),
    ],
)
def test_a_store_s_url_is_one_of_postgresql_without_a_password(url, code):
    with pytest.raises(TallystickError) as caught:
        database.url_of(url)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


@given(st.text())
def test_any_text_is_a_url_or_refused_by_name(text):
    with suppress(Malformed, Unsupported, Misuse):
        assert database.url_of(text).drivername == database.POSTGRESQL


def test_a_batch_that_raises_leaves_nothing(place):
    store = Store.open(place)

    def fail():
        with store.batch() as batch:
            batch.append([("d", b"leaf", b"record")])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert store.head().size == 0
    store.close()
    Store.open(place).close()


def test_a_database_that_goes_away_is_unreachable_and_says_no_value(place, monkeypatch):
    store = Store.open(place)
    change(place, "DROP TABLE nonces")
    with pytest.raises(Unreachable) as caught, store.batch() as batch:
        batch.used([b"secret"])
    assert caught.value.code == "store.unreachable"
    assert "secret" not in str(caught.value)
    store.close()


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.data())
@settings(deadline=None, max_examples=20)
def test_proofs_from_tiles_are_those_of_the_tree(sizes, data):
    """A tree of several levels of tiles, grown in any steps, proves what one in memory proves."""
    whole, leaves, tree = {}, [], Tree()
    for size in sizes:
        older = tree.size
        for _ in range(size):
            leaves.append(leaf_hash(b"%d" % len(leaves)))
            tree.grow(leaves[-1])
        for level, number in completed(older, tree.size):
            assert level == 0
            whole[level, number] = b"".join(leaves[number * 256 : (number + 1) * 256])
    tiled = TiledTree(tree.size, lambda *at: whole[at], lambda a, b: b"".join(leaves[a:b]))
    index = data.draw(st.integers(0, tree.size - 1))
    older = data.draw(st.integers(1, tree.size))
    assert tiled.leaf(index) == leaves[index]
    assert tiled.inclusion(index) == tree.inclusion(index)
    assert tiled.consistency(older) == tree.consistency(older)
    assert (tiled.root(), tiled.root(older)) == (tree.root(), tree.root(older))


def test_tiles_become_whole_level_by_level():
    assert completed(0, 255) == ()
    assert completed(255, 513) == ((0, 0), (0, 1))
    assert completed(65535, 65536) == ((0, 255), (1, 0))
    assert completed(2**24 - 1, 2**24) == ((0, 65535), (1, 255), (2, 0))


def test_a_log_of_many_batches_proves_every_leaf_and_its_own_past(place):
    store = Store.open(place)
    for start in range(0, 700, 70):
        with store.batch() as batch:
            batch.append([(f"d{at}", b"leaf %d" % at, b"record") for at in range(start, start + 70)])
    log = LeafLog(store)
    kept = list(log.decisions())
    assert [one.leaf for one in kept] == [b"leaf %d" % at for at in range(700)]
    for at in (0, 255, 256, 511, 512, 699):
        assert log.leaf(kept[at]) == kept[at].leaf
        verify_inclusion(leaf_hash(kept[at].leaf), at, 700, log.inclusion(at), log.head().root)
    for older in (1, 256, 257, 699):
        verify_consistency(older, log.root(older), 700, log.head().root, log.consistency(older))
    store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM decisions WHERE position = 3",
        "UPDATE decisions SET leaf = x'00' WHERE position = 3",
        "UPDATE decisions SET leaf = x'00' WHERE position = 260",
    ],
)
def test_a_leaf_that_is_gone_or_altered_is_noticed(place, statement):
    store = Store.open(place)
    with store.batch() as batch:
        batch.append([(f"d{at}", b"leaf", b"record") for at in range(300)])
    change(place, statement)
    with pytest.raises(NotGenuine) as caught:
        list(LeafLog(store).decisions())
    assert caught.value.code == "log.altered"
    store.close()


def test_a_tile_that_is_gone_is_noticed_where_a_proof_needs_it(place):
    store = Store.open(place)
    with store.batch() as batch:
        batch.append([(f"d{at}", b"leaf", b"record") for at in range(300)])
    change(place, "DELETE FROM tiles")
    with pytest.raises(NotGenuine) as caught:
        LeafLog(store).inclusion(7)
    assert caught.value.code == "log.altered"
    store.close()


def test_two_stores_over_one_file_take_turns(place):
    first, second = Store.open(place), Store.open(place)
    with first.batch() as batch:
        batch.append([("a", b"a", b"")])
    with second.batch() as batch:
        assert batch.size == 1
        batch.append([("b", b"b", b"")])
    assert first.head() == second.head()
    first.close()
    second.close()


def test_a_store_opens_while_another_process_writes(place):
    """Head and leaves are looked at as of one moment."""
    store, stop = Store.open(place), threading.Event()

    def write():
        for number in range(10_000):
            if stop.is_set():
                return
            with store.batch() as batch:
                batch.append([(f"d{number}", b"leaf", b"record")])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            Store.open(place).close()
    finally:
        stop.set()
        writer.join()
        store.close()


def test_what_others_keep_goes_into_the_same_transaction(place):
    """Other modules' tables: they write with the batch's own connection and read with the store's."""
    store = Store.open(place)
    with store.batch() as batch:
        batch.connection.execute(insert(tables.policies), {"digest": b"d", "data": b"p"})
    with store.reading() as connection:
        assert connection.execute(select(tables.policies.c.data)).scalar() == b"p"
    store.close()
