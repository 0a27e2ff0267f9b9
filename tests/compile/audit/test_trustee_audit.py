"""Audits of Trustee's two policies. The texts have the shape of those that Trustee ships, in our own words."""

from __future__ import annotations

import pytest
from compile.emitted import deployed

from tallystick.compile.audit import trustee, trustee_kbs
from tallystick.compile.audit.records import ReferenceValues
from tallystick.core.errors import Malformed

# One list of values for each claim, as the shipped CPU policy has for TDX; and its `>=` for the sample platform.
LISTS = """package policy
import rego.v1
default executables := 33
default hardware := 97
default configuration := 36
trust_claims := {"executables": executables, "hardware": hardware, "configuration": configuration}
executables := 3 if {
	input.tdx.quote.body.rtmr_1 in query_reference_value("rtmr_1")
	input.tdx.quote.body.rtmr_2 in query_reference_value("rtmr_2")
}
hardware := 2 if {
	input.tdx.quote.body.mr_td in query_reference_value("mr_td")
	input.tdx.tcb_status == "UpToDate"
}
configuration := 2 if {
	input.tdx.td_attributes.debug == false
	input.tdx.quote.body.xfam in query_reference_value("xfam")
}
executables := 3 if input.se
hardware := 2 if input.se
configuration := 2 if input.se
"""
PINNED = ("mr_td", "rtmr_1", "rtmr_2", "mr_config_id")
TWO = ReferenceValues(
    tuples=tuple(
        {f"quote.body.{name}": f"{letter}{digit}" * 48 for digit, name in enumerate(PINNED)}
        for letter in "ab"
    )
)
SHIPPED = """package policy
default allow = false
allow if {
	data.plugin == "resource"
	not input["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["sample"]
}
"""
AFFIRMING = """package policy
import rego.v1
default allow := false
allow if {
	not worse
	count(input.submods) > 0
}
worse if {
	some _, submod in input.submods
	submod["ear.status"] != "affirming"
}
"""


def codes(found) -> list[str]:
    return [path.code for path in found.paths]


def test_lists_accept_eight_tuples_where_two_were_released():
    found = trustee.Audit().audit(LISTS.encode(), TWO)
    assert found.words.startswith("trustee-attestation-policy: released 2 · accepted 8: ")
    mixed = next(path for path in found.paths if path.code == "trustee.mixed-tuples")
    assert mixed.evidence is not None
    body = mixed.evidence["tdx"]["quote"]["body"]
    assert {body["mr_td"][0], body["rtmr_1"][0], body["rtmr_2"][0]} == {"a", "b"}


def test_what_is_released_and_never_compared_is_named():
    found = trustee.Audit().audit(LISTS.encode(), TWO)
    assert [path.where for path in found.paths if path.code == "trustee.unpinned"] == [
        "tdx: quote.body.mr_config_id"
    ]
    assert {"trustee.init-data", "trustee.existence"} <= set(codes(found))


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("\tinput.tdx.td_attributes.debug == false\n", "", "trustee.debug"),
        ("import rego.v1\n", "import future.keywords\n", "trustee.no-import"),
        (
            'rtmr_1 in query_reference_value("rtmr_1")',
            'rtmr_1 >= query_reference_value("rtmr_1")',
            "trustee.ordering",
        ),
        ("input.tdx.", "input.sample.", "trustee.sample"),
    ],
)
def test_each_trap_is_found(old, new, code):
    assert code not in codes(trustee.Audit().audit(LISTS.encode(), TWO))
    assert code in codes(trustee.Audit().audit(LISTS.replace(old, new).encode(), TWO))


def test_a_minimum_that_is_missing_is_met():
    text = LISTS
    for name in ("rtmr_1", "rtmr_2", "mr_td", "xfam"):
        text = text.replace(
            f'{name} in query_reference_value("{name}")', f'{name} >= query_reference_value("{name}")'
        )
    assert "trustee.no-reference-values" in codes(trustee.Audit().audit(text.encode(), None))


def test_our_own_policies_have_no_permissive_path_there():
    made = deployed()
    assert trustee.Audit().audit(made.files["as_default_cpu.rego"], None).paths == ()
    assert trustee_kbs.Audit().audit(made.files["resource_policy.rego"], None).paths == ()


def test_the_shipped_resource_policy_gives_regardless_of_status():
    found = trustee_kbs.Audit().audit(SHIPPED.encode(), None)
    assert {"trustee.kbs.no-result", "trustee.kbs.status", "trustee.kbs.every-resource"} <= set(codes(found))
    assert all(path.evidence for path in found.paths if path.code != "trustee.no-import")


def test_the_affirming_sample_takes_a_result_without_a_status():
    found = codes(trustee_kbs.Audit().audit(AFFIRMING.encode(), None))
    assert found.count("trustee.kbs.status") == 1
    assert "trustee.kbs.sample" in found
    assert "trustee.kbs.no-result" not in found
    assert "trustee.kbs.devices" not in found


def test_they_are_told_apart():
    for data, first, second in ((LISTS, True, False), (SHIPPED, False, True), ("{}", False, False)):
        assert trustee.Audit().recognises(data.encode(), "x") is first
        assert trustee_kbs.Audit().recognises(data.encode(), "x") is second
    assert not trustee.Audit().recognises(b"\xff", "x")


@pytest.mark.parametrize("text", ["package policy\nimport rego.v1\ntrust_claims := {", "package other"])
def test_what_the_engine_does_not_take_is_malformed(text):
    with pytest.raises(Malformed, match="Trustee policy"):
        trustee.Audit().audit(text.encode(), None)
