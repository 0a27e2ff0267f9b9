"""Intel Trust Authority: what its policies can not say, its limits, and the ways in which they were permissive."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compile.machines import ASKED, CHOICES, NOW, compiled, entry, form, release, rule, waiving, world

from tallystick.compile.errors import Inexpressible, Unproven
from tallystick.compile.produce import express
from tallystick.compile.targets.intel_ita import emit, prove
from tallystick.compile.targets.registry import backend
from tallystick.core.expect import AtLeast, AtLeastVersion, NoneOf
from tallystick.policy.model import Waiver

TDX = ("intel-tdx", "intel", (("tcb_eval_num", AtLeast(17)),))


def tdx(count: int):
    name, root, asked = TDX
    images = [f"image {number}" for number in range(count)]
    return form((rule(name, root, *asked),), tuple(release(image, entry(name, image)) for image in images))


def changed(old: str, new: str) -> dict[str, bytes]:
    made = world("intel-ita")
    text = made.made.files["policy_0.rego"].decode()
    assert old in text
    return {**made.made.files, "policy_0.rego": text.replace(old, new, 1).encode()}


def refused(files) -> str:
    made = world("intel-ita")
    with pytest.raises(Unproven) as caught:
        prove.evaluate(files, made.form, NOW)
    return "; ".join(finding.message for finding in caught.value.findings)


def test_a_token_is_no_key_and_absent_advisories_are_no_proof():
    names = {lack.requirement for lack in backend("intel-ita").lacks(tdx(1), CHOICES["intel-ita"])}
    assert names == {"token-binding", "claim-advisory_ids", "claim-collateral_expiration_status"}


def test_what_is_not_waived_does_not_compile():
    with pytest.raises(Inexpressible) as caught:
        express(tdx(1), CHOICES["intel-ita"])
    assert "claim-advisory_ids" in str(caught.value)


@pytest.mark.parametrize("expect", [AtLeastVersion("1.0"), AtLeast(-1), NoneOf((1, 2))])
def test_there_are_no_words_for(expect):
    made = form(
        (rule("intel-tdx", "intel", ("tcb_eval_num", expect)),), (release("a", entry("intel-tdx", "a")),)
    )
    assert "claim-tcb_eval_num" in {
        one.requirement for one in backend("intel-ita").lacks(made, CHOICES["intel-ita"])
    }


def test_a_token_that_outlives_the_policy_is_a_lack_of_freshness():
    short = replace(tdx(1), max_age_seconds=299)
    assert "freshness" in {one.requirement for one in backend("intel-ita").lacks(short, CHOICES["intel-ita"])}


def test_each_policy_is_below_10_kb_and_there_are_at_most_ten():
    made = compiled("intel-ita", tdx(20))
    policies = {name: data for name, data in made.made.files.items() if name.endswith(".rego")}
    assert 1 < len(policies) <= emit.MOST_POLICIES
    assert max(map(len, policies.values())) < 10_000
    with pytest.raises(Inexpressible) as caught:
        compiled("intel-ita", tdx(100))
    fit = int(str(caught.value).split("; ")[1].split(" ")[0])
    assert 20 < fit < 100
    compiled("intel-ita", tdx(fit))


def test_a_policy_has_no_comments_and_calls_one_function():
    text = world("intel-ita").made.files["policy_0.rego"].decode()
    assert "#" not in text
    assert set(prove._CALL.findall(text)) == {"time.now_ns"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tdx_td_attributes_debug == false", "tdx_td_attributes_debug == true", "refused"),
        ("input.tdx.tdx_td_attributes_debug == false\n", "", "td_attributes.debug"),
        ("default match := false", "default match := true", "default match := false"),
        ("import rego.v1\n", "import rego.v1\n# a comment\n", "no comment"),
        ("input.tdx.tdx_rtmr2 == ", "input.tdx.tdx_rtmr1 == ", "want accepted, got refused"),
        ("not input.nvgpu\n", "", "device"),
        ("machine_0 if {\nin_time\n", "machine_0 if {\n", "after the end"),
    ],
)
def test_a_guard_that_is_broken_is_seen(old, new, said):
    found = refused(changed(old, new))
    assert said in found


def test_the_samples_that_compare_texts_with_texts_are_seen():
    """Intel's V2 page compares ``"tdx.tdx_mrseam" == "123abc"``: never true, so the machine is refused."""
    assert "refused" in refused(changed("input.tdx.tdx_mrsignerseam == ", '"tdx.tdx_mrsignerseam" == '))


def test_a_rule_that_takes_two_releases_apart_is_seen():
    made = world("intel-ita")
    text = made.made.files["policy_0.rego"].decode()
    one, two, *_ = [line for line in text.split("\n") if line.startswith("input.tdx.tdx_mrtd == ")]
    extra = text.replace(one, f"input.tdx.tdx_mrtd in {{{one.split(' == ')[1]}, {two.split(' == ')[1]}}}", 1)
    assert "want" in refused({**made.made.files, "policy_0.rego": extra.encode()})


def test_a_minimum_refuses_fractions_texts_and_what_is_far_beyond():
    made = compiled("intel-ita", tdx(1))
    policies = prove._Policies([made.made.files["policy_0.rego"].decode()], prove.Regorus, NOW)
    good = next(iter(prove.released(prove.view.served(made.form, "intel-ita"))))
    for value, right in (
        (17, True),
        (18, True),
        (272, True),
        (273, False),
        (17.5, False),
        ("17", False),
        (16, False),
    ):
        case = replace(good, claims={**good.claims, "tcb_eval_num": value})
        assert policies.match(prove.document(case)) is right, value


def test_waivers_of_what_it_can_say_are_refused():
    made = waiving(backend("intel-ita"), tdx(1), CHOICES["intel-ita"])
    waiver = Waiver(
        requirement="debug-off",
        decision="x",
        decided_by="y",
        until=made.not_after,
        place=CHOICES["intel-ita"].place,
    )
    with pytest.raises(Exception, match="can not express"):
        express(made, replace(CHOICES["intel-ita"], waivers=(waiver,)))


def test_every_asked_platform_is_one_that_it_takes():
    assert {name for name, _, _ in ASKED["intel-ita"]} == {"intel-tdx", "amd-sev-snp"}
