"""Faults of the machine: a full disk and a clock that jumps. Kills are in test_killed, restarts in test_replicas."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from broker.world import CANARY, Machine

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'pipeline'}{os.pathsep}{ROOT / 'tests'}"}


def test_a_full_disk_releases_nothing_and_loses_nothing(tmp_path):
    own = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    argv = [*own, sys.executable, str(ROOT / "tests" / "broker" / "full_disk.py"), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert "leaves" in done.stdout


def jumps(running, pair, rounds, seed):
    """Let the clock jump; return the times in the log, and how each fetch was answered."""
    chance = random.Random(seed)
    clock, machine = running.world.clock, running.certify(Machine())
    cookie, reply = running.attest(machine, pair)
    answers = []
    for _ in range(rounds):
        clock.forward(seconds=chance.choice([-7200, -60, -3, -2, -1, 0, 1, 1, 2, 30, 60]))
        reply = running.fetch(cookie)
        if reply.status == 200:
            assert pair.decrypt(reply.body) == CANARY
        answers.append((clock.at, reply.status, "" if reply.status == 200 else reply.code))
        if reply.status != 200 and reply.code == "session.unknown":
            cookie, _ = running.attest(machine, pair)
    return answers


def check(running, answers):
    times = [leaf["at"] for leaf in running.world.leaves()]
    assert times == sorted(times), "the log's time never runs back"
    assert {code for _, _, code in answers} <= {"", "clock.behind", "session.unknown"}
    highest = answers[0][0]
    for at, status, code in answers:
        behind = (highest - at).total_seconds() > 2
        assert (code == "clock.behind") == behind
        assert status != 200 or not behind
        highest = max(highest, at)


def test_a_clock_that_jumps_never_decides_in_its_past(running, pair):
    check(running, jumps(running, pair, 40, 20261123))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_a_clock_that_jumps_a_thousand_times_never_decides_in_its_past(running, pair, seed):
    running.world.clock.forward(seconds=0)
    check(running, jumps(running, pair, 200, seed))
