"""The decision: what is accepted, every reason of a refusal, and that nothing outside the tuples gets through."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy.policyworld import (
    END,
    NOW,
    TOKENIZER,
    WEIGHTS,
    ZERO,
    challenge,
    claims,
    digest,
    form,
    registers,
    release,
)

from tallystick.appraisal.appraise import appraise
from tallystick.appraisal.index import prepare
from tallystick.appraisal.records import Decision
from tallystick.appraisal.words import codes, document, words
from tallystick.core.expect import AtLeast, Exactly, OneOf
from tallystick.policy import document as policy_document
from tallystick.policy.normal import PlatformRule

TWO = form(release("a"), release("b", days=1))


def decide(found, policy=TWO, *, key=WEIGHTS, asked=None, now=NOW) -> Decision:
    return appraise(found, policy, key, asked or challenge(), now)


def require(**expect):
    rule = PlatformRule(
        platform="qemu-vtpm",
        evidence_kind="tpm-quote",
        roots=("software-tpm",),
        require=tuple(sorted(expect.items())),
    )
    return form(platforms=(rule,))


def test_a_released_tuple_gets_each_key_of_its_policy():
    for key in (WEIGHTS, TOKENIZER):
        for image in ("a", "b"):
            decision = decide(claims(image), key=key)
            assert (decision.allowed, decision.findings) == (True, ())
            assert decision.release == digest(f"release {image}")
            assert decision.nearest is None


def test_a_prepared_policy_decides_the_same_and_is_remembered():
    assert decide(claims(), prepare(TWO)) == decide(claims(), TWO)
    assert decide(claims(), TWO).policy == prepare(TWO).digest == policy_document.digest(TWO)
    given_digest = digest("the exact bytes")
    assert decide(claims(), prepare(TWO, given_digest)).policy == given_digest


def test_another_value_names_the_register_and_both_values():
    decision = decide(claims("b", pcr04=ZERO))
    (finding,) = decision.findings
    assert (decision.allowed, decision.release, decision.nearest) == (False, None, digest("release b"))
    assert finding.code == "tpm.pcr04.mismatch"
    assert finding.message == f"pcr04: want {registers('b')['pcr04']}, got {ZERO}"


def test_tuples_are_never_mixed():
    mixed = {**registers("a"), "pcr04": registers("b")["pcr04"]}
    decision = decide(claims(**mixed))
    assert codes(decision) == ("tpm.pcr04.mismatch",)
    assert decision.nearest == digest("release a")


def test_the_nearest_release_differs_in_the_fewest_claims_and_of_equals_is_the_newest():
    half = {name: registers("b")[name] for name in ("pcr04", "pcr08", "pcr09")}
    assert decide(claims("a", **half)).nearest == digest("release b")
    tie = {name: registers("b")[name] for name in ("pcr04", "pcr08")}
    assert decide(claims("a", **tie)).nearest == digest("release b")
    older = form(release("a", days=2), release("b", days=1))
    assert decide(claims("a", **tie), older).nearest == digest("release a")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "absent"),
        (True, "type"),
        (1, "type"),
        (b"x", "type"),
        ([registers("a")["pcr04"]], "type"),
        ({"a": 1}, "type"),
        (registers("a")["pcr04"].upper(), "mismatch"),
        (registers("a")["pcr04"][:-1], "mismatch"),
        (registers("a")["pcr04"] + "\n", "mismatch"),
        ("", "mismatch"),
    ],
)
def test_what_is_not_the_value_itself_never_satisfies(value, code):
    assert codes(decide(claims(pcr04=value))) == (f"tpm.pcr04.{code}",)


def test_an_absent_claim_never_satisfies():
    assert codes(decide(claims(drop=("pcr04", "pcr11")))) == ("tpm.pcr04.absent", "tpm.pcr11.absent")


def test_a_waived_register_may_hold_anything_until_its_waiver_ends():
    assert decide(claims(pcr10=ZERO)).allowed
    assert decide(claims(drop=("pcr10",))).allowed
    last = replace(claims(), valid_until=END)
    assert decide(last, asked=replace(challenge(), issued_at=END), now=END).allowed
    late = END + timedelta(seconds=1)
    found = replace(claims(), valid_until=late)
    asked = replace(challenge(), issued_at=late)
    assert codes(decide(found, asked=asked, now=late)) == (
        "policy.expired",
        "policy.pcr10.waiver-expired",
        "tpm.pcr10.waiver-expired",
    )


@pytest.mark.parametrize(
    ("expect", "good", "bad"),
    [
        (Exactly(True), [True], [1, "true", False, None]),
        (Exactly(1), [1], [True, "1", 1.0, 2, None]),
        (Exactly("8"), ["8"], [8, "08", " 8", None]),
        (OneOf((1, 2)), [1, 2], [True, 3, "1", 1.0, None]),
        (OneOf(()), [], [None, "", 0, False]),
        (AtLeast(8), [8, 9], [7, "9", True, 9.0, None, [9], float("inf")]),
        (AtLeast(1), [1], [True, "1", 1.5]),
    ],
)
def test_types_are_strict(expect, good, bad):
    policy = require(reset_count=expect)
    assert [decide(claims(reset_count=value), policy).allowed for value in good] == [True] * len(good)
    assert [decide(claims(reset_count=value), policy).allowed for value in bad] == [False] * len(bad)


def test_a_low_number_says_so():
    (finding,) = decide(claims(), require(firmware_version=AtLeast(9))).findings
    assert (finding.code, finding.message) == (
        "tpm.firmware_version.low",
        "firmware_version: want at least 9, got 8",
    )


def test_evidence_must_be_bound_to_the_challenge():
    other = replace(challenge(), report_data=bytes(32))
    assert codes(decide(claims(), asked=other)) == ("evidence.report-data.mismatch",)
    empty = replace(challenge(), report_data=b"")
    assert codes(decide(replace(claims(), report_data=b""), asked=empty)) == (
        "evidence.report-data.mismatch",
    )


@pytest.mark.parametrize(
    ("age", "said"), [(300, ()), (301, ("evidence.stale",)), (-1, ("evidence.challenge.future",))]
)
def test_evidence_must_be_young(age, said):
    assert codes(decide(claims(), asked=challenge(age))) == said


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("valid_from", NOW, ()),
        ("valid_from", NOW + timedelta(seconds=1), ("evidence.not-yet-valid",)),
        ("valid_from", None, ("evidence.not-yet-valid",)),
        ("valid_until", NOW, ()),
        ("valid_until", NOW - timedelta(seconds=1), ("evidence.expired",)),
        ("valid_until", None, ("evidence.expired",)),
        ("roots", (), ("evidence.root.absent",)),
        ("roots", ("amd",), ("evidence.root.not-allowed",)),
        ("roots", ("software-tpm", "amd"), ("evidence.root.not-allowed",)),
        ("kind", "snp-report", ("evidence.kind.not-allowed",)),
    ],
)
def test_certificates_roots_and_kind(field, value, said):
    assert codes(decide(replace(claims(), **{field: value}))) == said


def test_a_key_of_another_policy_is_refused():
    assert codes(decide(claims(), key="other/key/v1")) == ("policy.key.unknown",)


def test_a_policy_ends():
    policy = form(not_after=NOW)
    assert decide(claims(), policy).allowed
    assert codes(decide(claims(), form(not_after=NOW - timedelta(seconds=1)))) == ("policy.expired",)


def test_a_policy_without_releases_permits_nothing():
    decision = decide(claims(), form(releases=()))
    assert (codes(decision), decision.nearest) == (("policy.no-release",), None)


def test_a_tuple_whose_platform_the_policy_does_not_name_permits_nothing():
    rule = replace(TWO.platforms[0], platform="other")
    assert codes(decide(claims(), replace(TWO, platforms=(rule,)))) == ("policy.platform.unknown",)


def test_a_boolean_is_shown_as_one():
    (finding,) = decide(claims(safe=False), require(safe=Exactly(True))).findings
    assert finding.message == "safe: want true, got false"
    assert words(decide(claims())).startswith(f"allowed: {WEIGHTS} for release {digest('release a')}")


def test_every_reason_is_listed():
    found = replace(claims(pcr04=ZERO, drop=("pcr11",)), roots=())
    decision = decide(found, key="other/key/v1", asked=challenge(301))
    assert codes(decision) == (
        "evidence.root.absent",
        "evidence.stale",
        "policy.key.unknown",
        "tpm.pcr04.mismatch",
        "tpm.pcr11.absent",
    )
    said = words(decision)
    assert said.startswith("refused: other/key/v1, for 5 reason(s)")
    assert all(finding.message in said for finding in decision.findings)
    assert len(document(decision)["findings"]) == 5


def test_two_releases_of_one_tuple_are_the_newer_one():
    both = form(release("a"), replace(release("a", days=3), digest=digest("newer")))
    assert decide(claims(), both).release == digest("newer")


def test_a_decision_that_contradicts_itself_can_not_be_made():
    good = decide(claims())
    with pytest.raises(ValueError, match="allows exactly when"):
        replace(good, findings=decide(claims(pcr04=ZERO)).findings)
    with pytest.raises(ValueError, match="allows exactly when"):
        replace(decide(claims(pcr04=ZERO)), allowed=True)


NAMES = sorted(registers("a"))
VALUES = st.sampled_from(
    [*sorted({v for image in "abc" for v in registers(image).values()}), None, True, 0, "", "0"]
)
EVIDENCE = st.fixed_dictionaries(dict.fromkeys(NAMES, VALUES)) | st.builds(
    lambda image, changed: {**registers(image), **changed},
    st.sampled_from("abc"),
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3),
)


@given(EVIDENCE)
def test_nothing_outside_the_released_tuples_is_accepted(values):
    released = [registers("a"), registers("b")]
    decision = decide(claims(**values))
    same = [{name: (type(v), v) for name, v in values.items()}]
    assert decision.allowed == (same[0] in [{n: (str, v) for n, v in one.items()} for one in released])
    assert bool(decision.findings) is not decision.allowed
