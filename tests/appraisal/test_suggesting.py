"""What an explanation suggests is true: with the suggested change the same evaluator decides the other way."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest
from appraisal.test_any_claims import CHALLENGE, GOOD, PREPARED, nearly_right, shown
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy.policyworld import END, NOW, WEIGHTS, ZERO, challenge, claims, form, release

from tallystick.appraisal.appraise import appraise
from tallystick.appraisal.index import prepare
from tallystick.appraisal.records import Challenge
from tallystick.appraisal.steps import _ELSE, next_step
from tallystick.appraisal.suggesting import decide_with, suggest
from tallystick.core.expect import AtLeast, AtLeastVersion, Exactly, Excludes, Includes, NoneOf, OneOf, Only
from tallystick.core.findings import Change
from tallystick.policy.normal import Denial, PlatformRule

RULE = PlatformRule(
    platform="qemu-vtpm",
    evidence_kind="tpm-quote",
    roots=("software-tpm",),
    require=tuple(
        sorted(
            {
                "safe": Exactly(True),
                "firmware_version": AtLeast(8),
                "debug": NoneOf((True,)),
                "driver": AtLeastVersion("590.12"),
                "colour": OneOf(("blue", "green")),
                "flags": Only(("a", "b")),
                "also": Includes(("x",)),
                "never": Excludes(("bad",)),
            }.items()
        )
    ),
    deny=(Denial(name="bad", claim="colour", values=("red",), reason="CVE", since=date(2026, 1, 1)),),
)
STRICT = prepare(form(release("a"), release("b", days=1), platforms=(RULE,)))
EXTRA = {"debug": False, "driver": "590.12", "colour": "blue", "flags": ["a"], "also": ["x"], "never": []}
HONEST = claims("b", **EXTRA)
DEVICE = next(shown(case) for case in GOOD if case.devices)


def moved(asked: Challenge, **by: float) -> Challenge:
    return replace(asked, issued_at=asked.issued_at + timedelta(**by))


def of_device(**changes: object):
    return replace(DEVICE, devices=(replace(DEVICE.devices[0], **changes), *DEVICE.devices[1:]))


# Every code with which a check fails that one changed field would satisfy.
ONE_FIELD = {
    "tpm.pcr04.mismatch": (claims("b", **EXTRA, pcr04=ZERO), STRICT),
    "tpm.pcr04.absent": (claims("b", **EXTRA, drop=("pcr04",)), STRICT),
    "tpm.pcr04.type": (claims("b", **EXTRA, pcr04=4), STRICT),
    "tpm.safe.mismatch": (claims("b", **EXTRA, safe=False), STRICT),
    "tpm.firmware_version.low": (claims("b", **EXTRA, firmware_version=7), STRICT),
    "tpm.debug.denied": (claims("b", **{**EXTRA, "debug": True}), STRICT),
    "tpm.driver.low": (claims("b", **{**EXTRA, "driver": "589"}), STRICT),
    "tpm.colour.mismatch": (claims("b", **{**EXTRA, "colour": "pink"}), STRICT),
    "tpm.flags.mismatch": (claims("b", **{**EXTRA, "flags": ["a", "z"]}), STRICT),
    "tpm.also.mismatch": (claims("b", **{**EXTRA, "also": ["y"]}), STRICT),
    "tpm.also.absent": (claims("b", **EXTRA, drop=("also",)), STRICT),
    "tpm.never.denied": (claims("b", **{**EXTRA, "never": ["bad", "good"]}), STRICT),
    "tpm.never.type": (claims("b", **{**EXTRA, "never": "bad"}), STRICT),
    "evidence.root.not-allowed": (replace(HONEST, roots=("amd",)), STRICT),
    "evidence.root.absent": (replace(HONEST, roots=()), STRICT),
    "evidence.report-data.mismatch": (replace(HONEST, report_data=b"x"), STRICT),
    "evidence.expired": (replace(HONEST, valid_until=NOW - timedelta(1)), STRICT),
    "evidence.not-yet-valid": (replace(HONEST, valid_from=None), STRICT),
}
OF_DEVICES = {
    "evidence.report-data.mismatch": of_device(report_data=b"x"),
    "evidence.root.not-allowed": of_device(roots=("amd",)),
    "evidence.root.absent": of_device(roots=()),
    "evidence.expired": of_device(valid_until=None),
    "evidence.not-yet-valid": of_device(valid_from=NOW + timedelta(1)),
}


def flips(found, policy, asked=None, *, key=WEIGHTS, now=NOW) -> Change:
    """Check that a refusal suggests one change of one field, and that it alone makes it a yes."""
    asked = asked or challenge()
    decision = appraise(found, policy, key, asked, now)
    assert not decision.allowed
    (change,) = suggest(decision, policy, asked)
    assert decide_with((change,), decision, policy, asked).allowed
    assert change.document() == {"field": change.name, "to": change.document()["to"]}
    assert change.message.startswith(f"{change.name} = ")
    return change


@pytest.mark.parametrize("code", sorted(ONE_FIELD))
def test_the_suggested_change_of_one_field_flips_the_decision(code):
    found, policy = ONE_FIELD[code]
    assert {one.code for one in appraise(found, policy, WEIGHTS, challenge(), NOW).findings} == {code}
    flips(found, policy)


@pytest.mark.parametrize("code", sorted(OF_DEVICES))
def test_a_devices_field_is_named_and_its_change_flips_the_decision(code):
    assert code in {
        one.code for one in appraise(OF_DEVICES[code], PREPARED, WEIGHTS, CHALLENGE, NOW).findings
    }
    assert flips(OF_DEVICES[code], PREPARED, CHALLENGE).field[:2] == ("devices", "0")


def test_what_is_asked_and_when_is_a_field_too():
    assert flips(HONEST, STRICT, key="a/b/c").field == ("key",)
    assert flips(HONEST, STRICT, moved(challenge(), seconds=-301)).name == "challenge/issued_at"
    assert flips(HONEST, STRICT, moved(challenge(), seconds=60)).name == "challenge/issued_at"
    short = prepare(replace(STRICT.form, not_after=NOW - timedelta(1)))
    assert flips(HONEST, short).name == "policy/not_after"


def test_a_yes_needs_no_change_and_what_no_evidence_can_change_has_none():
    asked = challenge()
    assert suggest(appraise(HONEST, STRICT, WEIGHTS, asked, NOW), STRICT, asked) == ()
    late = END + timedelta(seconds=1)
    over = appraise(HONEST, STRICT, WEIGHTS, asked, late)
    assert "tpm.pcr10.waiver-expired" in {one.code for one in over.findings}
    assert suggest(over, STRICT, asked) == ()
    other = replace(HONEST, kind="nitro")
    assert suggest(appraise(other, STRICT, WEIGHTS, asked, NOW), STRICT, asked) == ()
    none = replace(DEVICE, devices=())
    assert suggest(appraise(none, PREPARED, WEIGHTS, CHALLENGE, NOW), PREPARED, CHALLENGE) == ()


NAMES = st.sampled_from([name for name, _ in release("b").tuples[0].expect if name != "pcr10"])
VALUES = st.sampled_from([ZERO, "1" * 64, None, 7, True, ["x"], {"a": "b"}])


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_suggested_changes_are_all_needed_and_all_that_is_needed(changed):
    asked, found = challenge(), claims("b", **EXTRA, **changed)
    decision = appraise(found, STRICT, WEIGHTS, asked, NOW)
    if decision.allowed:
        return
    changes = suggest(decision, STRICT, asked)
    assert len(changes) == len(decision.findings)
    assert decide_with(changes, decision, STRICT, asked).allowed
    for one in changes:
        rest = tuple(other for other in changes if other is not one)
        assert not decide_with(rest, decision, STRICT, asked).allowed


@given(nearly_right())
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_over_many_refusals_a_suggestion_flips_what_it_was_made_for(case):
    decision = appraise(shown(case), PREPARED, WEIGHTS, CHALLENGE, NOW)
    changes = suggest(decision, PREPARED, CHALLENGE)
    if changes:
        assert not decision.allowed
        assert decide_with(changes, decision, PREPARED, CHALLENGE).allowed


@pytest.mark.soak
@given(nearly_right())
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
def test_over_very_many_refusals_a_suggestion_flips_what_it_was_made_for(case):
    decision = appraise(shown(case), PREPARED, WEIGHTS, CHALLENGE, NOW)
    changes = suggest(decision, PREPARED, CHALLENGE)
    assert not changes or decide_with(changes, decision, PREPARED, CHALLENGE).allowed


def test_a_change_of_no_field_is_our_own_mistake():
    decision = appraise(claims("c"), STRICT, WEIGHTS, challenge(), NOW)
    with pytest.raises(ValueError, match="no field kind"):
        decide_with((Change(("kind",), "x"),), decision, STRICT, challenge())
    with pytest.raises(TypeError, match="want a moment"):
        decide_with((Change(("challenge", "issued_at"), 1),), decision, STRICT, challenge())


@pytest.mark.parametrize("code", sorted({*ONE_FIELD, "tpm.pcr10.waiver-expired", "evidence.device.absent"}))
def test_every_failed_check_has_a_next_step_of_its_own(code):
    assert next_step(code) not in ("", _ELSE)


def test_what_is_not_known_leads_to_the_operator():
    assert next_step("some.thing") == _ELSE
