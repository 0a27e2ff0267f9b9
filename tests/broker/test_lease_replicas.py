"""Leases of replicas over one PostgreSQL: granted by one, renewed by another, ended by whichever hears first."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta

import pytest
import support_postgres
from broker.records import load
from broker.world import WEIGHTS, Machine, Running, World, form, new_world, release

from tallystick.appraisal.horizon import SECOND
from tallystick.broker import lease_table, leasing, whatif
from tallystick.broker.app import RENEW_PATH
from tallystick.broker.archive import Archive, StoredCasebook
from tallystick.broker.config import Lifetimes
from tallystick.handshake.jwe import TeeKeyPair

LONG = Lifetimes(sweep=timedelta(hours=9))


@pytest.fixture(scope="module")
def server():
    with support_postgres.serving() as found:
        yield found


@pytest.fixture
def world(server, request, tmp_path):
    return new_world(tmp_path / "one", store=server.database(request.node.name[:60]), lifetimes=LONG)


def replica(world: World) -> World:
    """Another machine: a copy of the broker's folder, and of the channel as it is now."""
    folder = world.folder.parent / "two"
    shutil.copytree(world.folder, folder)
    channel = replace(world.channel, folder=type(world.channel.folder)(folder / "staging"))
    return replace(world, folder=folder, channel=channel)


def renewed(running: Running, pair: TeeKeyPair) -> list[dict[str, object]]:
    cookie, reply = running.attest(Machine(), pair)
    assert reply.status == 200, reply.body
    return running.ask("POST", RENEW_PATH, b"", cookie=cookie).json["leases"]


def test_a_lease_belongs_to_all_replicas(world, pair, monkeypatch):
    monkeypatch.setattr(leasing, "_DRAINS_SECONDS", 0)
    other = replica(world)
    with world.running() as one, other.running() as two:
        cookie, _ = one.attest(Machine(), pair)
        assert one.fetch(cookie).status == 200
        world.clock.forward(seconds=100)
        (said,) = renewed(two, pair)
        assert (said["state"], said["expires_at"]) == ("live", "2026-11-22T12:06:40Z")
        now = world.clock.at
        drain, covered = leasing.order(
            two.broker.store, reason="x", key=WEIGHTS, release="", lease="", now=now
        )
        assert len(covered) == 1
        assert one.fetch(cookie).code == "lease.draining"
        leasing.lift(one.broker.store, drain.id, now=now)
        assert two.fetch(cookie).status == 200
        policy = form(release("b"))
        for each in (one, two):
            archive = Archive(each.broker.store, each.broker.vault.sealer, keep=timedelta(days=1))
            report = whatif.replay(StoredCasebook(each.broker.store, archive), load(policy).data, policy)
            denied = report.of(whatif.Change.DENIED)  # the drained one as well: the policy had allowed it
            assert (len(denied), len(report.replayed)) == (3, 3)


def test_a_revocation_that_one_hears_ends_leases_for_all_and_stops_who_has_not_heard(world, pair):
    other = replica(world)
    with world.running() as one, other.running() as two:
        cookie, _ = two.attest(Machine(), pair)
        assert two.fetch(cookie).status == 200
        world.revoke(release())  # in the first replica's copy of the channel alone
        assert one.broker.sweep() == 1
        assert {said["state"] for said in _told(two, pair)} <= {"ended"}  # who is behind renews nothing
        reply = two.fetch(cookie)
        assert reply.status in (403, 503)
        with two.broker.store.reading() as connection:
            (lease,) = lease_table.find(connection)
        assert lease.reasons == ("release.revoked",)
        assert lease.ended_at is not None
        assert lease.expires_at - SECOND > lease.ended_at


def _told(running: Running, pair: TeeKeyPair) -> list[dict[str, object]]:
    cookie, _ = running.attest(Machine(), pair)
    reply = running.ask("POST", RENEW_PATH, b"", cookie=cookie)
    return reply.json["leases"] if reply.status == 200 else []
