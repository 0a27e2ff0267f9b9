"""What the operator is told of a refusal works: the change that is suggested, made to the machine, gets the key."""

from __future__ import annotations

import json

import pytest
from broker.test_cli import tally
from broker.world import CANARY, Machine, release

from tallystick.broker.explaining import explain

ZERO = "0" * 64


def refused(running, pair, machine: Machine) -> dict[str, object]:
    """Attest ``machine``, be refused its key, and return the answer."""
    cookie, reply = running.attest(machine, pair)
    assert reply.status == 200, reply.body
    told = running.fetch(cookie)
    assert told.status == 403
    return told.json


@pytest.mark.parametrize("register", ["pcr00", "pcr01", "pcr04", "pcr07", "pcr09", "pcr11", "pcr14"])
def test_the_suggested_change_made_to_the_machine_gets_the_key(steady, pair, register):
    machine = Machine(changed={register: "ab" * 32})
    told = refused(steady, pair, machine)
    found = explain(steady.world.home, str(told["decision"]))
    (change,) = found.changes
    assert change.field == ("claims", register)
    machine.changed[register] = str(change.to)
    cookie, _ = steady.attest(machine, pair)
    assert pair.decrypt(steady.fetch(cookie).body) == CANARY


def test_the_operator_reads_next_steps_and_changes_and_the_workload_reads_neither(steady, pair):
    told = refused(steady, pair, Machine(changed={"pcr04": ZERO, "pcr11": ZERO}))
    said = json.dumps(told)
    here = ["--workdir", steady.world.folder]
    whole = tally("explain", told["decision"], *here, "--json")
    assert [one["field"] for one in whole["changes"]] == ["claims/pcr04", "claims/pcr11"]
    assert all(one["to"] not in said for one in whole["changes"])
    assert whole["nearest"]["digest"] == str(release().digest)
    assert {one["next"] for one in whole["findings"]} == {
        "boot the release that is promoted, or promote the one that runs"
    }
    text = tally("explain", told["decision"], *here)
    assert "these 2 changes together would have made it a yes" in text
    assert "next: boot the release that is promoted" in text
    assert "next" not in told
    assert "changes" not in told


def test_a_revoked_release_has_a_next_step_and_no_change(running, pair):
    running.world.revoke(release())
    told = refused(running, pair, Machine())
    found = explain(running.world.home, str(told["decision"]))
    assert ([one.code for one in found.findings], found.changes) == (["release.revoked"], ())
    assert found.document()["findings"][0]["next"] == "move the workload to a release that nobody has revoked"
