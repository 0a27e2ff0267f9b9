"""The rules of each channel: what no policy may say, and that nothing of development reaches production."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from policy.policyworld import NOW, policy_text

from tallystick.compile.policies import load
from tallystick.core.errors import Exit, Refused
from tallystick.policy.rules import broken, check

PRODUCTION = {
    "channel: staging": "channel: production",
    "until: 2028-01-01": "until: 2027-06-30",
    "roots: [software-tpm]": "roots: [acme-tpm]",
    "issuer: https://tallystick.local/embedded-dev": "issuer: https://token.example",
}


def production(**changes: str) -> str:
    text = policy_text(**PRODUCTION).replace("until: 2028-01-01", "until: 2027-06-30")
    text = text[: text.index("  - target: trustee")]
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


def codes(text: str, now: datetime = NOW) -> list[str]:
    return sorted({finding.code for finding in broken(load(text.encode()), now)})


def test_the_demo_and_a_good_production_policy_break_no_rule():
    assert codes(policy_text()) == []
    assert codes(production()) == []


def test_all_reasons_come_at_once_with_their_places():
    text = policy_text(**{"channel: staging": "channel: production"})
    with pytest.raises(Refused, match="confidential-inference is refused") as caught:
        check(load(text.encode()), NOW)
    assert caught.value.exit is Exit.REFUSED
    found = {finding.code for finding in caught.value.findings}
    assert found == {
        "policy.end-too-far",
        "policy.waiver.end-too-far",
        "policy.production.development-root",
        "policy.waiver.production",
    }
    assert all("(line " in finding.where for finding in caught.value.findings)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("roots: [acme-tpm]", "roots: [acme-tpm, software-tpm]", "policy.production.development-root"),
        ("roots: [acme-tpm]", "roots: [embedded-dev]", "policy.production.development-root"),
        (
            "issuer: https://token.example",
            "issuer: https://tallystick.local/embedded-dev",
            "policy.production.development-root",
        ),
        ("unexplained_files: 0", "unexplained_files: 1", "policy.production.unexplained-files"),
        ("max_age_seconds: 300", "max_age_seconds: 601", "policy.freshness.too-long"),
        ("requirement: pcr10", "requirement: debug-off", "policy.waiver.production"),
        ("requirement: pcr10", "requirement: freshness", "policy.waiver.never"),
    ],
)
def test_what_production_refuses(old, new, code):
    assert codes(production(**{old: new})) == [code]


@pytest.mark.parametrize("channel", ["debug", "staging", "production"])
def test_freshness_is_never_waived(channel):
    text = production(**{"channel: production": f"channel: {channel}", "pcr10": "freshness"})
    assert "policy.waiver.never" in codes(text)


def test_debug_off_may_be_waived_outside_production_only():
    assert codes(policy_text(**{"requirement: pcr10": "requirement: debug-off"})) == []


@pytest.mark.parametrize("name", ["pcr16", "signature", "everything", "pcr-selection"])
def test_an_unknown_waiver_is_refused(name):
    assert codes(policy_text(**{"requirement: pcr10": f"requirement: {name}"})) == ["policy.waiver.unknown"]


def test_ages_have_a_bound_in_each_channel():
    text = policy_text(**{"max_age_seconds: 300": "max_age_seconds: 7201"})
    assert codes(text) == ["policy.freshness.too-long"]
    assert codes(text.replace("channel: staging", "channel: debug")) == []


def test_an_ended_policy_or_waiver_is_refused():
    end = datetime(2028, 1, 1, tzinfo=UTC)
    assert codes(policy_text(), end - timedelta(seconds=1)) == []
    assert codes(policy_text(), end) == ["policy.expired", "policy.waiver.expired"]


def test_the_last_day_and_the_longest_age_are_allowed():
    end = datetime(2028, 1, 1, tzinfo=UTC)
    assert codes(policy_text(), end - timedelta(days=1096)) == []
    assert "policy.end-too-far" in codes(policy_text(), end - timedelta(days=1096, seconds=1))
    assert codes(policy_text(**{"max_age_seconds: 300": "max_age_seconds: 7200"})) == []
    assert codes(policy_text(**{"max_age_seconds: 300": "max_age_seconds: 7201"})) == [
        "policy.freshness.too-long"
    ]


def test_production_does_not_give_keys_to_whoever_can_make_one():
    trustee = policy_text()[policy_text().index("  - target: trustee") :]
    text = production() + trustee.replace("until: 2028-01-01", "until: 2027-06-30")
    (finding,) = broken(load(text.encode()), NOW)
    assert (finding.code, finding.got) == ("policy.waiver.production", "attestation-key-root")


def test_nothing_is_decided_for_longer_than_people_remember():
    assert "policy.end-too-far" in codes(policy_text(), NOW - timedelta(days=800))
    assert "policy.waiver.end-too-far" in codes(policy_text(), NOW - timedelta(days=800))


def test_waivers_of_targets_end_and_stay_out_of_production_too():
    text = policy_text()
    head, tail = text.split("attestation_keys")
    ended = head + "attestation_keys" + tail.replace("until: 2028", "until: 2020")
    assert codes(ended) == ["policy.waiver.expired"]
    assert codes(text.replace("requirement: attestation-key-root", "requirement: freshness")) == [
        "policy.waiver.never"
    ]
