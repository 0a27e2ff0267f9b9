"""The parts of a policy that say what a machine must show: forms, places of errors, strict values, parties."""

from __future__ import annotations

import json
import re
from datetime import date
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy.anyplatform import choice, device, rules_of
from policy.policyworld import NOW, ROOT

from tallystick.appraisal.checks import compare
from tallystick.compile.oracle import meets
from tallystick.compile.policies import load
from tallystick.core.errors import Malformed, Refused, Unsupported
from tallystick.core.expect import (
    AtLeast,
    AtLeastVersion,
    Exactly,
    Excludes,
    Includes,
    NoneOf,
    OneOf,
    Only,
    version_of,
)
from tallystick.policy.conjunction import both
from tallystick.policy.constraints import constraints, told, unplaced
from tallystick.policy.platforms import platforms
from tallystick.policy.rules import broken

EXAMPLES = sorted((ROOT / "policies").glob("*.yaml"))
PRODUCTION = (ROOT / "policies" / "inference-production.yaml").read_text()
TRAINING = (ROOT / "policies" / "training-run.yaml").read_text()
CLEAN_ROOM = (ROOT / "policies" / "clean-room.yaml").read_text()


def changed(text: str, old: str, new: str) -> bytes:
    assert old in text, old
    return text.replace(old, new, 1).encode()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_policies_that_break_no_rule_and_are_of_the_schema(path):
    import jsonschema_rs
    import yaml

    class Texts(yaml.SafeLoader):
        """PyYAML without dates, which our reader keeps as texts."""

    Texts.yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0].rpartition(":")[2] in {"bool", "int", "null"}]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    assert list(broken(load(path.read_bytes()), NOW)) == []
    schema = json.loads((ROOT / "docs" / "schemas" / "policy.schema.json").read_text())
    jsonschema_rs.validate(schema, yaml.load(path.read_text(), Loader=Texts))  # noqa: S506


def test_the_service_says_what_is_asked_of_machines_and_gpus():
    policy = load(PRODUCTION.encode())
    (snp, tdx) = policy.platforms
    assert snp.deny[0].name == "microcode-2026-07"
    assert (snp.deny[0].values, snp.deny[0].since) == ((88, 89), date(2026, 7, 14))
    assert dict(snp.devices[0].require)["x-nvidia-gpu-driver-version"] == AtLeastVersion("590.12")
    assert dict(tdx.require)["advisory_ids"] == Only(("INTEL-SA-00615",))
    assert policy.reattest_seconds == 3600
    assert policy.supply_chain.approvals is not None
    assert policy.supply_chain.approvals.threshold == 2
    assert policy.denied_firmware[0].name == "ovmf-2024-05"


def test_each_epoch_has_its_own_key():
    keys = [rule.key for rule in load(TRAINING.encode()).keys]
    assert len(keys) == 41
    assert keys[0] == "training-run-7/checkpoint/epoch-00001"
    assert keys[39] == "training-run-7/checkpoint/epoch-00040"


