"""Every target of other brokers: what it makes is proved, and almost nothing can be changed in it unseen.

``evaluated`` is what evaluating the emitted bytes sees by itself; ``prove`` compares the bytes as well.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Mapping

import pytest
from compile.changed import PAPERS, mutants
from compile.machines import NOW, TARGETS, World, world

from tallystick.compile.errors import Unproven

SAMPLE = 25
# What evaluating alone does not see, by a part of the mutant's name, with the reason why it is equivalent.
EQUIVALENT = {
    "about": "a head that decides nothing",
    ".releases": "names of releases that decide nothing",
    ".SANs": "names in a certificate",
    ".meta": "a head of Keylime's that decides nothing",
    ".release 1": "a number of Keylime's that decides nothing",
    "GuestPolicy": "a flag that is not there is false, as it was",
    "PlatformInfo": "a flag that is not there is false, as it was",
    "AllowedChipIDs": "a list that is not there is empty, as it was",
    "twice": "the same file under another name is the same policy again",
}


def _caught(made: World, files: Mapping[str, bytes]) -> bool:
    try:
        made.prove(files)
    except Unproven:
        return True
    return False


def _seen(made: World, files: Mapping[str, bytes]) -> bool:
    """Whether evaluating alone refuses the files."""
    module = importlib.import_module(f"tallystick.compile.targets.{made.choice.name.replace('-', '_')}.prove")
    arguments = {"now": NOW, "choice": made.choice, "form": made.form, "files": files}
    wanted = module.evaluate.__code__.co_varnames[: module.evaluate.__code__.co_argcount]
    try:
        module.evaluate(**{name: arguments[name] for name in wanted})
    except (Unproven, KeyError):
        return True
    return False


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_made_is_proved(target):
    made = world(target)
    proof = made.prove()
    assert proof.released == proof.accepted > 0
    assert proof.evaluated > 100
    assert proof.words.startswith(f"{target}: released {proof.released} · accepted {proof.released}")


@pytest.mark.parametrize("target", TARGETS)
def test_a_sample_of_mutants_is_caught(target):
    made = world(target)
    everything = list(mutants(made.made.files))
    chosen = random.Random(target)
    for what, files in chosen.sample(everything, min(SAMPLE, len(everything))):
        assert _caught(made, files), what


@pytest.mark.soak
@pytest.mark.parametrize("target", TARGETS)
def test_mutation_score(target, capsys):
    made = world(target)
    everything = list(mutants(made.made.files))
    missed = [what for what, files in everything if not _caught(made, files)]
    policies = [(what, files) for what, files in everything if not what.startswith(PAPERS)]
    missing = [what for what, files in policies if not _seen(made, files)]
    unseen = [what for what in missing if not any(part in what for part in EQUIVALENT)]
    seen = f"{len(policies) - len(missing)} of {len(policies)} seen by evaluating alone"
    with capsys.disabled():
        print(f"\n{target}: {len(everything)} mutants, {len(missed)} missed by prove; {seen}")
        print(f"{len(unseen)} of the rest are not explained as equivalent")
        for what in unseen[:60]:
            print("  unseen", what[:160])
    assert len(missed) <= len(everything) // 100, missed
