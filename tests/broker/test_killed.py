"""A broker that is killed at any moment: no key without its leaf, no leaf lost, and it starts again."""

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from http.client import HTTPException
from pathlib import Path

import pytest
from broker.world import CANARY, NOW, Machine, Running, World
from cryptography.hazmat.primitives import serialization

from tallystick.broker import audit
from tallystick.broker.config import Home, Lifetimes
from tallystick.broker.enrolment_ca import authority
from tallystick.handshake import kbs
from tallystick.handshake.jwe import TeeKeyPair

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'pipeline'}{os.pathsep}{ROOT / 'tests'}"}


def start(folder):
    argv = [sys.executable, str(ROOT / "tests" / "broker" / "serve_world.py"), str(folder)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    url = process.stdout.readline().decode().strip()
    assert url.startswith("http://"), "the broker starts again"
    return process, url


def certified(folder):
    """A machine with the certificate that enrolment in this broker would give it."""
    machine = Machine()
    made = authority(Home(folder / "broker").enrolment, "software-tpm", now=NOW)
    certificate = made.certify(machine.ak.public_key(), now=NOW, life=Lifetimes().ak_certificate)
    machine.certificate = certificate.public_bytes(serialization.Encoding.DER)
    return machine


def hammer(running, machine, got):
    """Attest and fetch until the broker is gone; note each public key that a key was received for."""
    try:
        while True:
            pair = TeeKeyPair.make()
            cookie, nonce = running.challenge()
            message = running.message(machine, nonce, pair)
            if running.ask("POST", kbs.ATTEST_PATH, message, cookie=cookie).status != 200:
                continue
            for _ in range(3):
                reply = running.fetch(cookie)
                assert pair.decrypt(reply.body) == CANARY
                document = json.dumps(pair.public.document(), sort_keys=True, separators=(",", ":"))
                got.append(f"sha256:{hashlib.sha256(document.encode()).hexdigest()}")
    except (OSError, AssertionError, ValueError, HTTPException):
        return


def rounds_of(folder, rounds, seed):
    chance = random.Random(seed)
    got: list[str] = []
    for _ in range(rounds):
        process, url = start(folder)
        world = World(folder=folder, channel=None)
        running = Running(broker=None, url=url, world=world)
        machine = certified(folder)
        threads = [threading.Thread(target=hammer, args=(running, machine, got)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.05, 0.6))
        process.kill()
        process.wait(10)
        process.stdout.close()
        for thread in threads:
            thread.join(20)
        check(folder, got)
    return got


def check(folder, got):
    report = audit.verify(Home(folder / "broker"))
    leaves = [json.loads(leaf) for leaf in audit.export(Home(folder / "broker"))]
    keys = {leaf["decision"]: leaf["public_key"] for leaf in leaves if leaf["kind"] == "attestation"}
    logged = [keys[leaf["attestation"]] for leaf in leaves if leaf["kind"] == "release"]
    for key in set(got):
        assert logged.count(key) >= got.count(key), "a key left without its leaf"
    assert report["size"] == len(leaves)


def test_a_broker_that_is_killed_under_load_has_logged_what_left(tmp_path):
    got = rounds_of(tmp_path, 3, seed=20261122)
    assert got, "some keys left before the end"


@pytest.mark.soak
def test_a_broker_that_is_killed_a_thousand_times_has_logged_what_left(tmp_path):
    assert rounds_of(tmp_path, 1000, seed=1)
