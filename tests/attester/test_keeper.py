"""Trying again and attesting again, on a clock that the test moves."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.attester import backoff, keeper
from tallystick.attester.backoff import Backoff
from tallystick.core.errors import Misuse, Refused, Unreachable

AWAY = Unreachable("nobody answers", code="broker.unreachable")
NO = Refused("not this machine", code="tpm.pcr04.mismatch")


class Hands:
    """A clock, and work that takes a second of it and ends as it is told to."""

    def __init__(self, *endings) -> None:
        self.now, self.endings, self.pauses, self.began = 0.0, list(endings), [], []

    def clock(self) -> float:
        return self.now

    def pause(self, seconds: float) -> bool:
        assert seconds >= 0
        self.pauses.append(seconds)
        self.now += seconds
        return not self.endings

    def work(self) -> str:
        self.began.append(self.now)
        self.now += 1
        ending = self.endings.pop(0)
        if isinstance(ending, Exception):
            raise ending
        return ending


@given(failures=st.integers(0, 10_000), spread=st.floats(0, 1), first=st.floats(0.01, 10))
def test_a_pause_is_between_half_and_all_of_its_step(failures, spread, first):
    steps = Backoff(first_seconds=first, most_seconds=60.0)
    whole = min(60.0, first * 2 ** min(failures, 32))
    assert whole / 2 <= steps.seconds(failures, lambda: spread) <= whole


def test_machines_that_failed_together_do_not_ask_together():
    assert len({backoff.PATIENT.seconds(3) for _ in range(20)}) > 10


def _until(hands, seconds):
    return backoff.until(hands.work, seconds, pause=hands.pause, clock=hands.clock)


def test_what_is_away_is_asked_again_until_it_answers():
    hands = Hands(AWAY, AWAY, AWAY, "key")
    assert _until(hands, 60) == "key"
    assert len(hands.pauses) == 3
    assert hands.pauses[0] < hands.pauses[1] < hands.pauses[2]


def test_no_longer_than_it_was_told_to():
    hands = Hands(*[AWAY] * 100)
    with pytest.raises(Unreachable):
        _until(hands, 20)
    assert 20 <= hands.now < 22  # the last try began when the time was over


def test_a_refusal_is_an_answer():
    hands = Hands(AWAY, NO, "never")
    with pytest.raises(Refused):
        _until(hands, 60)
    assert hands.endings == ["never"]


def test_not_waiting_is_one_try():
    hands = Hands(AWAY, "late")
    with pytest.raises(Unreachable):
        _until(hands, 0)
    assert hands.pauses == []


def _keep(hands, every):
    keeper.keep(hands.work, every_seconds=every, wait=hands.pause, clock=hands.clock)


def test_it_attests_again_in_the_middle_of_every_interval():
    hands = Hands("a", "b", "c")
    _keep(hands, 60)
    assert hands.began == [30, 60, 90]


def test_one_that_is_away_for_a_while_is_asked_more_often_and_forgiven():
    hands = Hands("a", AWAY, AWAY, "b", "c")
    _keep(hands, 60)
    first, second, third, fourth, fifth = hands.began
    assert (first, second) == (30, 60)
    assert second < third < fourth < first + 60
    assert fifth == fourth + 30


def test_when_nobody_answered_for_a_whole_interval_it_ends():
    hands = Hands("a", *[AWAY] * 100)
    with pytest.raises(Unreachable):
        _keep(hands, 60)
    assert 30 + 60 <= hands.now < 30 + 60 + 2


def test_a_refusal_ends_it_at_once():
    hands = Hands("a", NO, "never")
    with pytest.raises(Refused):
        _keep(hands, 60)
    assert hands.endings == ["never"]


def test_an_interval_that_nothing_fits_into_is_refused():
    with pytest.raises(Misuse, match=r"at least 0\.1 s"):
        _keep(Hands(), 0)


@given(st.lists(st.sampled_from([AWAY, "ok"]), min_size=1, max_size=40), st.floats(5, 1000))
def test_at_no_time_a_key_is_held_longer_than_its_interval(endings, every):
    """Whatever answers and whatever does not: between two successes, and before the end, lies at most the interval."""
    hands = Hands(*endings)
    told = list(endings)
    try:
        _keep(hands, every)
    except Unreachable:
        assert hands.now - 1 <= max(_held(hands, told), 0) + every + 1
    else:
        held = 0.0
        for began, ending in zip(hands.began, told, strict=False):
            assert began <= held + every
            held = began if ending == "ok" else held


def _held(hands, told):
    successes = [began for began, ending in zip(hands.began, told, strict=False) if ending == "ok"]
    return successes[-1] if successes else 0.0


def test_beside_the_work_the_loss_is_told_to_the_worker():
    again = threading.Event()

    def renew():
        again.set()
        raise NO

    with keeper.beside(renew, every_seconds=0.1) as check:
        check()
        assert again.wait(10)
        while "re-attestation" in {thread.name for thread in threading.enumerate()}:
            threading.Event().wait(0.01)
        with pytest.raises(Refused):
            check()


def test_when_the_work_is_over_so_is_attesting():
    times = []
    with keeper.beside(lambda: times.append(1), every_seconds=3600):
        pass
    assert times == []
    assert "re-attestation" not in {thread.name for thread in threading.enumerate()}
