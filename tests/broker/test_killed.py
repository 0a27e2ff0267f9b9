"""A broker that is killed at any moment: no key without its leaf, no leaf lost, and it starts again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import support_postgres
from broker import kill_rounds

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'pipeline'}{os.pathsep}{ROOT / 'tests'}"}


def rounds_of(folder, rounds, seed, *store):
    argv = [sys.executable, kill_rounds.__file__, folder, rounds, seed, *store]
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sum(found["steps"].values()) == rounds
    assert found["leaves"] >= found["keys"] > 0
    return found


def test_a_broker_that_is_killed_at_any_step_has_logged_what_left(tmp_path):
    found = rounds_of(tmp_path, 12, 20261122)
    assert len(found["steps"]) > 5


def test_a_replica_that_is_killed_at_any_step_has_logged_what_left(tmp_path):
    with support_postgres.serving() as server:
        rounds_of(tmp_path, 6, 20261123, server.database("killed"))


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2])
def test_a_broker_that_is_killed_a_thousand_times_has_logged_what_left(tmp_path, seed):
    found = rounds_of(tmp_path, 500, seed)
    chosen = {step.partition(" ")[2] for step in found["steps"]} - {"moment"}
    assert chosen == set(kill_rounds.STEPS), "every step was the last one somewhere"


@pytest.mark.soak
@pytest.mark.parametrize("seed", [3, 4])
def test_a_replica_that_is_killed_a_thousand_times_has_logged_what_left(tmp_path, seed):
    with support_postgres.serving() as server:
        rounds_of(tmp_path, 500, seed, server.database("killed"))
