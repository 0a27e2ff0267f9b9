"""Almost nothing can be changed in a cloud's policies unseen, and what is unseen decides nothing.

``evaluate`` is what the proof sees by comparing meanings; ``prove`` compares the papers as well.
"""

from __future__ import annotations

import importlib
import random
import re
from collections.abc import Mapping

import pytest
from compile.cloud_mutants import mutants
from compile.clouds import CHOICES, World, world

from tallystick.compile.errors import Unproven

SAMPLE = 25
# What comparing meanings does not see, with the reason why it is the same policy.
EQUIVALENT = {
    r"(Sid|: Id|condition\.title|condition\.description)( |$)": "a name or a head decides nothing",
    r"(Statement|Action|anyOf|allOf|bindings|members) \[": "an element of a set, twice",
    r"attribute-mapping\.txt": "one text serves every policy, so it is compared and not evaluated",
    r"95 \"anyOf\" -> \"allOf\"": "any of one authority's one branch is all of them",
    r"StringEqualsIgnoreCase -> ForAnyValue:StringEqualsIgnoreCase$": "of a key with one value, any is that value",
    r"StringEqualsIgnoreCase -> StringLike$|StringNotEqualsIgnoreCase -> StringNot(Like|Equals)$": (
        "registers come in lower case, and a pattern without wildcards is a text"
    ),
}


def caught(made: World, files: Mapping[str, bytes]) -> bool:
    try:
        made.prove(files)
    except Unproven:
        return True
    return False


def seen(made: World, files: Mapping[str, bytes]) -> bool:
    module = importlib.import_module(f"tallystick.compile.targets.{made.choice.name.replace('-', '_')}.prove")
    try:
        module.evaluate(files, made.form, made.choice)
    except Unproven:
        return True
    return False


@pytest.mark.parametrize("target", CHOICES)
def test_a_sample_of_mutants_is_caught(target):
    made = world(target)
    everything = list(mutants(target, made.made.files))
    assert len(everything) > 100
    for what, files in random.Random(target).sample(everything, SAMPLE):
        assert caught(made, files), what
        assert seen(made, files) or equivalent(what), what


def equivalent(what: str) -> bool:
    return any(re.search(pattern, what) for pattern in EQUIVALENT)


@pytest.mark.soak
@pytest.mark.parametrize("target", CHOICES)
def test_mutation_score(target, capsys):
    made = world(target)
    everything = list(mutants(target, made.made.files))
    unseen = [(what, files) for what, files in everything if not seen(made, files)]
    missed = [what for what, files in unseen if not caught(made, files)]
    other = [what for what, _ in unseen if not equivalent(what)]
    with capsys.disabled():
        print(f"\n{target}: {len(everything)} mutants, {len(missed)} missed by prove; {len(unseen)} unseen by meaning, "
              f"{len(other)} of these without a reason")  # fmt: skip
        for what in other:
            print("  unseen", what[:160])
    assert missed == []
    assert len(other) <= len(everything) // 100, other
