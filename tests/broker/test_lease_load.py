"""Many leases at once, and kills in the middle: seeded samples here, the whole counts with ``-m soak``."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from broker.records import NOW, WEIGHTS, Book, form, load, machine
from broker.world import Machine, World, new_world, release

from tallystick.broker import lease_table, leases, leasing, whatif
from tallystick.broker.config import Lifetimes
from tallystick.broker.leases import State
from tallystick.broker.service import Broker
from tallystick.broker.store import Store
from tallystick.handshake.jwe import TeeKeyPair

LONG = Lifetimes(sweep=timedelta(hours=9))
INTERVAL = timedelta(seconds=form().reattest_seconds)


def broker_with(folder: Path, count: int) -> tuple[World, Broker]:
    """A broker on whose store ``count`` machines hold a key each; they share one attestation and one moment."""
    world = new_world(folder, lifetimes=LONG)
    with world.running() as running:
        cookie, _ = running.attest(Machine(), TeeKeyPair.make())
        assert running.fetch(cookie).status == 200
        with running.broker.store.reading() as connection:
            (first,) = lease_table.find(connection)
    store = Store.open(world.home.store)
    with store.batch() as batch:
        for number in range(1, count):
            lease_table.add(
                batch.connection, replace(first, id=f"lease-{number:06}", holder=f"holder-{number}")
            )
    store.close()
    return world, world.open()


def written(batch, lease: leases.Lease) -> None:
    assert lease_table.change(batch.connection, lease)


def renewing(broker: Broker, world: World, count: int) -> float:
    """Renew every lease once, each as its own request with its own leaf, and return the seconds it took."""
    with broker.store.reading() as connection:
        held = lease_table.find(connection)
    proved = broker.leasing.attested(held[0].attestation)
    now = world.clock.forward(seconds=100)
    fresh = replace(proved, challenge=replace(proved.challenge, issued_at=now))

    async def one(lease: leases.Lease) -> None:
        state = broker.policies.current(now)
        verdict = leasing.judge(lease.key, fresh, state, now=now)
        found = leases.renewed(lease, verdict, fresh, state, now=now)
        found = replace(found, holder=lease.holder)
        made = leasing._leaf(found, (), attestation=fresh.attestation, now=now)
        await broker.ledger.record([made], now=now, also=lambda batch: written(batch, found))

    async def all_of_them() -> None:
        await asyncio.gather(*map(one, held))

    began = time.perf_counter()
    asyncio.run(all_of_them())
    taken = time.perf_counter() - began
    with broker.store.reading() as connection:
        assert (
            len(tuple(lease_table.held(connection, now + INTERVAL - timedelta(seconds=1), channel="staging")))
            == count
        )
    return taken


def test_many_leases_renew_and_end(tmp_path):
    world, broker = broker_with(tmp_path, 200)
    try:
        renewing(broker, world, 200)
        world.revoke(release())
        assert broker.sweep() == 200
        with broker.store.reading() as connection:
            assert {one.reasons for one in lease_table.find(connection)} == {("release.revoked",)}
    finally:
        broker.close()


@pytest.mark.soak
def test_ten_thousand_leases_renew_within_their_interval(tmp_path):
    """All of them at once, a leaf each, on two cores: a small part of the interval in which they must."""
    count = 10_000
    world, broker = broker_with(tmp_path, count)
    try:
        taken = renewing(broker, world, count)
        sys.stderr.write(f"{count} renewals in {taken:.1f} s\n")
        assert taken < INTERVAL.total_seconds() / 2
        world.revoke(release())
        began = time.perf_counter()
        assert broker.sweep() == count
        sys.stderr.write(f"{count} leases ended in {time.perf_counter() - began:.1f} s\n")
    finally:
        broker.close()


def recorded(count: int) -> Book:
    made, policy = Book(), form(release("a"))
    for number in range(count):
        at = NOW - timedelta(seconds=number)
        made.decide(made.attest(machine(at, "ab"[number % 2]), at, f"attestation-{number}"), policy)
    return made


@pytest.mark.soak
def test_what_if_over_ten_thousand_records_takes_less_than_a_minute():
    book, policy = recorded(10_000), form(release("b"))
    began = time.perf_counter()
    report = whatif.replay(book, load(policy).data, policy)
    taken = time.perf_counter() - began
    sys.stderr.write(f"10,000 records replayed in {taken:.1f} s\n")
    assert (len(report.of(whatif.Change.ALLOWED)), len(report.of(whatif.Change.DENIED))) == (5000, 5000)
    assert taken < 60


# kill -9 while draining and sweeping


_CHILD = """
import sys
from pathlib import Path
from broker.test_lease_load import child
child(Path(sys.argv[1]))
"""


def child(folder: Path) -> None:
    """Order a drain and end every lease, in a process that will be killed somewhere."""
    from datetime import timedelta

    store = Store.open(folder / "broker" / "store.sqlite")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    leasing._CHUNK = 3
    now = NOW + timedelta(seconds=1)
    leasing.order(store, reason="maintenance", key=WEIGHTS, release="", lease="", now=now)
    work = leasing.Leasing(store)
    with store.reading() as connection:
        held = tuple(lease_table.held(connection, now, channel="staging"))
    finding = leases.Finding("release.revoked", "release", "another", "this")
    over = [leases.ended(one, (finding,), now=now) for one in held]
    pairs = [(one, leasing._leaf(one, (finding,), attestation=one.attestation, now=now)) for one in over]
    for start in range(0, len(pairs), leasing._CHUNK):
        work._end(pairs[start : start + leasing._CHUNK], now)
    sys.stdout.write("done\n")
    sys.stdout.flush()


def killed(folder: Path, seed: int, *, kills: int) -> None:
    """Kill the work at a random moment until it is through; the store holds at every turn."""
    draw = random.Random(seed)
    world, broker = broker_with(folder, 30)
    broker.close()
    path = os.pathsep.join(("pipeline", "tests"))
    for attempt in range(kills + 1):
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(world.folder)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if attempt < kills:
            time.sleep(draw.random() * 0.06)
            process.send_signal(signal.SIGKILL)
        said = process.stdout.read()
        process.wait()
        process.stdout.close()
        if said == "done\n":
            break
    leaves = [leaf for leaf in world.leaves() if leaf["kind"] == "lease"]
    store = Store.open(world.home.store)
    try:
        with store.reading() as connection:
            assert {one.state(NOW) for one in lease_table.find(connection)} <= {State.LIVE, State.ENDED}
            ended = [one.id for one in lease_table.find(connection) if one.ended_at is not None]
            assert len(lease_table.standing(connection)) == 1  # ordered again and again, it is one
    finally:
        store.close()
    assert sorted(leaf["lease"] for leaf in leaves if leaf["event"] == "ended") == sorted(ended)
    assert len(ended) == 30
    assert [leaf["event"] for leaf in leaves].count("drain") == 1


@pytest.mark.slow
def test_a_drain_that_is_killed_goes_on(tmp_path):
    killed(tmp_path, 1, kills=2)


@pytest.mark.soak
def test_a_drain_that_is_killed_a_hundred_times_goes_on(tmp_path):
    for seed in range(20):
        (tmp_path / f"{seed}").mkdir()
        killed(tmp_path / f"{seed}", seed, kills=5)
