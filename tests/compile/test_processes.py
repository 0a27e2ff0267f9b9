"""Targets that are made and proved side by side: the same files and proofs, the same refusals, no process left."""

from __future__ import annotations

import multiprocessing
import os
import signal
from functools import partial

import pytest
from compile.emitted import DEMO, trustee_form
from policy.policyworld import NOW, release

from tallystick.compile import processes, produce
from tallystick.compile.errors import Unproven
from tallystick.compile.produce import Job
from tallystick.core.errors import Exit, Malformed, Unreachable

BROKER = DEMO.target("broker")


@pytest.fixture
def two(monkeypatch):
    """Two processors, whatever this machine has, and nothing too short for a process."""
    monkeypatch.setattr(processes, "processors", lambda: 2)
    monkeypatch.setattr(produce, "MANY", 0)


def test_what_is_made_in_processes_is_what_is_made_in_one(two, monkeypatch):
    form = trustee_form(release("a"))
    apart = produce.produce(form, [BROKER, BROKER], NOW)
    monkeypatch.setattr(processes, "processors", lambda: 1)
    assert apart == produce.produce(form, [BROKER, BROKER], NOW)
    assert [one.proof.target for one in apart] == ["broker", "broker"]
    assert multiprocessing.active_children() == []


def test_a_proof_that_fails_in_a_process_comes_back_with_its_evidence(two):
    form, wider = trustee_form(release("a")), trustee_form(release("a"), release("b"))
    (made,) = produce.produce(wider, [BROKER], NOW)
    jobs = [Job(form=one, target=BROKER, now=NOW, files=made.emitted.files) for one in (wider, form)]
    with pytest.raises(Unproven, match="released 1 · accepted 2") as caught:
        produce.prove_all(jobs)
    assert caught.value.exit is Exit.REFUSED
    assert caught.value.findings[0].code == "prove.admits"
    assert "evidence" in caught.value.findings[0].note
    assert multiprocessing.active_children() == []


def killed(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def malformed(number: int) -> int:
    raise Malformed("thing", at="here", want="one", got=str(number))


def test_a_process_that_is_killed_is_told_as_that(two):
    with pytest.raises(Unreachable, match="ended from outside") as caught:
        processes.each(killed, [0, 1])
    assert caught.value.code == "compile.process"


def test_an_error_of_any_kind_crosses_over(two):
    with pytest.raises(Malformed, match="thing: here: want one, got 0"):
        processes.each(malformed, [0, 1])


def test_the_order_is_that_of_the_items_and_one_item_needs_no_process(two):
    assert processes.each(abs, [-3, 2, -1], first=lambda item: item == -1) == (3, 2, 1)
    seen: list[int] = []
    assert processes.each(partial(_note, seen), [7]) == (7,)
    assert seen == [7]


def _note(seen: list[int], item: int) -> int:
    seen.append(item)
    return item
