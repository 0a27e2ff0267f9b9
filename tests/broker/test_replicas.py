"""Replicas over one PostgreSQL: one log, one memory of nonces, policies and revocations, also when it restarts."""

import io
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import support_postgres
from broker.world import CANARY, WEIGHTS, Machine, new_world, release

from tallystick.broker import audit, database, migrating
from tallystick.broker.clock import Clock
from tallystick.broker.decisions import Kind, entry
from tallystick.broker.leaflog import LeafLog
from tallystick.broker.ledger import Ledger
from tallystick.broker.store import Store
from tallystick.broker.storeplace import StorePlace
from tallystick.broker.vault import Vault, key_id
from tallystick.cli.app import run
from tallystick.core.errors import Misuse, NotGenuine, Refused, Unreachable
from tallystick.handshake import kbs

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LIFE = timedelta(minutes=10)


@pytest.fixture(scope="module")
def server():
    with support_postgres.serving() as found:
        yield found


@pytest.fixture
def url(server, request):
    return server.database(request.node.name[:60])


@pytest.fixture
def world(url, tmp_path):
    return new_world(tmp_path / "one", store=url)


def replica(world, folder):
    """Another machine: a copy of the broker's folder, and of the channel."""
    shutil.copytree(world.folder, folder)
    channel = replace(world.channel, folder=type(world.channel.folder)(folder / "staging"))
    return replace(world, folder=folder, channel=channel)


def some(**public):
    return entry(Kind.RELEASE, now=NOW, public=public, details={})


