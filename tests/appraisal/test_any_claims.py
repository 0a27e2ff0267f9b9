"""Whatever claims say, appraisal answers: never a crash, never a key that the oracle of proofs would not give."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy.anyplatform import ROOTS, choice, device, form_of
from policy.policyworld import NOW, REPORT_DATA, WEIGHTS

from tallystick.appraisal.appraise import allows, appraise
from tallystick.appraisal.index import prepare
from tallystick.appraisal.records import Challenge
from tallystick.compile.domain import Case, Device, nested, released
from tallystick.compile.oracle import Oracle
from tallystick.evidence.claims import Claims
from tallystick.policy.normal import Denial

DEVICE_DATA = bytes(range(5, 37))
DENIAL = Denial(name="bad", claim="reported_tcb_microcode", values=(8, 9), reason="x", since=date(2026, 1, 1))
FORM = form_of(choice("amd-sev-snp", deny=(DENIAL,), devices=(device(least=1),)), choice("intel-tdx"))
PREPARED, ORACLE = prepare(FORM), Oracle(FORM)
GOOD = list(released(FORM))
CHALLENGE = Challenge(
    report_data=REPORT_DATA, issued_at=NOW - timedelta(seconds=5), device_report_data=DEVICE_DATA
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 300)
    | st.text(max_size=4)
    | st.sampled_from(["UpToDate", "590.13"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def claims(kind: str, flat, data: bytes, devices: tuple[Claims, ...] = ()) -> Claims:
    return Claims(
        kind=kind, values=nested(flat), roots=(ROOTS.get(kind, "other"),), report_data=data,
        valid_from=NOW - timedelta(days=1), valid_until=NOW + timedelta(days=1), devices=devices,
    )  # fmt: skip


def shown(case: Case) -> Claims:
    devices = tuple(claims(one.kind, one.claims, DEVICE_DATA) for one in case.devices)
    return claims(case.kind, case.claims, REPORT_DATA, devices)


@st.composite
def nearly_right(draw):
    """A released tuple with some claims of it, or of its devices, dropped or changed to anything."""
    base = draw(st.sampled_from(GOOD))
    paths = sorted(base.claims)
    changed = draw(st.dictionaries(st.sampled_from(paths), values, max_size=2))
    gone = draw(st.sets(st.sampled_from(paths), max_size=1))
    flat = {path: value for path, value in {**base.claims, **changed}.items() if path not in gone}
    devices = base.devices
    if devices and draw(st.booleans()):
        names = sorted(devices[0].claims)
        other = {**devices[0].claims, **draw(st.dictionaries(st.sampled_from(names), values, max_size=1))}
        kind = draw(st.sampled_from(["nvidia-gpu", "sample"]))
        devices = (*devices, Device(kind, other)) if draw(st.booleans()) else (Device(kind, other),)
    return Case(base.kind, "changed", flat, devices)


@given(nearly_right())
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_any_change_is_decided_as_the_oracle_decides(case):
    evidence = shown(case)
    decision = appraise(evidence, PREPARED, WEIGHTS, CHALLENGE, NOW)
    assert decision.allowed == bool(ORACLE.permits(case))
    assert decision.release == allows(evidence, PREPARED, WEIGHTS, CHALLENGE, NOW)
    assert decision.allowed or decision.findings


@pytest.mark.soak
@given(nearly_right())
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
def test_very_many_changes_are_decided_as_the_oracle_decides(case):
    assert appraise(shown(case), PREPARED, WEIGHTS, CHALLENGE, NOW).allowed == bool(ORACLE.permits(case))


@given(
    st.sampled_from(["snp-report", "tdx-quote", "nvidia-gpu", "x"]),
    st.dictionaries(st.text(max_size=8), values, max_size=6),
)
@settings(max_examples=200, deadline=None)
def test_other_claims_get_reasons(kind, flat):
    evidence = Claims(
        kind=kind, values=flat, roots=("amd",), report_data=REPORT_DATA, valid_from=NOW, valid_until=NOW
    )
    decision = appraise(evidence, PREPARED, WEIGHTS, CHALLENGE, NOW)
    assert not decision.allowed
    assert all(finding.code and finding.message for finding in decision.findings)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"report_data": REPORT_DATA}, "evidence.report-data.mismatch"),
        ({"roots": ("amd",)}, "evidence.root.not-allowed"),
        ({"roots": ()}, "evidence.root.absent"),
        ({"valid_until": NOW - timedelta(seconds=1)}, "evidence.expired"),
        ({"valid_from": None}, "evidence.not-yet-valid"),
        ({"kind": "nvidia-switch"}, "evidence.device.not-allowed"),
    ],
)
def test_a_device_is_held_to_everything_that_a_machine_is(change, code):
    good = shown(next(case for case in GOOD if case.devices))
    assert appraise(good, PREPARED, WEIGHTS, CHALLENGE, NOW).allowed
    changed = replace(good, devices=(replace(good.devices[0], **change),))
    decision = appraise(changed, PREPARED, WEIGHTS, CHALLENGE, NOW)
    assert code in {finding.code for finding in decision.findings}


def test_a_challenge_for_no_device_takes_none():
    good = shown(next(case for case in GOOD if case.devices))
    decision = appraise(good, PREPARED, WEIGHTS, replace(CHALLENGE, device_report_data=b""), NOW)
    assert [finding.code for finding in decision.findings] == ["evidence.report-data.mismatch"]


def test_enough_devices_are_shown():
    good = shown(next(case for case in GOOD if case.devices))
    decision = appraise(replace(good, devices=()), PREPARED, WEIGHTS, CHALLENGE, NOW)
    assert [finding.code for finding in decision.findings] == ["evidence.device.absent"]
