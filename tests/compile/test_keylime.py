"""Keylime: one agent policy for each tuple, and the ways in which its files were permissive."""

from __future__ import annotations

import json

import pytest
from compile.machines import CHOICES, compiled, entry, form, release, rule, world

from tallystick.compile.errors import Unproven
from tallystick.compile.targets.keylime import prove, verifier
from tallystick.compile.targets.keylime.verifier import ImaEntry
from tallystick.compile.targets.registry import backend
from tallystick.core.errors import Malformed
from tallystick.core.expect import Exactly

VTPM = "qemu-vtpm"


def refused(edit) -> str:
    made = world("keylime")
    found = json.loads(made.made.files["agents.json"])
    for agent in found["agents"].values():
        edit(agent)
    with pytest.raises(Unproven) as caught:
        prove.evaluate({**made.made.files, "agents.json": json.dumps(found).encode()}, made.form)
    return "; ".join(finding.message for finding in caught.value.findings)


def test_roots_keys_and_the_end_can_not_be_said():
    made = world("keylime")
    names = {lack.requirement for lack in backend("keylime").lacks(made.form, made.choice)}
    assert names == {"roots", "keys", "end"}


def test_register_10_is_keylimes_own():
    made = form((rule(VTPM, "software-tpm"),), (release("a", entry(VTPM, "a", pcr10=Exactly("11" * 32))),))
    assert "register-pcr10" in {one.requirement for one in backend("keylime").lacks(made, CHOICES["keylime"])}
    without = compiled("keylime", made)
    agent = next(iter(json.loads(without.made.files["agents.json"])["agents"].values()))
    assert "10" not in agent["tpm_policy"]


def test_an_agent_has_one_value_for_each_register_of_its_tuple():
    for agent in json.loads(world("keylime").made.files["agents.json"])["agents"].values():
        assert {len(values) for register, values in agent["tpm_policy"].items() if register != "17"} == {1}
        assert sorted(map(int, agent["tpm_policy"])) == [*range(10), *range(11, 16), 17]


def test_two_tuples_in_one_policy_mix():
    made = world("keylime")
    found = json.loads(made.made.files["agents.json"])["agents"]
    one, two = (agent["tpm_policy"] for agent in found.values())

    def edit(agent):
        agent["tpm_policy"] = {n: sorted({*one[n], *two[n]}) for n in one}

    assert "want refused, got accepted" in refused(edit)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda a: a["tpm_policy"].pop("4"), "pcr04"),
        (lambda a: a["tpm_policy"].update({"4": []}), "refused"),
        (lambda a: a["tpm_policy"].update({"10": ["11" * 32]}), "neither 10 nor 16"),
        (lambda a: a["tpm_policy"].update({"mask": "0x1"}), "numbers of registers"),
        (lambda a: a.update(tpm_policy={}), "registers with their values"),
        (lambda a: a["runtime_policy"].update(excludes=[".*"]), "excluded or ignored"),
        (lambda a: a["runtime_policy"].update(digests={"boot_aggregate": ["ab" * 32]}), "boot aggregate"),
        (lambda a: a["runtime_policy"]["digests"].update({"/usr/bin/sh": ["ab" * 32]}), "/usr/bin/sh"),
        (lambda a: a["runtime_policy"]["ima"].update(ignored_keyrings=["*"]), "excluded or ignored"),
        (lambda a: a["runtime_policy"].pop("ima"), "every field"),
    ],
)
def test_a_guard_that_is_broken_is_seen(edit, said):
    assert said in refused(edit)


def test_a_register_that_is_not_quoted_is_no_match():
    assert verifier.pcrs_hold({4: ("aa",)}, {4: "aa", 5: "bb"})
    assert not verifier.pcrs_hold({4: ("aa",)}, {5: "aa"})
    assert not verifier.pcrs_hold({4: ("aa",)}, {4: "AA"})


def test_the_boot_aggregate_is_a_hash_over_the_first_ten_registers():
    """Linux since 5.8: registers 0 to 9 of the bank; a test vector made by hand: ten registers of zeros."""
    import hashlib

    assert (
        verifier.boot_aggregate(dict.fromkeys(range(10), "0" * 64)) == hashlib.sha256(bytes(320)).hexdigest()
    )


def test_an_excluded_path_is_accepted_with_any_content():
    policy = {"excludes": ["/tmp/.*"], "digests": {}}
    assert verifier.entries_hold(policy, [ImaEntry("/tmp/x", "ff")])
    assert not verifier.entries_hold(policy, [ImaEntry("/usr/tmp/x", "ff")])


@pytest.mark.parametrize("found", [{}, [], {"24": ["aa"]}, {"04": ["aa"]}, {"4": 1}, {"4": [1]}, None])
def test_what_is_no_tpm_policy_is_malformed(found):
    with pytest.raises(Malformed, match="Keylime policy"):
        verifier.read_tpm_policy(found)