def test_the_migrations_make_the_same_tables_on_postgresql(url):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from tallystick.broker.tables import METADATA

    Store.create(url)
    engine = database.connect(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        assert migrating.revision(connection) == migrating.LATEST
    engine.dispose()
    with pytest.raises(Misuse) as caught:
        Store.create(url)
    assert caught.value.code == "store.exists"


def test_another_program_s_database_is_left_alone(server, url):
    server.run("CREATE TABLE theirs (a int)", name=url.partition("@/")[2].partition("?")[0])
    for use in (Store.create, Store.open):
        with pytest.raises(Exception, match="theirs") as caught:
            use(url)
        assert caught.value.code == "store.foreign"


@pytest.mark.parametrize("setting", ["synchronous_commit", "fsync"])
def test_a_server_that_loses_what_it_committed_is_refused(server, url, setting):
    Store.create(url)
    try:
        server.run(f"ALTER SYSTEM SET {setting} = off")
        server.run("SELECT pg_reload_conf()")
        time.sleep(0.3)
        with pytest.raises(Unreachable, match=f"{setting} is off") as caught:
            Store.open(url)
        assert caught.value.code == "store.not-durable"
    finally:
        server.run(f"ALTER SYSTEM RESET {setting}")
        server.run("SELECT pg_reload_conf()")
        time.sleep(0.3)


def test_nobody_at_the_url_is_unreachable(tmp_path):
    with pytest.raises(Unreachable) as caught:
        Store.open(f"postgresql+psycopg://u@/d?host={tmp_path}")
    assert caught.value.code == "store.unreachable"


def test_many_writers_make_one_log_and_take_no_nonce_twice(url):
    Store.create(url)
    stores = [Store.open(url) for _ in range(4)]
    ledgers = [Ledger(store, Clock(NOW, read=lambda: NOW), nonce_life=LIFE) for store in stores]
    futures = [
        [ledger.submit([some(n=number)], now=NOW, nonce=b"%d" % number) for ledger in ledgers]
        for number in range(100)
    ]
    taken = [sum(future.exception() is None for future in of_one) for of_one in futures]
    for ledger in ledgers:
        ledger.close()
    assert taken == [1] * 100
    log = LeafLog(stores[0])
    assert log.size == 100 == len({kept.decision for kept in log.decisions()})
    for store in stores:
        assert store.head() == log.head()
        store.close()


def test_replicas_are_one_broker(world, tmp_path, pair):
    """A session begun at one attests at the other, once; keys, revocations and the log's key are the same."""
    other = replica(world, tmp_path / "two")
    machine = Machine()
    with world.running() as first, other.running() as second:
        cookie, nonce = first.challenge()
        message = first.message(first.certify(machine), nonce, pair)
        assert second.ask("POST", kbs.ATTEST_PATH, message, cookie=cookie).status == 200
        again = first.ask("POST", kbs.ATTEST_PATH, message, cookie=cookie)
        assert (again.status, again.code) == (401, "nonce.used")
        for one in (first, second):
            assert pair.decrypt(one.fetch(cookie).body) == CANARY
        heads = {one.ask("GET", "/tally/v0/log/checkpoint").body for one in (first, second)}
        assert len(heads) == 1
        first.broker.vault.generate(key_id("a/b/v1"), channel="staging", now=NOW)
        assert second.broker.vault.record(key_id("a/b/v1")).channel == "staging"
        world.revoke(release())
        assert first.fetch(cookie).code == "release.revoked"
        refused = second.fetch(cookie)
        assert refused.status == 403, "its copy of the channel is older than what the other has seen"
        assert second.ask("GET", "/readyz").status == 503
    report = audit.verify(other.home)
    assert report["kinds"] == {"attestation": 1, "policy": 2, "refusal": 3, "release": 2}


def test_one_nonce_at_many_replicas_at_once_attests_once(world, tmp_path, pair):
    other = replica(world, tmp_path / "two")
    with world.running() as first, other.running() as second, ThreadPoolExecutor(8) as pool:
        machine = first.certify(Machine())
        for _ in range(5):
            cookie, nonce = first.challenge()
            message = first.message(machine, nonce, pair)
            sent = [
                pool.submit(one.ask, "POST", kbs.ATTEST_PATH, message, cookie=cookie)
                for one in (first, second) * 2
            ]
            assert sorted(answer.result().status for answer in sent) == [200, 401, 401, 401]


def test_a_replica_makes_no_authority_that_only_it_would_believe(world, tmp_path):
    (world.home.enrolment / "software-tpm.crt").unlink()
    with pytest.raises(Misuse, match="tally broker authority software-tpm") as caught:
        world.open()
    assert caught.value.code == "enrolment.missing"


def test_sealed_keys_lie_in_the_database_and_no_secret_does(world, server, url):
    name = url.partition("@/")[2].partition("?")[0]
    rows = server.run("SELECT data FROM sealed_keys", name=name)
    assert len(rows) == 2
    assert not any(CANARY in bytes(row[0]) for row in rows)
    vault = Vault.open(world.home.vault)
    assert vault.material(key_id(WEIGHTS)).secret == CANARY
    assert [record.key for record in vault.records()] == sorted(record.key for record in vault.records())
    place = StorePlace(url)
    kept = place.read(place.names()[0])
    with pytest.raises(Refused) as caught:
        place.write(place.names()[0], b"{}", after=kept.version + 1)
    assert caught.value.code == "key.raced"
    moved = "convert_to(replace(convert_from(data, 'UTF8'), 'staging', 'debug'), 'UTF8')"
    server.run(f"UPDATE sealed_keys SET data = {moved}", name=name)  # noqa: S608
    with pytest.raises(NotGenuine):
        vault.material(key_id(WEIGHTS))


def test_a_server_that_restarts_under_load_loses_no_leaf_and_releases_no_key_without_one(world, server, pair):
    """Requests fail while it is away; what was answered is in the log; and the broker goes on by itself."""
    answered, failed = [], []
    stop = threading.Event()
    world.limits = replace(world.limits, client_rate=10_000.0)
    with world.running() as running:
        machine = running.certify(Machine())

        def hammer():
            while not stop.is_set():
                cookie, reply = running.attest(machine, pair)
                if reply.status == 200:
                    fetched = running.fetch(cookie)
                    (answered if fetched.status == 200 else failed).append(fetched)
                else:
                    failed.append(reply)

        threads = [threading.Thread(target=hammer) for _ in range(4)]
        for thread in threads:
            thread.start()
        for how in ("INT", "QUIT"):
            time.sleep(0.4)
            server.stop(signal=how)
            time.sleep(0.2)
            server.start()
        time.sleep(0.4)
        stop.set()
        for thread in threads:
            thread.join()
        assert running.attest(machine, pair)[1].status == 200, "it goes on"
    assert answered
    assert {(reply.status, reply.code) for reply in failed} == {(503, "store.unreachable")}
    report = audit.verify(world.home)
    assert report["kinds"]["release"] >= len(answered), "no key left without its leaf"


def test_a_replica_that_hangs_inside_a_batch_does_not_hold_the_others(url, monkeypatch):
    monkeypatch.setattr(database, "_IDLE_SECONDS", 1)
    Store.create(url)
    first, second = Store.open(url), Store.open(url)

    def hang():
        with first.batch() as batch:
            batch.append([("a", b"a", b"")])
            with second.batch() as other:  # waits for the first one's idle time to end
                other.append([("b", b"b", b"")])

    with pytest.raises(Unreachable):
        hang()
    assert [kept.decision for kept in LeafLog(second).decisions()] == ["b"]
    first.close()
    second.close()


def test_the_commands_work_on_a_store_in_a_database(url, tmp_path):
    def tally(*argv):
        printed = io.StringIO()
        with redirect_stdout(printed), pytest.raises(SystemExit) as end:
            run([*argv, "--workdir", str(tmp_path)])
        assert end.value.code == 0, printed.getvalue()
        return printed.getvalue()

    (tmp_path / "broker").mkdir(mode=0o700)
    tally("broker", "init", "--store", url)
    tally("broker", "authority", "software-tpm")
    tally("broker", "key", "generate", "a/b/v1", "--channel", "staging")
    assert "a/b/v1  staging  live" in tally("broker", "key", "list")
    assert "the log holds: 1 leaves" in tally("broker", "log", "verify")
    assert '"kind":"key"' in tally("broker", "log", "export")
    assert "at revision" in tally("broker", "migrate")
    assert sorted(path.name for path in (tmp_path / "broker").glob("*.sqlite*")) == []
