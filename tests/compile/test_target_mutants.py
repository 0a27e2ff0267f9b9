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
from tallystick.compile.targets.common import trial
from tallystick.compile.targets.intel_ita import prove as intel_prove

SAMPLE = 25
PARTS = 6  # of the whole count, so that it can be run a part at a time
# What evaluating alone does not see, by a part of the mutant's name, with the reason why it is equivalent.
# Beside these, what Trust Authority's policies export (papers, which go into the token) decides nothing.
EQUIVALENT = {
    "about": "a head that decides nothing",
    ".releases": "names of releases that decide nothing",
    ".SANs": "names in a certificate",
    ".meta": "a head of Keylime's that decides nothing",
    ".release 1": "a number of Keylime's that decides nothing",
    "GuestPolicy": "a flag that is not there is false, as it was",
    "PlatformInfo": "a flag that is not there is false, as it was",
    "AllowedChipIDs": "a list that is not there is empty, as it was",
    "SeedshareOwnerPubKeys dropped": "a list that is not there is empty, as it was",
    "ReferenceValues.snp [": "the last Reference Value once more",
    **dict.fromkeys(("corim.cbor: 5", "tag 0 2", "tag 1 2"), "an entity decides nothing"),
    **dict.fromkeys(("tag 0 1", "tag 1 1"), "the identity of a tag decides nothing"),
    **dict.fromkeys(("corim.cbor: 1 [", "tag 0 4.0 [[", "tag 1 4.0 [["), "the last tag or triple once more"),
    "twice": "the same file under another name is the same policy again",
    "now_ns <= 1811808000000000001": "a nanosecond of the next second, and the end is a whole one",
    "dropped: is_string(device": "regex.match, and the same question beside it, refuse what is no text",
    'regex.match("^(1|': "no version from 0 on reaches the minimum",
    'regex.match("^(0|[1-9][0-9]{1,8})': "no version of one digit reaches the minimum",
    "number(part) := 1 if": "no part of the minimum is 1 where another one's is 0",
}


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """A proof that ends with the first thing that is wrong, in one engine."""
    monkeypatch.setattr(trial, "MOST_FINDINGS", 1)
    monkeypatch.setattr(intel_prove, "second_opinion", lambda: None)


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


def _explained(made: World, what: str) -> bool:
    """Whether there is a reason why a mutant that evaluating does not see is the same policy."""
    if any(part in what for part in EQUIVALENT):
        return True
    file, _, rest = what.partition(": ")
    lines = made.made.files.get(file, b"").decode(errors="replace").splitlines()
    number = rest.partition(" ")[0]
    return "export := {" in lines and number.isdigit() and int(number) > lines.index("export := {")


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
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("target", TARGETS)
def test_mutation_score(target, part, capsys):
    made = world(target)
    everything = list(mutants(made.made.files))[part::PARTS]
    missing = [
        (what, files) for what, files in everything if what.startswith(PAPERS) or not _seen(made, files)
    ]
    missed = [what for what, files in missing if not _caught(made, files)]
    policies = [what for what, _ in everything if not what.startswith(PAPERS)]
    unseen = [what for what, _ in missing if not what.startswith(PAPERS)]
    unexplained = [what for what in unseen if not _explained(made, what)]
    counts = (
        f"{len(everything)} mutants, {len(missed)} missed by prove; of {len(policies)} policies {len(unseen)}"
    )
    with capsys.disabled():
        print(
            f"\n{target} {part}: {counts} unseen by evaluating, {len(unexplained)} of these without a reason"
        )
        for what in unexplained:
            print("  unseen", what[:160])
    assert missed == []
    assert len(unexplained) <= len(policies) // 100
