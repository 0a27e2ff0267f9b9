"""A rollout that is broken off anywhere goes on: nothing is left out, nothing is bent, nothing revoked comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from compile.realworld import policy, run
from compile.test_rollout import BROKERS, _form, _pair, images
from hypothesis import given, settings
from hypothesis import strategies as st
from policy.policyworld import digest

from tallystick.compile import rollout, rollout_progress
from tallystick.compile.rollout import Do
from tallystick.compile.rollout_progress import Progress
from tallystick.core.digests import Digest
from tallystick.core.errors import Exit, Misuse, TallystickError
from tallystick.release import revoke


def _progress(old, new, canary=100, running=None):
    alive = rollout.accepted(_form(old)) if running is None else {_pair(image) for image in running}
    return Progress(
        old=Digest.of(b"old"),
        new=Digest.of(b"new"),
        brokers=BROKERS,
        running=tuple(sorted(alive)),
        revoked=(),
        steps=rollout.plan(_form(old), _form(new), BROKERS, alive, canary=canary),
    )


class World:
    """What the steps did: policies in force, and what runs. A state without an accepting policy is an accident."""

    def __init__(self, old, new, made):
        self.before, self.after = rollout.accepted(_form(old)), rollout.accepted(_form(new))
        self.force = dict.fromkeys(BROKERS, self.before)
        self.alive = set(made.running)
        self.check()

    def act(self, step):
        if step.do is Do.APPLY:
            self.force[step.broker] = self.after
        elif step.do is Do.DRAIN:
            self.alive.discard(step.workload)
        else:
            assert step.do is Do.START
            assert all(step.workload in known for known in self.force.values())
            self.alive.add(step.workload)
        self.check()

    def check(self):
        assert self.alive <= frozenset().union(*self.force.values())


class Killed(Exception):
    pass


broken_off = given(
    old=images, new=images, canary=st.integers(1, 100), crashes=st.lists(st.integers(0, 30), max_size=6)
)


@broken_off
def test_broken_off_anywhere_it_goes_on_and_strands_nothing(old, new, canary, crashes):
    """Killed before a step is written down, after it, after it was done: what is on disk is all that is left."""
    _broken_off(old, new, canary, crashes)


@pytest.mark.soak
@settings(max_examples=10_000, deadline=None)
@broken_off
def test_ten_thousand_rollouts_are_broken_off_and_go_on(old, new, canary, crashes):
    _broken_off(old, new, canary, crashes)


def _broken_off(old, new, canary, crashes):
    made = _progress(old, new, canary)
    disk, world, acted, moment = rollout_progress.dump(made), World(old, new, made), [], 0

    def tick():
        nonlocal moment
        moment += 1
        if moment - 1 in crashes:
            raise Killed

    while True:
        try:
            now = rollout_progress.go(rollout_progress.parse(disk))
            while now.step is not None:
                assert list(rollout_progress.objections(now, _form(old), _form(new))) == []
                tick()
                now = rollout_progress.begin(now)
                disk = rollout_progress.dump(now)
                if now.paused:
                    break
                tick()
                world.act(now.step)
                acted.append(now.step)
                tick()
                now = rollout_progress.finish(now)
                disk = rollout_progress.dump(now)
            if now.step is None:
                break
        except Killed:
            continue
    assert all(known == world.after for known in world.force.values())
    assert world.alive == {one for one in made.running if one in world.after} | (world.after - world.before)
    once = [step for number, step in enumerate(acted) if step not in acted[:number]]
    assert once == [step for step in made.steps if step.do is not Do.PAUSE]


def test_a_pause_waits_for_somebody_and_a_pause_of_ones_own_costs_no_step():
    made = _progress("a", "ac", canary=10)
    while made.step.do is not Do.PAUSE:
        made = rollout_progress.finish(rollout_progress.begin(made))
    paused = rollout_progress.begin(made)
    assert paused.paused
    with pytest.raises(Misuse):
        rollout_progress.begin(paused)
    assert rollout_progress.go(paused).done == paused.done + 1
    asked = rollout_progress.pause(_progress("a", "ac"))
    assert rollout_progress.go(asked) == _progress("a", "ac")
    with pytest.raises(ValueError, match="not begun"):
        rollout_progress.finish(made)


def test_what_was_seen_revoked_stays_revoked():
    made = rollout_progress.seen(_progress("a", "ab"), [digest("release b")])
    assert rollout_progress.seen(made, []).revoked == made.revoked
    again = rollout_progress.parse(rollout_progress.dump(made))
    assert {one.code for one in rollout_progress.objections(again, _form("a"), _form("ab"))} == {
        "rollout.unrevokes"
    }


@given(
    st.sampled_from(sorted(_progress("a", "b").document())),
    st.none() | st.text(max_size=5) | st.integers() | st.just([[]]),
)
def test_no_state_that_was_touched_ends_in_a_traceback(name, value):
    document = {**_progress("ab", "bc").document(), name: value}
    try:
        found = rollout_progress.parse(json.dumps(document).encode())
    except TallystickError:
        return
    assert found.document() == document


@given(st.binary(max_size=50))
def test_no_bytes_end_in_a_traceback(data):
    with pytest.raises(TallystickError):
        rollout_progress.parse(data)


# The command.
@pytest.fixture
def folders(real, capsys, tmp_path):
    found = [tmp_path / "old", tmp_path / "new"]
    changed = tmp_path / "changed.yaml"
    changed.write_text(policy(**{"max_age_seconds: 300": "max_age_seconds: 299"}))
    for folder, source in zip(found, (real.policy, changed), strict=True):
        code, _ = run(real.arguments("compile", str(source), "--target", "broker", "-o", str(folder)), capsys)
        assert code == Exit.OK
    return found


def _program(tmp_path, script):
    place = tmp_path / "step"
    place.write_text(
        f"#!{sys.executable}\nimport os, pathlib, signal, sys\nlog = pathlib.Path({str(tmp_path / 'log')!r})\n{script}"
    )
    place.chmod(0o755)
    return place


LOG = "log.open('a').write(' '.join(sys.argv[1:]) + chr(10))\n"


def _asked(folders, tmp_path, *more):
    given = ["--state", str(tmp_path / "state.json"), "--broker", "north", "--broker", "south"]
    return ["broker", "rollout", *map(str, folders), *given, *more]


def test_the_command_pauses_after_the_canary_and_goes_on_when_told(folders, tmp_path, capsys):
    program = _program(tmp_path, LOG)
    asked = _asked(folders, tmp_path, "--canary", "50", "--run", str(program))
    code, said = run(asked, capsys)
    assert (code, said["state"], said["next"]) == (Exit.OK, "paused", {"do": "pause"})
    assert (tmp_path / "log").read_text() == "apply north\n"
    assert run(asked, capsys)[1]["state"] == "paused"
    assert run(_asked(folders, tmp_path), capsys)[1]["state"] == "paused"
    code, said = run([*asked, "--go"], capsys)
    assert (code, said["state"], said["done"]) == (Exit.OK, "done", 3)
    assert (tmp_path / "log").read_text() == "apply north\napply south\n"
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


def test_kill_9_in_the_middle_of_a_step_and_it_resumes(folders, tmp_path, capsys):
    """The real thing: the program kills the rollout that called it, once, at its second step."""
    script = (
        LOG
        + "if 'south' in sys.argv and log.read_text().count('south') == 1: os.kill(os.getppid(), signal.SIGKILL)\n"
    )
    asked = _asked(folders, tmp_path, "--run", str(_program(tmp_path, script)))
    killed = subprocess.run(
        [sys.executable, "-m", "tallystick.cli", *asked],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -9
    state = json.loads((tmp_path / "state.json").read_text())
    assert (state["done"], state["begun"]) == (1, True)
    code, said = run(asked, capsys)
    assert (code, said["state"]) == (Exit.OK, "done")
    assert (tmp_path / "log").read_text() == "apply north\napply south\napply south\n"


def test_a_step_that_fails_is_done_again(folders, tmp_path, capsys):
    script = LOG + "sys.exit(log.read_text().count('north') == 1)\n"
    asked = _asked(folders, tmp_path, "--run", str(_program(tmp_path, script)))
    code, said = run(asked, capsys)
    assert (code, said["error"]["code"]) == (Exit.UNREACHABLE, "rollout.step")
    assert run(asked, capsys)[1]["state"] == "done"


def test_a_revocation_between_two_steps_halts_it_for_good(folders, tmp_path, capsys):
    asked = _asked(folders, tmp_path, "--canary", "50", "--run", str(_program(tmp_path, LOG)))
    assert run(asked, capsys)[0] == Exit.OK
    (release,) = {one[0] for one in json.loads((tmp_path / "state.json").read_text())["running"]}
    code, said = run([*asked, "--go", "--revoked", release], capsys)
    assert (code, said["error"]["code"]) == (Exit.REFUSED, "rollout.halted")
    assert said["error"]["findings"][0]["code"] == "rollout.unrevokes"
    assert run([*asked, "--go"], capsys)[0] == Exit.REFUSED  # and it is not forgotten
    assert (tmp_path / "log").read_text() == "apply north\n"


def test_the_channel_is_asked_before_every_step_and_its_word_is_kept(real, folders, tmp_path, capsys):
    asked = _asked(folders, tmp_path, "--canary", "50", "--run", str(_program(tmp_path, LOG)))
    of_channel = [*real.arguments(*asked, "--channel", "staging"), "--go"]
    assert run(of_channel, capsys)[1]["state"] == "paused"
    (release,) = {one[0] for one in json.loads((tmp_path / "state.json").read_text())["running"]}
    world = real.world
    revoke.revoke(world.desk(), Digest.parse(release), world.signatories["bob"], world.online, "a test")
    code, said = run(of_channel, capsys)
    assert (code, said["error"]["code"]) == (Exit.REFUSED, "rollout.halted")
    assert run([*asked, "--go"], capsys)[0] == Exit.REFUSED  # whoever goes on, and without asking the channel
    assert (tmp_path / "log").read_text() == "apply north\n"


def test_a_rollout_is_not_bent_to_other_policies_or_another_plan(folders, tmp_path, capsys):
    asked = _asked(folders, tmp_path, "--run", str(_program(tmp_path, LOG)))
    assert run([*asked, "--pause"], capsys)[1]["state"] == "paused"
    code, said = run(_asked(folders[::-1], tmp_path), capsys)
    assert (code, said["error"]["code"]) == (Exit.MISUSE, "rollout.other")
    other = tmp_path / "plan.json"
    other.write_text(json.dumps({"steps": [{"do": "apply", "broker": "south"}]}))
    assert run([*asked, "--plan", str(other)], capsys)[1]["error"]["code"] == "rollout.other"
    assert not (tmp_path / "log").exists()


def test_an_unsafe_plan_does_not_begin(folders, tmp_path, capsys):
    unsafe = tmp_path / "plan.json"
    unsafe.write_text(json.dumps({"steps": [{"do": "apply", "broker": "north"}]}))
    asked = _asked(folders, tmp_path, "--plan", str(unsafe), "--run", str(_program(tmp_path, LOG)))
    code, said = run(asked, capsys)
    assert (code, said["error"]["findings"][0]["code"]) == (Exit.REFUSED, "rollout.unfinished")
    assert not (tmp_path / "log").exists()


def test_two_at_once_are_one_too_many(folders, tmp_path, capsys):
    from tallystick.broker.secretfiles import locked

    with locked(tmp_path / "state.json.lock"):
        code, said = run(_asked(folders, tmp_path), capsys)
    assert (code, said["error"]["code"]) == (Exit.UNREACHABLE, "rollout.busy")
    assert replace(_progress("a", "b"), paused=True).paused
