"""Plans from one policy to the next: made ones are safe, and every unsafe one is refused by name."""

from __future__ import annotations

import json
from itertools import permutations

import pytest
from compile.realworld import policy, run
from hypothesis import given
from hypothesis import strategies as st
from policy.policyworld import digest, form, release

from tallystick.compile import rollout
from tallystick.compile.rollout import Do, RolloutStep
from tallystick.core.errors import Exit

BROKERS = ("north", "south")


def _form(images):
    return form(*(release(image) for image in images), releases=tuple(release(image) for image in images))


def _pair(image):
    return (str(digest(f"release {image}")), "qemu-vtpm")


def _codes(steps, old, new, running=None, revoked=()):
    alive = rollout.accepted(_form(old)) if running is None else {_pair(image) for image in running}
    gone = [digest(f"release {image}") for image in revoked]
    found = rollout.objections(steps, _form(old), _form(new), BROKERS, alive, gone)
    return {finding.code for finding in found}


def _do(text):
    """ "-a north +b:10 .": drain a, apply at north, start b on a tenth, pause."""
    steps = []
    for word in text.split():
        if word == ".":
            steps.append(RolloutStep(do=Do.PAUSE))
        elif word[0] in "+-":
            do = Do.START if word[0] == "+" else Do.DRAIN
            image, _, share = word[1:].partition(":")
            steps.append(RolloutStep(do=do, workload=_pair(image), share=int(share or 100)))
        else:
            steps.append(RolloutStep(do=Do.APPLY, broker=word))
    return steps


images = st.lists(st.sampled_from("abcde"), min_size=0, max_size=5, unique=True)


@given(old=images, new=images, canary=st.integers(1, 100), data=st.data())
def test_every_plan_that_is_made_is_safe(old, new, canary, data):
    running = data.draw(st.lists(st.sampled_from(old), unique=True)) if old else []
    alive = {_pair(image) for image in running}
    steps = rollout.plan(_form(old), _form(new), BROKERS, alive, canary=canary)
    assert _codes(steps, old, new, running) == set()
    assert [step.broker for step in steps if step.do is Do.APPLY] == list(BROKERS)
    assert {step.workload for step in steps if step.do is Do.DRAIN} == {
        _pair(i) for i in running if i not in new
    }


@pytest.mark.parametrize(
    ("text", "old", "new", "code"),
    [
        ("north south", "ab", "b", "rollout.stranded"),
        ("north -a south", "ab", "b", None),  # the other broker still accepts it until then
        ("north south -a", "ab", "b", "rollout.stranded"),
        ("-a north", "ab", "b", "rollout.unfinished"),
        ("+c north south", "a", "ac", "rollout.early-start"),
        ("north +c south", "a", "ac", "rollout.early-start"),
        ("north south +c", "a", "ac", None),
        ("north south +d", "a", "ac", "rollout.early-start"),
        ("north south east", "a", "a", "rollout.broker"),
        ("", "a", "b", "rollout.unfinished"),
        ("north south +c:10 . +c", "a", "ac", None),
        ("north . south +c:10 . +c:50 . +c", "a", "ac", None),
        ("north south +c:10 +c", "a", "ac", "rollout.canary"),
        ("north . south +c:10 +c", "a", "ac", "rollout.canary"),
        ("north south +c:10 .", "a", "ac", "rollout.unfinished"),
        ("north south +c:50 . +c:10 . +c", "a", "ac", "rollout.share"),
        ("north south +c:0 . +c", "a", "ac", "rollout.share"),
        ("north south +c:101", "a", "ac", "rollout.share"),
        ("north south +c +c", "a", "ac", "rollout.share"),
        ("north +c:10 . south +c", "a", "ac", "rollout.early-start"),
    ],
)
def test_planted_plans(text, old, new, code):
    found = _codes(_do(text), old, new)
    assert (code in found) if code else found == set()


def test_of_every_order_only_the_safe_ones_pass():
    """Drain a, two brokers, start c: 24 orders, judged by the definition and nothing else."""
    safe = 0
    for order in permutations(("-a", "north", "south", "+c")):
        place = {word: number for number, word in enumerate(order)}
        last = max(place["north"], place["south"])
        right = place["-a"] < last < place["+c"]
        assert (_codes(_do(" ".join(order)), "ab", "bc") == set()) == right, order
        safe += right
    assert safe == 4


def test_a_policy_that_permits_what_was_revoked_is_refused():
    assert _codes(_do("north south"), "a", "ab", revoked="b") == {"rollout.unrevokes"}


def test_what_no_policy_accepts_does_not_run():
    assert "rollout.stranded" in _codes(_do("north south"), "a", "a", running="ax")


def test_the_command_plans_and_judges(real, capsys, tmp_path):
    folders = [tmp_path / "old", tmp_path / "new"]
    changed = tmp_path / "changed.yaml"
    changed.write_text(policy(**{"max_age_seconds: 300": "max_age_seconds: 299"}))
    for folder, source in zip(folders, (real.policy, changed), strict=True):
        code, _ = run(real.arguments("compile", str(source), "--target", "broker", "-o", str(folder)), capsys)
        assert code == Exit.OK
    asked = ["broker", "plan", *map(str, folders), "--broker", "north", "--broker", "south"]
    code, found = run(asked, capsys)
    assert (code, found["running"]) == (Exit.OK, 1)
    assert found["steps"] == [{"do": "apply", "broker": "north"}, {"do": "apply", "broker": "south"}]
    place = tmp_path / "plan.json"
    place.write_text(json.dumps(found))
    assert run([*asked, "--check", str(place)], capsys)[0] == Exit.OK
    place.write_text(json.dumps({"steps": found["steps"][:1]}))
    code, said = run([*asked, "--check", str(place)], capsys)
    assert (code, said["error"]["code"]) == (Exit.REFUSED, "rollout.unfinished")
    for text in (
        "{",
        "[]",
        '{"steps": [{"do": "apply"}]}',
        '{"steps": [{"do": "x", "broker": "y"}]}',
        '{"steps": [5]}',
    ):
        place.write_text(text)
        assert run([*asked, "--check", str(place)], capsys)[0] == Exit.MALFORMED
    assert run([*asked, "--running", "sha256:" + "0" * 64], capsys)[0] == Exit.MISUSE
    assert run([*asked, "--running", "x"], capsys)[0] == Exit.MALFORMED
