"""What a policy asks of a release before its measurements count: every way to fall short, each with its code."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from compile.releases import (
    ALICE,
    BUSYBOX,
    CI,
    ISSUER,
    PRODUCTS,
    WAIVED,
    channel,
    contents,
    functionary,
    measurement,
    policy,
    release,
    restated,
    sbom,
    statement,
    subjects,
    verdict,
)
from policy.policyworld import END, NOW, ZERO, digest, registers

from tallystick.compile.admit import objections
from tallystick.compile.compile import NoRelease, normal_form
from tallystick.core.errors import Exit, Refused
from tallystick.core.expect import Exactly, Waived
from tallystick.formats import intoto
from tallystick.policy.soundness import flaws
from tallystick.release.records import Change, Person, Quorum
from tallystick.signing.records import Builder, Identity

DEMO = policy()
OTHER = Identity(san="https://evil.example/builder", issuer=ISSUER)


def codes(found, wanted=DEMO, now=NOW) -> list[str]:
    return sorted({finding.code for finding in objections(wanted, found, channel(found), now)})


def test_a_good_release_has_nothing_against_it():
    assert codes(release()) == []


def test_a_good_release_becomes_whole_tuples_with_everything_they_rest_on():
    form = normal_form(DEMO, channel(release("a"), release("b")), NOW)
    assert list(flaws(form)) == []
    assert form.policy_digest == DEMO.digest
    assert form.not_after == END
    assert {str(one.digest) for one in form.releases} == {
        str(digest("release a")),
        str(digest("release b")),
    }
    (one,) = [permitted for permitted in form.releases if permitted.digest == digest("release a")]
    found = release("a")
    assert found.vsa is not None
    assert one.vsa == found.vsa.bundle
    assert set(one.bundles) == {s.bundle for _, s in found.statements} | {found.vsa.bundle}
    assert one.promoted_at == NOW - timedelta(days=1)
    expect = dict(one.tuples[0].expect)
    assert {name: e.value for name, e in expect.items() if isinstance(e, Exactly)} == registers("a")
    assert expect["pcr10"] == Waived("docs/decisions/0010-pcr-10.md", "alice@example.org", END)
    assert one.tuples[0].image == digest("uki a")


def test_a_waiver_holds_only_as_long_as_the_shorter_of_the_two():
    soon = datetime(2027, 1, 1, tzinfo=UTC)
    short = measurement("a", waived=(replace(WAIVED, until=soon),))
    form = normal_form(DEMO, channel(replace(release(), measurements=(short,))), NOW)
    expect = dict(form.releases[0].tuples[0].expect)["pcr10"]
    assert isinstance(expect, Waived)
    assert expect.until == form.not_after == soon


def no_builder(**changes):
    identity = replace(CI.identity, **{k: v for k, v in changes.items() if k != "builder_id"})
    return Builder(identity=identity, builder_id=changes.get("builder_id", CI.builder_id))


def rebuilt(*organisations: str, threshold: int = 1) -> Quorum:
    counted = tuple(functionary(name) for name in organisations)
    return Quorum(threshold=threshold, counted=counted, not_counted=(), links=())


def values(**changed: str | None):
    kept = {name: value for name, value in {**registers("a"), **changed}.items() if value is not None}
    return replace(release(), measurements=(measurement("a", values=tuple(sorted(kept.items()))),))


EXTRA = intoto.make([*subjects("a"), ("evil", {"sha256": "0" * 64})], "https://slsa.dev/provenance/v1", {})
FEWER = intoto.make(subjects("a")[:1], "https://slsa.dev/provenance/v1", {})

SHORTCOMINGS = [
    (restated(release(), provenance=None), "release.unsigned"),
    (restated(release(), measurements=None), "release.unsigned"),
    (restated(release(), index=None), "release.unsigned"),
    (restated(release(), sbom=None), "release.unsigned"),
    (restated(release(), provenance=EXTRA), "release.provenance.mismatch"),
    (restated(release(), provenance=FEWER), "release.provenance.mismatch"),
    (restated(release(), sbom=sbom("b")), "release.sbom.mismatch"),
    (replace(release(), builder=no_builder(builder_id="https://other")), "release.builder.not-allowed"),
    (replace(release(), vsa=None), "release.not-promoted"),
    (replace(release(), vsa=statement("v", verdict("a", result="FAILED"), ALICE)), "release.not-promoted"),
    (replace(release(), vsa=statement("v", verdict("a", about="b"), ALICE)), "release.not-promoted"),
    (replace(release(), vsa=statement("v", verdict("a", "SLSA_BUILD_LEVEL_0"), ALICE)), "release.slsa-level"),
    (
        replace(release(), vsa=statement("v", verdict("a", "SLSA_SOURCE_LEVEL_3"), ALICE)),
        "release.slsa-level",
    ),
    (
        replace(release(), vsa=statement("v", verdict("a", "SLSA_BUILD_LEVEL_3x"), ALICE)),
        "release.slsa-level",
    ),
    (replace(release(), quorum=rebuilt()), "release.rebuilds"),
    (replace(release(), quorum=rebuilt("one.example", threshold=2)), "release.rebuilds"),
    (replace(release(), contents=()), "release.contents.missing"),
    (
        replace(release(), contents=tuple(contents(p, "etc/x") for p in sorted(PRODUCTS))),
        "release.contents.unexplained",
    ),
    (replace(release(), measurements=()), "release.platform.missing"),
    (replace(release(), measurements=(measurement("a", platform="snp"),)), "release.platform.missing"),
    (
        replace(release(), measurements=(measurement("a", evidence_kind="snp-report"),)),
        "release.evidence-kind",
    ),
    (replace(release(), measurements=(measurement("a", waived=()),)), "release.register.missing"),
    (values(pcr04=None), "release.register.missing"),
    (values(pcr04="AB" * 32), "release.register.malformed"),
    (values(pcr04="ab"), "release.register.malformed"),
    (values(pcr04=ZERO), "release.register.zero"),
    (values(pcr08=ZERO), "release.register.zero"),
    (values(pcr16=ZERO), "release.register.unknown"),
    (
        replace(release(), measurements=(measurement("a", waived=(replace(WAIVED, until=NOW),)),)),
        "release.register.waiver-expired",
    ),
    (
        replace(
            values(pcr04=None),
            measurements=(
                measurement(
                    "a",
                    values=tuple(sorted({k: v for k, v in registers("a").items() if k != "pcr04"}.items())),
                    waived=(replace(WAIVED, name="pcr04"), WAIVED),
                ),
            ),
        ),
        "release.register.not-waived",
    ),
]


@pytest.mark.parametrize(("found", "code"), SHORTCOMINGS)
def test_a_release_that_falls_short_is_refused_by_name(found, code):
    assert codes(found) == [code]
    with pytest.raises(Refused, match="can not be compiled") as caught:
        normal_form(DEMO, channel(release("b"), found), NOW)
    assert caught.value.exit is Exit.REFUSED
    assert next(finding.code for finding in caught.value.findings) == code
    assert all(str(found.digest) in finding.where for finding in caught.value.findings)


def test_a_signer_other_than_the_builder_is_refused():
    plain = intoto.make(subjects("a"), "https://slsa.dev/provenance/v1", {})
    statements = {**dict(release().statements), "provenance": statement("p", plain, OTHER)}
    found = replace(release(), statements=tuple(sorted(statements.items())))
    assert codes(found) == ["release.signer"]


@pytest.mark.parametrize("change", [{"san": OTHER.san}, {"issuer": "https://token.example"}])
def test_a_builder_is_identity_issuer_and_id_together(change):
    other = no_builder(**change)
    found = replace(release(), builder=other)
    assert "release.builder.not-allowed" in codes(found)


@pytest.mark.parametrize(
    ("denied", "refused"),
    [
        ("pkg:deb/debian/busybox-static", True),
        ("pkg:deb/debian/busybox-static@1.35.0-4", True),
        ("pkg:deb/debian/busybox-static@1.35.0-5", False),
        ("pkg:deb/debian/busybox", False),
        ("pkg:deb/ubuntu/busybox-static", False),
        ("pkg:pypi/busybox-static", False),
    ],
)
def test_a_denied_component_is_found_whatever_its_qualifiers(denied, refused):
    wanted = policy(**{"pkg:deb/debian/telnetd": denied})
    assert codes(release(), wanted) == (["release.component.denied"] if refused else [])


def test_a_denied_component_is_found_in_the_sbom_and_in_the_contents_alone():
    wanted = policy(**{"pkg:deb/debian/telnetd": "pkg:pypi/evil"})
    nested = restated(release(), sbom=sbom("a", (BUSYBOX, "pkg:pypi/evil@1.0")))
    assert codes(nested, wanted) == ["release.component.denied"]
    wanted = policy(**{"pkg:deb/debian/telnetd": "pkg:deb/debian/busybox-static"})
    assert codes(restated(release(), sbom=sbom("a", ())), wanted) == ["release.component.denied"]


def test_rebuilds_count_by_organisation_and_without_the_excluded():
    wanted = policy(**{"threshold: 1 ": "threshold: 2 "})
    assert codes(replace(release(), quorum=rebuilt("a.example", "b.example")), wanted) == []
    same = Quorum(
        threshold=1,
        counted=(functionary("a.example"), replace(functionary("a.example"), name="again")),
        not_counted=(),
        links=(),
    )
    assert codes(replace(release(), quorum=same), wanted) == ["release.rebuilds"]
    excluded = policy(**{"not_counted: []": "not_counted: [rebuild.example]"})
    assert codes(release(), excluded) == ["release.rebuilds"]


def test_rebuilds_are_waived_by_name_only_and_never_below_the_layout():
    waiver = (
        "  - requirement: rebuilds\n    decision: d\n    decided_by: alice\n    until: 2027-01-01T00:00:00Z\n"
    )
    wanted = policy(**{"waivers:\n": f"waivers:\n{waiver}"})
    assert codes(replace(release(), quorum=rebuilt(threshold=0)), wanted) == []
    assert codes(replace(release(), quorum=rebuilt(threshold=1)), wanted) == ["release.rebuilds"]


def test_a_slsa_level_is_what_the_verdict_says():
    wanted = policy(**{"slsa_build_level: 1": "slsa_build_level: 3"})
    assert codes(release(), wanted) == ["release.slsa-level"]
    better = statement("v", verdict("a", "SLSA_BUILD_LEVEL_1", "SLSA_BUILD_LEVEL_3"), ALICE)
    assert codes(replace(release(), vsa=better), wanted) == []


def test_releases_with_another_name_are_not_this_policys_business():
    form = normal_form(DEMO, channel(release("a"), release("b", name="other", measurements=())), NOW)
    assert [one.digest for one in form.releases] == [digest("release a")]


def test_nothing_to_permit_is_said_aloud():
    with pytest.raises(Refused) as caught:
        normal_form(DEMO, channel(release("a", name="other")), NOW)
    assert [finding.code for finding in caught.value.findings] == ["compile.no-release"]
    assert normal_form(DEMO, channel(), NOW, NoRelease.PERMIT_NOTHING).releases == ()


def test_a_policy_is_for_its_own_channel():
    with pytest.raises(Refused) as caught:
        normal_form(DEMO, channel(release(), name="production"), NOW)
    assert [finding.code for finding in caught.value.findings] == ["compile.channel.other"]


def test_development_roots_never_reach_production():
    wanted = policy(
        **{
            "channel: staging": "channel: production",
            "until: 2028-01-01": "until: 2027-06-30",
            "roots: [software-tpm]": "roots: [acme-tpm]",
            ISSUER: "https://token.example",
        }
    )
    builder = no_builder(issuer="https://token.example")
    found = replace(release(), builder=builder)
    statements = tuple((kind, replace(s, signer=builder.identity)) for kind, s in found.statements)
    found = replace(found, statements=statements)
    assert codes(found, wanted) == ["release.development-root"]
    assert codes(replace(found, labels=()), wanted) == []


def test_all_reasons_against_all_releases_come_at_once():
    bad = replace(values(pcr04=None), vsa=None, quorum=rebuilt())
    worse = replace(release("b"), contents=())
    with pytest.raises(Refused) as caught:
        normal_form(DEMO, channel(bad, worse), NOW)
    assert [finding.code for finding in caught.value.findings] == [
        "release.not-promoted",
        "release.rebuilds",
        "release.register.missing",
        "release.contents.missing",
        "release.contents.missing",
    ]


def test_rules_of_the_policy_are_among_the_reasons():
    with pytest.raises(Refused) as caught:
        normal_form(policy(), channel(release()), END)
    assert "policy.expired" in {finding.code for finding in caught.value.findings}


def test_the_day_of_compiling_leaves_no_trace():
    later = NOW + timedelta(days=30)
    assert normal_form(DEMO, channel(release()), NOW) == normal_form(DEMO, channel(release()), later)


def with_text(**changes: str):
    return policy(**changes)


APPROVALS = """  approvals:
    threshold: 2
    of:
      - {identity: alice@example.org, issuer: "https://tallystick.local/embedded-dev"}
      - {identity: bob@example.org, issuer: "https://tallystick.local/embedded-dev"}

