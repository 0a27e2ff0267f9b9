"""Kills a broker again and again, at a chosen step or at any moment: ``kill_rounds.py FOLDER ROUNDS SEED [STORE]``.

Each round forks a broker out of this process, so that a round costs no start of an interpreter. Says on stdout, as
JSON, how often which step was the last, and for how many keys that a client received there is a leaf.
"""

import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future
from http.client import HTTPException
from pathlib import Path

from broker.world import CANARY, LABEL, NOW, Machine, Running, World, endorser, new_world
from cryptography.hazmat.primitives import serialization

from tallystick.broker import app, audit, ledger, opening, releasing, server, store
from tallystick.broker.config import BrokerConfig, Home, Lifetimes, Limits
from tallystick.broker.enrolment_ca import authority
from tallystick.broker.sessions import Sessions
from tallystick.broker.vault import Vault
from tallystick.core.digests import Digest
from tallystick.handshake import kbs
from tallystick.handshake.jwe import TeeKeyPair
from tallystick.signing.records import Trust

STEPS = {  # what a handshake passes through, in order, each with "before" and "after"
    "lock": (store.Batch, "__init__"),
    "nonces": (store.Batch, "used"),
    "spend": (store.Batch, "use"),
    "session": (Sessions, "keep"),
    "append": (store.Batch, "append"),
    "head": (store.Batch, "end"),
    "batch": (ledger.Ledger, "_write"),
    "acknowledge": (Future, "set_result"),
    "unseal": (Vault, "material"),
    "wrap": (releasing.jwe, "encrypt"),
    "answer": (app, "_plain_json"),
}


def die_at(step, when, nth):
    """Kill this process the ``nth`` time that ``step`` begins or has ended."""
    owner, name = STEPS[step]
    original = getattr(owner, name)
    left = [nth]

    def wrapped(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


def serve(folder, root, listening):
    trust = Trust(
        label="embedded-dev",
        sigstore_root=b"{}",
        builders=(),
        promoters=(),
        layout=b"",
        layout_owners=(),
        channels=(("staging", root),),
        endorsers=(endorser(Digest.of(LABEL.encode()), ()),),
    )
    config = BrokerConfig(
        workdir=folder,
        channel_dir=folder / "staging",
        channel="staging",
        trust=folder,
        port=0,
        limits=Limits(client_rate=10_000.0),
    )
    broker = opening.open_broker(config, trust=trust, read_clock=lambda: NOW)
    server.serve(broker, listening, ready=lambda url: None)


def certified(folder):
    machine = Machine()
    made = authority(Home(folder / "broker").enrolment, LABEL, now=NOW)
    certificate = made.certify(machine.ak.public_key(), now=NOW, life=Lifetimes().ak_certificate)
    machine.certificate = certificate.public_bytes(serialization.Encoding.DER)
    return machine


def hammer(running, machine, pair, got, refused):
    """Attest and fetch until the broker is gone; note each session's attested key that a key was received for."""
    try:
        while True:
            cookie, nonce = running.challenge()
            message = running.message(machine, nonce, pair)
            if running.ask("POST", kbs.ATTEST_PATH, message, cookie=cookie).status != 200:
                continue
            for _ in range(2):
                reply = running.fetch(cookie)
                if reply.status == 200:
                    assert pair.decrypt(reply.body) == CANARY
                    got.append(nonce)
                else:
                    refused[reply.code] += 1
    except (OSError, AssertionError, ValueError, HTTPException):
        return


def one_round(folder, root, machine, chance, got, refused):
    """Return the step at which the broker was killed."""
    listening = server.listen("127.0.0.1", 0)
    step = chance.choice([*STEPS, "any", "any"])
    when, nth = chance.choice(["before", "after"]), chance.randint(1, 6)
    child = os.fork()
    if child == 0:
        try:
            if step != "any":
                die_at(step, when, nth)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            serve(folder, root, listening)
        finally:
            os._exit(1)
    url = server.url_of(listening)
    listening.close()
    running = Running(broker=None, url=url, world=World(folder=folder, channel=None))
    pairs = [TeeKeyPair.make() for _ in range(3)]
    threads = [threading.Thread(target=hammer, args=(running, machine, pair, got, refused)) for pair in pairs]
    for thread in threads:
        thread.start()
    until = time.monotonic() + (chance.uniform(0.15, 0.5) if step == "any" else 5.0)
    gone = 0
    while not gone and time.monotonic() < until:
        time.sleep(0.005)
        gone, _ = os.waitpid(child, os.WNOHANG)
    if not gone:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    for thread in threads:
        thread.join(30)
    return f"{when} {step}" if gone else "any moment"


def check(folder, got):
    """Return the audit's report, after every key that was received has its leaf."""
    home = Home(folder / "broker")
    report = audit.verify(home)
    leaves = [json.loads(leaf) for leaf in audit.export(home)]
    assert report["size"] == len(leaves)
    nonces = {leaf["decision"]: leaf["nonce"] for leaf in leaves if leaf["kind"] == "attestation"}
    logged = Counter(nonces[leaf["attestation"]] for leaf in leaves if leaf["kind"] == "release")
    for nonce, count in Counter(got).items():
        name = f"sha256:{hashlib.sha256(nonce.encode()).hexdigest()}"
        assert logged[name] >= count, "a key left without its leaf"
    return report


def main(folder, rounds, seed, url=None):
    chance = random.Random(seed)
    root = new_world(folder, store=url).channel.root
    machine = certified(folder)
    steps: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    got: list[str] = []
    size = 0
    for number in range(rounds):
        steps[one_round(folder, root, machine, chance, got, refused)] += 1
        if number % 25 == 24 or number == rounds - 1:
            report = check(folder, got)
            assert report["size"] >= size, "a leaf was lost"
            size = report["size"]
    print(
        json.dumps(
            {
                "rounds": rounds,
                "keys": len(got),
                "leaves": size,
                "refused": refused,
                "steps": dict(sorted(steps.items())),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