@pytest.mark.parametrize(
    ("text", "old", "new", "said"),
    [
        (PRODUCTION, "claim: reported_tcb_microcode", "claim: microcode", r"claim \(line \d+ .*\): want a claim"),
        (PRODUCTION, "values: [88, 89]", "values: []", "values .*: want a list of at least one value"),
        (PRODUCTION, "values: [88, 89]", "values: ['88']", "want a whole number"),
        (PRODUCTION, "since: 2026-07-14", "since: 2026-02-30", r"since \(line .*\): want a day that exists"),
        (PRODUCTION, "reason: CVE-2026-20881, fixed in 90", "reason: ''", "want why, in one line"),
        (PRODUCTION, 'at_least_version: "590.12"', 'at_least_version: "590-12"', "want a text, {at_least_version"),
        (PRODUCTION, "advisory_ids: {only: [INTEL-SA-00615]}", "advisory_ids: INTEL", "want one of {only"),
        (PRODUCTION, "advisory_ids: {only: [INTEL-SA-00615]}", "advisory_ids: {includes: []}", "at least one value"),
        (PRODUCTION, "device: nvidia-gpu", "device: amd-sev-snp", "want a device, such as nvidia-gpu"),
        (PRODUCTION, "platform: intel-tdx", "platform: nvidia-gpu", "want a machine; devices stand under"),
        (PRODUCTION, "at_least: 1\n        roots", "at_least: 0\n        roots", "want a whole number from 1 to 64"),
        (PRODUCTION, "threshold: 2\n    of:", "threshold: 4\n    of:", "want a whole number from 1 to 3"),
        (PRODUCTION, "firmware: [", "firmware: ['sha256:00', ", "want sha256: and 64"),
        (PRODUCTION, "reattest_seconds: 3600", "reattest_seconds: 0", "want a whole number from 1"),
        (TRAINING, "epoch-{epoch}", "epoch", "with {epoch} once in the last"),
        (TRAINING, "first: 1, last: 40", "first: 40, last: 1", "want a whole number from 40"),
        (TRAINING, "first: 1, last: 40", "first: 1, last: 40, step: 2", "step .*: want a known field"),
        (TRAINING, "strength: provider-signed", "strength: hardware", "want at most provider-signed, which is what"),
        (TRAINING, "strength: provider-signed", "strength: strong", "want one of self-asserted"),
        (TRAINING, "    placement:", "    placement:\n      planet: {one_of: [earth], strength: hardware}", "planet"),
        (CLEAN_ROOM, "party: insurer.example", "party: hospital.example", "want each party once"),
        (CLEAN_ROOM, "freshness: {max_age_seconds: 60}", "freshness: {}", "max_age_seconds .*: want this field"),
    ],
)  # fmt: skip
def test_what_these_parts_may_not_say(text, old, new, said):
    with pytest.raises((Malformed, Unsupported), match=said):
        load(changed(text, old, new))


@pytest.mark.parametrize(
    ("text", "old", "new", "code"),
    [
        (PRODUCTION, "      reported_tcb_snp: {at_least: 23}\n", "", "policy.platform.unstated"),
        (PRODUCTION, "      tcb_eval_num: {at_least: 18}", "      td_attributes.debug: true", "policy.debug-off"),
        (PRODUCTION, "reattest_seconds: 3600", "reattest_seconds: 20000", "policy.reattest.too-long"),
        (PRODUCTION, "unexplained_files: 0 ", "unexplained_files: 1 ", "policy.production.unexplained-files"),
        (CLEAN_ROOM, "max_age_seconds: 60", "max_age_seconds: 6000", "policy.freshness.too-long"),
        (CLEAN_ROOM, "roots: [intel]", "roots: [other]", "policy.parties.contradict"),
        (CLEAN_ROOM, "tcb_status: {one_of: [UpToDate, SWHardeningNeeded]}", "tcb_status: SWHardeningNeeded",
         "policy.parties.contradict"),
        (CLEAN_ROOM, "sbom: {denied: [], unexplained_files: 0}", "sbom: {denied: [], unexplained_files: 3}",
         "policy.production.unexplained-files"),
    ],
)  # fmt: skip
def test_what_no_policy_may_ask(text, old, new, code):
    assert code in {finding.code for finding in broken(load(changed(text, old, new)), NOW)}


def test_what_a_party_leaves_out_is_the_strict_value():
    policy = load(CLEAN_ROOM.encode())
    from tallystick.policy.conjunction import rules

    (rule,) = rules(policy)
    require = dict(rule.require)
    assert require["tcb_status"] == Exactly("UpToDate")
    assert require["tcb_eval_num"] == AtLeast(18)
    assert require["td_attributes.debug"] == Exactly(False)


@pytest.mark.parametrize("known", platforms(), ids=lambda known: known.name)
def test_every_row_of_the_table_is_consistent(known):
    for path, expect in (*known.strict, *known.debug_off):
        kind = known.claim_type(path)
        assert kind is not None, path
        values = getattr(expect, "values", None) or (getattr(expect, "value", None),)
        assert all(kind.holds(value) for value in values) or expect == Only(())
    assert set(known.stated).isdisjoint(dict(known.strict))
    assert set(known.never_zero) <= set(known.registers)
    assert all(known.claim_type(path) for path in known.stated)
    assert all(known.claim_type(place.path) for place in known.places)
    assert known.device == (not known.registers)