platforms:"""


def signed_by(found, *names: str, role: str = "releases"):
    people = tuple(
        Person(
            name=name,
            identity=Identity(san=f"{name}@example.org", issuer=ISSUER),
            keyid=name,
            public_key=bytes(32),
        )
        for name in ("alice", "bob", "carol")
    )
    change = Change(
        role=role, version=1, kind="release", author="carol", summary="x", at=NOW, signed_by=names, needed=0,
        adds=(), removes=(),
    )  # fmt: skip
    return replace(channel(found), people=people, changes=(change,))


@pytest.mark.parametrize(
    ("names", "role", "right"),
    [
        (("alice", "bob"), "releases", True),
        (("alice", "bob", "carol"), "releases", True),
        (("alice", "carol"), "releases", False),
        ((), "releases", False),
        (("alice", "bob"), "policies", False),
    ],
)
def test_named_people_have_signed_the_list_of_releases(names, role, right):
    wanted, found = with_text(**{"platforms:": APPROVALS}), release()
    codes_of = {f.code for f in objections(wanted, found, signed_by(found, *names, role=role), NOW)}
    assert ("release.approvals" in codes_of) == (not right)


def test_nobody_has_approved_a_channel_that_says_nothing_of_it():
    assert codes(release(), with_text(**{"platforms:": APPROVALS})) == ["release.approvals"]


def test_a_denied_firmware_is_named_with_its_reason():
    bad = measurement("a").firmware
    text = (
        f"denied_firmware:\n  - name: bad-ovmf\n    firmware: ['{bad}']\n    reason: reads past its end\n"
        "    since: 2026-03-02\n\nplatforms:"
    )
    found = release()
    (finding,) = objections(with_text(**{"platforms:": text}), found, channel(found), NOW)
    assert finding.code == "release.firmware.denied"
    assert finding.note == "bad-ovmf, since 2026-03-02: reads past its end"
    other = text.replace(str(bad), "sha256:" + "0" * 64)
    assert codes(found, with_text(**{"platforms:": other})) == []


def party(**changes: str) -> str:
    text = """parties:
  - party: hospital.example
    supply_chain:
      builders:
        - identity: https://ci.example/builder
          issuer: https://tallystick.local/embedded-dev
          builder_id: https://tallystick.local/builders/ci
      slsa_build_level: 1
      rebuilds: {threshold: 1, not_counted: []}
      sbom: {denied: [], unexplained_files: 0}
    platforms:
      - {platform: qemu-vtpm, roots: [software-tpm], require: {safe: true}}
    freshness: {max_age_seconds: 60}

freshness:"""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, None),
        ({"https://ci.example/builder": "https://own.example/builder"}, "release.builder.not-allowed"),
        ({"slsa_build_level: 1": "slsa_build_level: 3"}, "release.slsa-level"),
        ({"threshold: 1": "threshold: 2"}, "release.rebuilds"),
        ({"denied: []": "denied: ['pkg:deb/debian/busybox-static']"}, "release.component.denied"),
    ],
)
def test_what_one_party_does_not_take_is_not_permitted(changes, code):
    found, wanted = release(), with_text(**{"freshness:": party(**changes)})
    assert codes(found, wanted) == ([code] if code else [])


def test_the_normal_form_is_what_all_parties_take():
    form = normal_form(with_text(**{"freshness:": party()}), channel(release()), NOW)
    assert form.parties == ("hospital.example",)
    assert form.max_age_seconds == 60
    assert dict(form.platforms[0].require)["safe"] == Exactly(value=True)
    assert list(flaws(form)) == []
