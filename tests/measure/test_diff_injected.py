"""Single changes over a real build: the right cause comes first, and no cause is ever named that is not one."""

from __future__ import annotations

import random

import pytest
from measure import boots, injections, launches
from measure.boots import BOOTS
from measure.injections import HOST_CHANGES, IMAGE_CHANGES

SEED = 20261122


class Tally:
    """Counts of what explanations said."""

    def __init__(self) -> None:
        self.done, self.right, self.wrong = 0, 0, []

    def count(self, what: str, right: bool, false: object) -> None:
        self.done += 1
        self.right += right
        if false:
            self.wrong.append((what, false))

    def check(self, share: float = 0.95) -> None:
        assert self.wrong == []
        assert self.right >= share * self.done, f"{self.right} of {self.done}"


def releases(tally: Tally, make, rng: random.Random, **more) -> None:
    """Inject one change into a release and hold what is said of the two against it."""
    before = injections.real()
    injected = make(before, rng, **more)
    change = injections.between(before, injected.after)
    found = [(cause.where.value, cause.kind, cause.name) for cause in change.causes]
    moved = {name for cause in change.causes for name in cause.moves}
    unsaid = {name for name, _, _ in change.values} - moved
    assert unsaid == {name for one in change.unexplained for name in one.values}, injected.what
    tally.count(injected.what, found[:1] == [injected.right], [one for one in found if one != injected.right])


def boot(tally: Tally, make, rng: random.Random) -> None:
    """Boot otherwise than predicted, and hold what is said of the evidence against it."""
    built = injections.real()
    made = make(built, rng)
    found, unexplained, differ = boots.explained(built, made)
    wanted = [] if made.right is None else [made.right]
    assert differ, made.what
    right = found[:1] == wanted and bool(wanted or set(unexplained) == set(differ))
    tally.count(made.what, right, [one for one in found if one not in wanted])


def launch(tally: Tally, rng: random.Random) -> None:
    """Launch an SNP guest otherwise than predicted, and hold what is said of its report against it."""
    built = injections.real()
    made = launches.snp_launch(built, rng)
    given = [made.firmware] if made.firmware else []
    _, causes, unexplained = launches.why_snp.explain(launches.snp_expectation(built, *given), made.seen)
    kinds = tuple(cause.kind for cause in causes)
    right = kinds == made.right and bool(causes) != bool(unexplained)
    tally.count(made.what, right, [kind for kind in kinds if kind not in made.right])


@pytest.mark.slow
def test_a_sample_of_single_changes_is_explained():
    rng, tally = random.Random(SEED), Tally()
    for make in (*IMAGE_CHANGES, *HOST_CHANGES):
        releases(tally, make, rng)
    for make in BOOTS:
        boot(tally, make, rng)
    for _ in range(2):
        launch(tally, rng)
    tally.check()


@pytest.mark.soak
def test_two_hundred_and_more_single_changes_are_explained():
    rng, tally = random.Random(), Tally()
    for make in (*IMAGE_CHANGES, *HOST_CHANGES):
        for _ in range(10):
            releases(tally, make, rng)
    for make in (injections.file_change, injections.component):
        for _ in range(4):
            releases(tally, make, rng, parts=(0, 1))
    for make in BOOTS:
        for _ in range(10):
            boot(tally, make, rng)
    for _ in range(20):
        launch(tally, rng)
    assert tally.done >= 260
    tally.check()
