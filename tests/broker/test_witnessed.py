"""A log under a witness's eyes: a restored backup, a forked log and a witness that nobody trusts stop the broker."""

import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest
from broker.world import NOW, Machine, new_world, trust
from cryptography.hazmat.primitives.asymmetric import ed25519

from tallystick.broker import logkey
from tallystick.broker.config import Lifetimes
from tallystick.core.errors import NotGenuine, Refused, Unreachable
from tallystick.signing import records
from tallystick.tlog import checkpoint as cp
from tallystick.tlog import witness_http
from tallystick.tlog.merkle import EMPTY_ROOT
from tallystick.tlog.witness import Witness

NAME = "witness.example.org/w1"
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = cp.NoteKey(name=NAME, kind=cp.Kind.COSIGNATURE, public=KEY.public_key())


@pytest.fixture
def world(tmp_path):
    made = new_world(tmp_path / "world")
    (tmp_path / "witness").mkdir()
    log = logkey.load(made.home.log_key).note_key
    witness = Witness(name=NAME, key=KEY, logs=((log.name, log),), folder=tmp_path / "witness")
    known = records.Witness(name=NAME, holder="w", public_key=KEY.public_key().public_bytes_raw())
    trusted = replace(trust(made.channel), witnesses=(known,))
    with witness_http.serving(witness, "127.0.0.1", 0, lambda: NOW) as url:
        yield replace(made, witnesses=(url,), trusted=trusted)


def copy(world, folder):
    shutil.copytree(world.home.folder, folder)


def restore(world, folder):
    shutil.rmtree(world.home.folder)
    shutil.copytree(folder, world.home.folder)


def test_the_checkpoint_has_the_witness_s_line_when_it_has_seen_it(world, pair):
    with world.running() as running:
        empty = running.ask("GET", "/tally/v0/log/checkpoint").body.decode()
        assert cp.cosigned_at(cp.parse_note(empty), PUBLIC) == NOW
        running.attest(Machine(), pair)
        later = running.ask("GET", "/tally/v0/log/checkpoint").body.decode()
        assert "\n2\n" in later
        assert NAME not in later, "not yet: it is shown every ten seconds"
        running.broker.witnessing.show()
        assert NAME in running.ask("GET", "/tally/v0/log/checkpoint").body.decode()


def test_a_restored_backup_is_refused_at_the_start(world, pair, tmp_path):
    copy(world, tmp_path / "backup")
    with world.running() as running:
        running.attest(Machine(), pair)
    restore(world, tmp_path / "backup")
    with pytest.raises(NotGenuine, match="2 leaves or more, got 0") as caught:
        world.open()
    assert caught.value.code == "log.behind-witness"


def test_a_log_that_went_on_from_a_backup_is_another_log(world, pair, tmp_path):
    with world.running() as running:
        running.attest(Machine(), pair)
    copy(world, tmp_path / "backup")
    with world.running() as running:
        running.attest(Machine(), pair)
    restore(world, tmp_path / "backup")
    unwatched = replace(world, witnesses=())
    with unwatched.running() as running:
        running.attest(Machine(image="b"), pair)
        running.attest(Machine(image="b"), pair)
    with pytest.raises(NotGenuine, match="another log of") as caught:
        world.open()
    assert caught.value.code == "log.forked"


def test_a_backup_restored_under_a_running_broker_ends_its_releases(world, pair, tmp_path):
    quick = replace(world, lifetimes=Lifetimes(witness=timedelta(seconds=0.05)))
    with quick.running() as running:
        cookie, _ = running.attest(Machine(), pair)
        assert running.fetch(cookie).status == 200
        time.sleep(0.3)
        with closing(sqlite3.connect(world.home.store)) as db, db:  # as if an older copy had been put back
            db.execute("DELETE FROM decisions")
            db.execute("UPDATE head SET size = 0, frontier = x'', root = ?", (EMPTY_ROOT,))
        time.sleep(0.3)
        assert running.ask("GET", "/readyz").status == 503
        refused = running.fetch(cookie)
        assert (refused.status, refused.code) == (401, "log.behind-witness")


def test_a_witness_that_is_away_stops_the_start_and_not_the_service(world, pair):
    with world.running() as running:
        running.broker.witnessing._urls = ("http://127.0.0.1:1",)
        with pytest.raises(Unreachable):
            running.broker.witnessing.show()
        cookie, _ = running.attest(Machine(), pair)
        assert running.fetch(cookie).status == 200
        assert running.ask("GET", "/readyz").status == 200
    with pytest.raises(Unreachable) as caught:
        replace(world, witnesses=("http://127.0.0.1:1",)).open()
    assert caught.value.code == "witness.unreachable"


def test_a_witness_without_a_key_in_the_trust_file_is_none(world):
    with pytest.raises(NotGenuine, match="no witness in the trust file, got " + NAME) as caught:
        replace(world, trusted=trust(world.channel)).open()
    assert caught.value.code == "witness.unknown"
    other = records.Witness(name=NAME, holder="w", public_key=bytes(range(32)))
    with pytest.raises(NotGenuine) as caught:
        replace(world, trusted=replace(world.trusted, witnesses=(other,))).open()
    assert caught.value.code == "log.checkpoint"


def test_a_restored_backup_whose_clock_was_set_back_is_refused(world, pair):
    with world.running() as running:
        running.attest(Machine(), pair)
    world.clock.forward(hours=-1)
    with pytest.raises(Refused) as caught:
        world.open()
    assert caught.value.code == "clock.behind"
