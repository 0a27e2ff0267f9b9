"""The Trustee target: the silently permissive ways of its languages, one test each, in the engine it uses.

The numbers are those of docs/targets.md, "Pitfalls".
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from datetime import timedelta

import pytest
from compile.emitted import PINNED, Deployment, case, choice, deployed, pinned_choice, trustee_form
from hypothesis import given, settings
from hypothesis import strategies as st
from policy.policyworld import END, NOW, TOKENIZER, WAIVED, WEIGHTS, digest, form, registers, release

from tallystick.compile.errors import Inexpressible
from tallystick.compile.produce import express, produce
from tallystick.compile.targets.trustee import emit, limits
from tallystick.compile.targets.trustee.codec import Form
from tallystick.compile.targets.trustee.conditions import _lines as conditions_of
from tallystick.compile.targets.trustee.engines import RegoCpp, RegoError, Regorus
from tallystick.compile.targets.trustee.simulate import Denied, appraisal, reference_values, tcb_claims, token
from tallystick.core.errors import Exit, Refused, Unsupported
from tallystick.core.expect import AtLeast, Exactly, OneOf, Waived
from tallystick.policy.normal import PlatformRule

HERE = deployed()


def test_a_released_tuple_gets_each_key_and_nothing_else_does():
    for key in (WEIGHTS, TOKENIZER):
        assert HERE.releases(case("a"), key)
        assert HERE.releases(case("b"), key)
        assert not HERE.releases(case("c"), key)
    assert not HERE.releases(case("a"), "other/key/v1")
    assert not HERE.releases(case("a"), "")


def test_the_token_names_the_release_that_matched():
    submod = HERE.appraise(case("a"))
    assert submod is not None
    assert submod["ear.status"] == "affirming"
    assert submod["ear.trustworthiness-vector"] == {"configuration": 2, "executables": 3}
    assert submod["ear.tallystick.permits"] == [f"confidential-inference qemu-vtpm {digest('release a')}"]


def test_pitfall_1_nobody_gets_a_key_regardless_of_status():
    good = HERE.appraise(case("a"))
    assert good is not None
    for status in ("none", "warning", "contraindicated", None):
        assert not HERE.gives(WEIGHTS, token({**good, "ear.status": status}, NOW))
    assert not HERE.gives(WEIGHTS, {})
    assert not HERE.gives(WEIGHTS, {**token(good, NOW), "submods": {}})


def test_pitfall_2_the_policy_id_is_default_cpu_and_other_devices_are_refused():
    readme = HERE.files["README.md"].decode()
    assert "--id default_cpu" in readme
    assert not re.search(r"--id default\b(?!_)", readme)
    good = HERE.appraise(case("a"))
    for other in ("gpu0", "cpu1", "switch0", "ppcie0"):
        claims = token(good, NOW)
        claims["submods"][other] = good
        assert not HERE.gives(WEIGHTS, claims)


@pytest.mark.parametrize("value", ["9", "10", None, True, [10], {}, "", 7])
def test_pitfall_3_a_minimum_is_not_met_by_what_is_no_number(value):
    conditions = "\n".join(f"\t{line}" for line in conditions_of("input.tpm.svn", Form.PLAIN, AtLeast(8)))
    engine = Regorus(
        f"package policy\nimport rego.v1\ndefault ok := false\nok if {{\n{conditions}\n}}\n", {}, NOW
    )
    assert engine.evaluate("ok", {"tpm": {"svn": value}}, {}) is False
    assert engine.evaluate("ok", {"tpm": {}}, {}) is False
    assert engine.evaluate("ok", {"tpm": {"svn": 8}}, {}) is True


def test_pitfall_3_is_real():
    """Without the type check the engine says yes to a text, and to a number when the minimum is missing."""
    engine = Regorus("package policy\nimport rego.v1\na := input.svn >= 8\nb := 1 >= null\n", {}, NOW)
    assert engine.evaluate("a", {"svn": "1"}, {}) is True
    assert engine.evaluate("b", {}, {}) is True


@pytest.mark.parametrize("name", [emit.AS_POLICY, emit.RESOURCE_POLICY])
def test_pitfall_4_every_policy_imports_rego_v1(name):
    text = HERE.files[name].decode()
    assert list(limits.check(name, text)) == []
    without = text.replace("import rego.v1\n", "")
    assert [finding.code for finding in limits.check(name, without)] == ["trustee.head"]


def test_pitfall_5_values_of_several_releases_do_not_mix():
    for path in ("pcr04", "pcr08", "pcr09", "pcr11"):
        assert not HERE.releases(case("a", **{path: registers("b")[path]}))


@pytest.mark.parametrize("name", ["configuration", "executables"])
def test_pitfall_6_a_vector_that_says_less_is_not_enough(name):
    good = HERE.appraise(case("a"))
    vector = good["ear.trustworthiness-vector"]
    for value in (0, 1, 2, 3, 32, 33, 96):
        if value != vector[name]:
            changed = {**good, "ear.trustworthiness-vector": {**vector, name: value}}
            assert not HERE.gives(WEIGHTS, token(changed, NOW))
    rest = {other: value for other, value in vector.items() if other != name}
    assert not HERE.gives(WEIGHTS, token({**good, "ear.trustworthiness-vector": rest}, NOW))


def test_pitfall_7_the_rvps_forgets_nothing_so_the_policy_says_which_releases_count():
    both = deployed(release("a"), release("b"))
    after = deployed(release("b"))  # a was revoked, and the RVPS was not told
    stale = Deployment({**after.files, "rvps_0.json": both.files["rvps_0.json"]})
    assert both.releases(case("a"))
    assert not stale.releases(case("a"))
    assert stale.releases(case("b"))


def test_pitfall_7_nothing_is_permitted_after_the_end():
    late = Deployment(HERE.files, at=END + timedelta(seconds=1))
    assert Deployment(HERE.files, at=END).releases(case("a"))
    assert not late.releases(case("a"))
    assert late.appraise(case("a"))["ear.status"] == "contraindicated"


def test_pitfall_8_nothing_is_said_of_hardware_that_nobody_looked_at():
    for evidence in (case("a"), case("c")):
        assert "hardware" not in HERE.appraise(evidence)["ear.trustworthiness-vector"]


@pytest.mark.parametrize(
    "spell", [str.upper, lambda v: base64.b64encode(bytes.fromhex(v)).decode(), "0x{}".format]
)
def test_pitfall_9_another_encoding_is_another_value(spell):
    assert not HERE.releases(case("a", pcr04=spell(registers("a")["pcr04"])))


def test_pitfall_10_what_only_the_configuration_can_check_is_written_down():
    residual = json.loads(HERE.files["residual.json"])
    assert any("insecure_header_jwk = false" in line for line in residual["assumed"])
    assert any("attestation_service.timeout = 1" in line for line in residual["assumed"])
    assert "insecure_header_jwk = false" in HERE.files["README.md"].decode()


@pytest.mark.parametrize("value", [258, 259, 0, 1, -1, 4, 300])
def test_pitfall_11_only_documented_constants(value):
    with pytest.raises(Refused, match="would not mean there"):
        prove_text(emit.AS_POLICY, "configuration := 2 if", f"configuration := {value} if")


def test_pitfall_11_one_byte_wraps():
    text = 'package policy\nimport rego.v1\ntrust_claims := {"executables": 259}\n'
    submod = appraisal(Regorus(text, {}, NOW), tcb_claims(case("c")))
    assert submod["ear.trustworthiness-vector"] == {"executables": 3}


def test_pitfall_12_what_the_verifier_does_not_check_must_be_waived_by_name():
    target = replace(choice(), waivers=())
    with pytest.raises(Inexpressible, match="attestation-key-root, pcr-selection") as caught:
        express(form(), target)
    assert caught.value.exit is Exit.UNSUPPORTED
    assert [finding.code for finding in caught.value.findings] == ["target.inexpressible"] * 2
    residual = json.loads(HERE.files["residual.json"])
    assert [entry["requirement"] for entry in residual["not_checked"]] == [
        "attestation-key-root",
        "pcr-selection",
    ]
    assert all(entry["waived"]["decision"] for entry in residual["not_checked"])
    assert "NOT CHECKED pcr-selection" in HERE.files[emit.AS_POLICY].decode()


def prove_text(name: str, old: str, new: str):
    made = trustee_form()
    files = emit.emit(made, choice()).files
    text = files[name].decode()
    assert old in text
    from tallystick.compile.targets.trustee.prove import prove

    return prove({**files, name: text.replace(old, new).encode()}, made, choice(), NOW)


def test_pinned_attestation_keys_take_the_place_of_a_root():
    target = pinned_choice()
    express(trustee_form(target=target), target)
    here = deployed(target=target)
    assert here.releases(case("a", ak_public=PINNED))
    for other in (PINNED[:-4] + "AAA=", "", None, 1, [PINNED], ...):
        assert not here.releases(case("a", ak_public=other))
    submod = here.appraise(case("c", ak_public=PINNED))
    assert submod["ear.trustworthiness-vector"] == {
        "configuration": 96,
        "executables": 96,
        "instance-identity": 2,
    }


def test_a_waiver_that_waives_nothing_is_refused():
    extra = replace(choice().waivers[0], requirement="claim-safe")
    target = replace(choice(), waivers=(*choice().waivers, extra))
    with pytest.raises(Refused, match="waives nothing") as caught:
        produce(trustee_form(), [target], NOW)
    assert [finding.code for finding in caught.value.findings] == ["target.waiver.unneeded"]
    pinned = replace(choice(), attestation_keys=(PINNED,))
    with pytest.raises(Refused, match="waives nothing"):
        express(trustee_form(), pinned)


def required(**expect) -> tuple[PlatformRule, ...]:
    pairs = tuple(sorted(expect.items()))
    roots = ("software-tpm",)
    return (PlatformRule(platform="qemu-vtpm", evidence_kind="tpm-quote", roots=roots, require=pairs),)


def test_a_claim_that_the_verifier_does_not_tell_is_inexpressible():
    made = trustee_form(platforms=required(safe=Exactly(True)))
    with pytest.raises(Inexpressible, match="trustee can not express: claim-safe"):
        express(made, choice())


def test_a_claim_that_the_verifier_does_not_tell_may_be_waived_by_name():
    waiver = replace(choice().waivers[0], requirement="claim-safe")
    target = replace(choice(), waivers=(waiver, *choice().waivers))
    made = trustee_form(target=target, platforms=required(safe=Exactly(True)))
    (one,) = produce(made, [target], NOW)
    assert (one.proof.released, one.proof.accepted) == (2, 2)
    residual = json.loads(one.emitted.files["residual.json"])
    assert "claim-safe" in [entry["requirement"] for entry in residual["not_checked"]]
    assert "NOT CHECKED claim-safe" in one.emitted.files[emit.RESOURCE_POLICY].decode()


def test_a_platform_that_has_no_policy_yet_is_inexpressible():
    rule = replace(form().platforms[0], platform="aws-nitro", evidence_kind="nitro")
    with pytest.raises(Inexpressible, match="platform-aws-nitro"):
        express(trustee_form(platforms=(rule,)), choice())


def test_a_claim_that_the_verifier_tells_is_required():
    made = trustee_form(platforms=required(pcr17=Exactly("f" * 64), pcr18=OneOf(("0" * 64, "1" * 64))))
    here = Deployment.of(emit.emit(made, choice()))
    assert here.releases(case("a", pcr17="f" * 64, pcr18="1" * 64))
    for changed in ({"pcr17": "f" * 64}, {"pcr18": "0" * 64}, {"pcr17": "e" * 64, "pcr18": "0" * 64}):
        assert not here.releases(case("a", **changed))
    (one,) = produce(made, [choice()], NOW)
    assert (one.proof.released, one.proof.accepted) == (2, 2)


def test_freshness_must_fit_into_session_and_token():
    slow = replace(choice(), session_minutes=5)
    with pytest.raises(Inexpressible, match="freshness"):
        express(trustee_form(), slow)
    assert HERE.releases(case("a"), age_seconds=240)
    assert not HERE.releases(case("a"), age_seconds=241)
    assert not HERE.releases(case("a"), age_seconds=-1)


def test_an_unknown_version_is_unsupported():
    with pytest.raises(Unsupported, match=r"version \(line .*\): want one of 0.19, 0.20, 0.21, got 0.15"):
        express(trustee_form(), replace(choice(), version="0.15"))


def test_a_set_that_does_not_fit_says_how_many_would():
    many = [replace(release("a"), digest=digest(f"release {n}")) for n in range(3_200)]
    with pytest.raises(Inexpressible, match=r"3200 releases do not fit; about \d{4} would") as caught:
        emit.emit(trustee_form(*many), choice())
    assert {finding.code for finding in caught.value.findings} <= {
        "trustee.limit.lines",
        "trustee.limit.bytes",
        "trustee.limit.request",
    }


def test_many_tuples_go_into_several_messages():
    many = trustee_form(*(release(f"r{n}", shapes=(512, 1024, 2048)) for n in range(180)))
    made = emit.emit(many, choice())
    assert sum(1 for name in made.files if name.startswith("rvps_")) == 2
    here = Deployment.of(made)
    assert here.releases(case("r0"))
    assert here.releases(case("r179"))
    assert not here.releases(case("r180"))


def test_emission_is_reproducible_and_shorter_waivers_end_it():
    made = trustee_form()
    assert emit.emit(made, choice()) == emit.emit(trustee_form(), choice())
    soon = NOW + timedelta(days=30)
    first = made.residuals[0]
    short = replace(first, waived=Waived(WAIVED.decision, WAIVED.decided_by, soon))
    emitted = emit.emit(replace(made, residuals=(short, made.residuals[1])), choice())
    assert emitted.not_after == soon
    assert not Deployment(emitted.files, at=soon + timedelta(seconds=1)).releases(case("a"))


def test_every_bundle_and_release_is_named_in_both_policies():
    made = trustee_form()
    for name in (emit.AS_POLICY, emit.RESOURCE_POLICY):
        text = HERE.files[name].decode()
        for one in made.releases:
            assert all(str(bundle) in text for bundle in (one.digest, *one.bundles))


def test_a_policy_without_releases_gives_nothing():
    here = deployed_empty()
    assert here.appraise(case("a"))["ear.status"] == "contraindicated"
    assert not here.releases(case("a"))


def deployed_empty() -> Deployment:
    made = replace(trustee_form(), releases=())
    (one,) = produce(made, [choice()], NOW)
    assert (one.proof.released, one.proof.accepted) == (0, 0)
    return Deployment.of(one.emitted)


@pytest.mark.parametrize(
    ("trust", "said"),
    [
        ('{"nonsense": 2}', "makes the attestation service fail"),
        ('{"executables": "3"}', "makes the attestation service fail"),
        ('{"executables": true}', "makes the attestation service fail"),
        ("[]", "not an object"),
        ('"affirming"', "not an object"),
        ("input.nothing", "not an object"),
        ('to_number("x")', "could not parse"),
    ],
)
def test_the_attestation_service_fails_closed(trust, said):
    engine = Regorus(f"package policy\nimport rego.v1\ntrust_claims := {trust}\n", {}, NOW)
    with pytest.raises(Denied, match=said):
        appraisal(engine, tcb_claims(case("a")))


def test_without_trust_claims_there_is_no_status():
    submod = appraisal(Regorus("package policy\nimport rego.v1\nx := 1\n", {}, NOW), tcb_claims(case("a")))
    assert submod["ear.status"] == "none"


@pytest.mark.parametrize("allow", ['"yes"', "1", "null", "[]"])
def test_the_kbs_takes_the_boolean_true_alone(allow):
    text = f"package policy\nimport rego.v1\nallow := {allow}\n".encode()
    good = HERE.appraise(case("a"))
    assert not Deployment({**HERE.files, emit.RESOURCE_POLICY: text}).gives(WEIGHTS, token(good, NOW))


@pytest.mark.parametrize(
    "text", ["package policy\nallow { true }", "nonsense", "package policy\nimport rego.v1\nx := y"]
)
def test_what_the_engine_does_not_take_is_an_error(text):
    with pytest.raises(RegoError):
        Regorus(text, {}, NOW).evaluate("x", {}, {})


@pytest.mark.parametrize(
    "message", [{}, {"version": "0.1.0", "type": "swid"}, {"version": "1", "type": "sample"}]
)
def test_what_the_rvps_does_not_take_is_no_reference_value(message):
    with pytest.raises(ValueError, match="not an RVPS message"):
        reference_values([json.dumps({**message, "payload": "e30="}).encode()])


def test_both_engines_agree_on_the_emitted_policies():
    pytest.importorskip("regopy")
    ours = Regorus(HERE.files[emit.AS_POLICY].decode(), HERE.values, NOW)
    theirs = RegoCpp(HERE.files[emit.AS_POLICY].decode(), HERE.values, NOW)
    for evidence in (case("a"), case("c"), case("a", pcr04=None), case("a", pcr04=...)):
        assert appraisal(ours, tcb_claims(evidence)) == appraisal(theirs, tcb_claims(evidence))


NAMES = sorted(registers("a"))
VALUES = st.sampled_from(
    [*sorted({v for i in "abc" for v in registers(i).values()}), None, True, 0, "", "0", []]
)
EVIDENCE = st.builds(
    lambda image, changed: case(image, **changed),
    st.sampled_from("abc"),
    st.dictionaries(st.sampled_from(NAMES), VALUES | st.just(...), max_size=15),
)


@settings(max_examples=150, deadline=None)
@given(EVIDENCE)
def test_no_random_evidence_outside_the_released_tuples_is_accepted(evidence):
    released = evidence.claims in (registers("a"), registers("b"))
    assert HERE.releases(evidence) == released