def test_debug_off_and_strict_values_are_always_pinned():
    for known in platforms():
        if known.device:
            continue
        (rule,) = rules_of(choice(known.name, devices=(device(),)))
        for one in (rule, *rule.devices):
            row = next(p for p in platforms() if p.name == one.platform)
            assert {*dict(row.debug_off), *dict(row.strict), *row.stated} <= set(dict(one.require))
    names = {c.requirement for c in constraints(rules_of(choice("intel-tdx"))[0])}
    assert "debug-off" in names


def test_a_place_that_no_claim_says_is_named():
    policy = load(
        changed(
            TRAINING, "    placement:", "    placement:\n      region: {one_of: [eu], strength: hardware}"
        )
    )
    from tallystick.policy.conjunction import rules

    (rule,) = rules(policy)
    assert unplaced(rule) == ("placement-region",)
    assert {c.requirement for c in constraints(rule)} >= {"placement-zone", "placement-account"}


SCALARS = [
    True,
    False,
    0,
    1,
    8,
    9,
    -1,
    "",
    "8",
    "a",
    "b",
    "590.12",
    "590.100",
    "590.12.0",
    "1",
    None,
    1.5,
    ["a"],
    ["a", "b"],
    [],
    [1],
    {"a": 1},
]
EXPECTED = [
    Exactly(True),
    Exactly(8),
    Exactly("8"),
    OneOf((8, 9)),
    OneOf(("a", "b")),
    NoneOf((8,)),
    NoneOf(("a",)),
    NoneOf((True,)),
    AtLeast(8),
    AtLeast(-1),
    AtLeastVersion("590.12"),
    AtLeastVersion("590"),
    Only(()),
    Only(("a",)),
    Only(("a", "b")),
    Includes(("a",)),
    Includes(("a", "b")),
    Excludes(("a",)),
    Excludes(("b", "c")),
]


@pytest.mark.parametrize("expect", EXPECTED, ids=repr)
def test_the_evaluator_and_the_oracle_of_proofs_agree(expect):
    for value in SCALARS:
        assert (not list(compare("x", "claim", expect, value, NOW))) == meets(expect, value), value


@pytest.mark.parametrize("expect", EXPECTED, ids=repr)
def test_nothing_is_met_by_absence_or_by_another_type(expect):
    (finding,) = compare("x", "claim", expect, None, NOW)
    assert finding.code == "x.absent"
    for value in ({}, 1.5, object(), [None]):
        (finding,) = compare("x", "claim", expect, value, NOW)
        assert finding.code in {"x.type", "x.mismatch", "x.low"}


@pytest.mark.parametrize(("one", "two"), product(EXPECTED, repeat=2), ids=repr)
def test_what_meets_both_meets_their_conjunction_and_nothing_else_does(one, two):
    try:
        joined = both(one, two, "here")
    except Refused:
        return
    for value in SCALARS:
        assert meets(joined, value) == (meets(one, value) and meets(two, value)), value


@given(
    st.lists(st.integers(0, 10**9 - 1), min_size=1, max_size=8),
    st.lists(st.integers(0, 999), min_size=1, max_size=8),
)
def test_versions_are_compared_by_their_numbers(one, two):
    first, second = (".".join(map(str, numbers)) for numbers in (one, two))
    padded = [numbers + [0] * (8 - len(numbers)) for numbers in (one, two)]
    assert ((version_of(first) or ()) >= (version_of(second) or ())) == (padded[0] >= padded[1])


@given(st.text(max_size=20))
def test_what_is_no_version_is_none(text):
    assert (version_of(text) is not None) == bool(
        re.fullmatch(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,9}){0,7}", text)
    )


def test_what_is_waived_for_a_target_is_not_asked_there():
    from dataclasses import replace

    from policy.anyplatform import form_of
    from policy.policyworld import WAIVED

    from tallystick.policy.normal import Residual

    form = form_of(choice("amd-sev-snp", devices=(device(),)), choice("intel-tdx"))
    names = ("claim-vmpl", "device-nvidia-gpu", "platform-intel-tdx")
    form = replace(
        form, residuals=tuple(Residual(target="x", requirement=name, waived=WAIVED) for name in names)
    )
    (rule,) = told(form, "x").platforms
    assert "vmpl" not in dict(rule.require)
    assert rule.devices == ()
    assert told(form, "y") == form
