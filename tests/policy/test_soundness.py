"""A compiled policy that lacks a strict value, or says something that no compiler says, is not read."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from policy.anyplatform import choice, device, form_of
from policy.policyworld import WAIVED

from tallystick.core.expect import AtLeast, Exactly, NoneOf, OneOf, Only
from tallystick.policy.normal import Denial, Placement
from tallystick.policy.platforms import platforms
from tallystick.policy.soundness import flaws

MACHINES = [known for known in platforms() if not known.device]
SNP = form_of(choice("amd-sev-snp", devices=(device(),)))
DENIAL = Denial(name="bad", claim="vmpl", values=(1,), reason="x", since=date(2026, 1, 1))
PLACE = Placement(name="provider", values=("acme",), strength="hardware", claim="csp_id")


def codes(form) -> set[str]:
    return {finding.code for finding in flaws(form)}


def with_rule(form, **changes):
    return replace(form, platforms=(replace(form.platforms[0], **changes),))


def with_device(form, **changes):
    return with_rule(form, devices=(replace(form.platforms[0].devices[0], **changes),))


@pytest.mark.parametrize("known", MACHINES, ids=lambda known: known.name)
def test_no_strict_value_and_nothing_that_must_be_stated_may_be_missing(known):
    form = form_of(choice(known.name))
    assert codes(form) == set()
    for path in (*dict(known.strict), *known.stated, *dict(known.debug_off)):
        left = tuple(pair for pair in form.platforms[0].require if pair[0] != path)
        assert codes(with_rule(form, require=left)) & {"compiled.require", "compiled.debug-off"}, path


@pytest.mark.parametrize(
    "known", [known for known in MACHINES if known.debug_off], ids=lambda known: known.name
)
def test_debug_is_off_or_waived_and_in_production_off(known):
    form = form_of(choice(known.name))
    path, off = known.debug_off[0]
    other = Exactly(not off.value) if isinstance(off.value, bool) else Exactly("enabled")
    require = tuple((p, other if p == path else e) for p, e in form.platforms[0].require)
    loose = with_rule(form, require=require)
    waived = replace(loose, waivers=(("debug-off", WAIVED),))
    assert "compiled.debug-off" in codes(loose)
    assert "compiled.debug-off" not in codes(waived)
    assert "compiled.debug-off" in codes(replace(waived, channel="production"))


@pytest.mark.parametrize(
    ("form", "code"),
    [
        (with_device(SNP, require=()), "compiled.require"),
        (with_device(SNP, roots=()), "compiled.roots"),
        (with_device(SNP, platform="amd-sev-snp", evidence_kind="snp-report"), "compiled.platform"),
        (with_device(SNP, deny=(DENIAL,)), "compiled.deny"),
        (with_rule(SNP, deny=(replace(DENIAL, values=("1",)),)), "compiled.deny"),
        (with_rule(SNP, placement=(replace(PLACE, claim=""),)), "compiled.placement"),
        (with_rule(SNP, placement=(replace(PLACE, claim="chip_id"),)), "compiled.placement"),
        (with_rule(SNP, placement=(replace(PLACE, strength="strong"),)), "compiled.placement"),
        (with_rule(SNP, placement=(replace(PLACE, values=()),)), "compiled.placement"),
        (with_rule(SNP, placement=(replace(PLACE, name="planet"),)), "compiled.placement"),
        (replace(SNP, reattest_seconds=10**6), "compiled.reattest"),
    ],
)
def test_what_no_compiler_makes(form, code):
    assert code in codes(form)


def test_good_denials_and_places_are_read():
    assert codes(with_rule(SNP, deny=(DENIAL,), placement=(PLACE,))) == set()


@pytest.mark.parametrize(
    "expect",
    [Only(("a",)), AtLeast(True), OneOf(()), OneOf((0, "0")), NoneOf(("x",)), Exactly("0"), WAIVED],
    ids=repr,
)
def test_an_expectation_has_the_claim_s_type(expect):
    require = tuple((p, expect if p == "vmpl" else e) for p, e in SNP.platforms[0].require)
    assert "compiled.require" in codes(with_rule(SNP, require=require))
