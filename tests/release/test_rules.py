"""What a channel asks of a release beyond what all of them ask: each rule refused by its own gate, by name."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from release.channels import made
from release.made import NOW
from release.world import now

from tallystick.core.errors import Malformed, NotGenuine, Refused
from tallystick.release import changes, gates, metadata, promote, roles, vulnerabilities
from tallystick.release.records import HighWater, Rules

LIBC = "pkg:deb/debian/libc6@2.36?arch=amd64"


def ran(w, folder, rules, **more):
    """The gates that did not pass, with their codes."""
    state = w.desk().state()
    settings = replace(state.settings, rules=rules)
    asked = gates.Asked(
        folder=folder,
        settings=settings,
        revoked=frozenset(),
        trust=w.trust,
        now=more.pop("now", now()),
        people=state.people,
        **more,
    )
    found, _ = gates.run(asked)
    assert [gate.name for gate in found] == list(gates.NAMES)
    return {gate.name: sorted({f.code for f in gate.findings}) for gate in found if not gate.passed}


def signed(w, folder, name, document, who="alice"):
    path = folder.parent / name
    path.write_text(json.dumps(document))
    from tallystick.signing.sigstore import embedded

    with embedded(w.workdir, who, now()) as signer:
        path.with_name(name + vulnerabilities.BUNDLE_SUFFIX).write_bytes(signer.file(path.read_bytes()))
    return path


def record(version="2.36", purl="pkg:deb/debian/libc6"):
    package = {"ecosystem": "Debian:12", "name": "libc6", "purl": purl}
    return {"id": "CVE-2026-1", "affected": [{"package": package, "versions": [version]}]}


def statement(status, product=LIBC):
    said = {"vulnerability": {"name": "CVE-2026-1"}, "products": [{"@id": product}], "status": status}
    return {"@context": "https://openvex.dev/ns/v0.2.0", "statements": [said]}


def test_levels_components_and_licences(world):
    w, folder = world
    assert ran(w, folder, Rules()) == {}
    assert ran(w, folder, Rules(slsa_build_level=2)) == {"slsa": ["release.slsa.level"]}
    for denied in (LIBC, "pkg:deb/debian/libc6", "pkg:deb/debian/libc6@2.36"):
        assert ran(w, folder, Rules(denied_components=(denied,))) == {"sbom-rules": ["release.sbom.denied"]}
    assert (
        ran(w, folder, Rules(denied_components=("pkg:deb/debian/libc6@9",), denied_licences=("GPL-9",))) == {}
    )
    assert ran(w, folder, Rules(denied_licences=("GPL-2.0-only",))) == {
        "sbom-rules": ["release.sbom.licence"]
    }


def test_a_builder_is_believed_for_the_level_in_the_trust_file(world):
    w, folder = world
    (builder,) = w.trust.builders
    w.trust = replace(w.trust, builders=(replace(builder, slsa_build_level=3),))
    assert ran(w, folder, Rules(slsa_build_level=3)) == {}


def test_known_vulnerabilities_by_signed_files_that_are_not_old(world):
    w, folder = world
    asks = Rules(vulnerabilities_days=7)
    assert ran(w, folder, asks) == {"vulnerabilities": ["release.vulnerabilities.missing"]}
    known = signed(w, folder, "osv.json", record())
    other = signed(w, folder, "other.json", record("9.9"))
    assert ran(w, folder, asks, advisories=(other,)) == {}
    for rules in (asks, Rules()):  # what is given is looked at, asked for or not
        assert ran(w, folder, rules, advisories=(known,)) == {
            "vulnerabilities": ["release.vulnerabilities.known"]
        }
    for status, passes in (("not_affected", True), ("fixed", True), ("under_investigation", False)):
        said = signed(w, folder, f"{status}.json", statement(status))
        assert (ran(w, folder, asks, advisories=(known, said)) == {}) is passes
    elsewhere = signed(w, folder, "elsewhere.json", statement("fixed", "pkg:deb/debian/libc6@9"))
    assert ran(w, folder, asks, advisories=(known, elsewhere)) != {}
    old = ran(w, folder, asks, advisories=(other,), now=now() + timedelta(days=8))
    assert old == {"vulnerabilities": ["release.vulnerabilities.age"]}


def test_advisories_count_by_their_signer_and_bytes(world):
    w, folder = world
    stranger = signed(w, folder, "s.json", record("9.9"), who="rebuilder")
    assert ran(w, folder, Rules(), advisories=(stranger,)) == {"vulnerabilities": ["bundle.identity"]}
    changed = signed(w, folder, "c.json", record("9.9"))
    changed.write_text(changed.read_text() + " ")
    assert list(ran(w, folder, Rules(), advisories=(changed,))) == ["vulnerabilities"]
    bare = folder.parent / "bare.json"
    bare.write_text("[]")
    assert ran(w, folder, Rules(), advisories=(bare,)) == {
        "vulnerabilities": ["release.vulnerabilities.unsigned"]
    }


def test_a_platform_that_a_live_policy_names_is_asked_for(world):
    w, folder = world
    assert ran(w, folder, Rules(), asked_platforms=("amd-sev-snp",)) == {
        "measurements": ["release.measurement.missing"]
    }


def test_the_platforms_of_policies_are_read_from_their_sources():
    from pathlib import Path
    from types import SimpleNamespace

    text = (Path(__file__).resolve().parents[2] / "policies").glob("*.yaml")
    files = {f"{path.stem}/policy.yaml": path.read_bytes() for path in text}
    assert "qemu-vtpm" in promote.policy_platforms(SimpleNamespace(policies=files))


# In the channel's metadata


def ruled(tmp_path, rules):
    from release import channels

    real = changes.create
    try:
        channels.changes.create = lambda *a, **k: real(*a, rules=rules, **k)
        return made(tmp_path / "channel")
    finally:
        channels.changes.create = real


def state_of(channel):
    return metadata.verify(channel.folder.read, channel.root, channel.name, NOW, HighWater())


def test_rules_are_signed_state_and_read_back(tmp_path):
    rules = Rules(
        slsa_build_level=2, denied_components=("pkg:x/y",), vulnerabilities_days=7, push=("alice", "bob")
    )
    channel = ruled(tmp_path, rules)
    assert state_of(channel).settings.rules == rules
    assert roles.rules_document(Rules()) == {}


@pytest.mark.parametrize(
    "said",
    [
        {"level": 1},
        {"slsa_build_level": 4},
        {"slsa_build_level": True},
        {"push": []},
        {"push": "alice"},
        {"vulnerabilities_days": 0},
        1,
    ],
)
def test_a_rule_that_is_not_understood_is_not_left_out(said):
    with pytest.raises(Malformed):
        roles.rules_of(said)


def test_only_who_is_listed_may_push(tmp_path):
    channel = ruled(tmp_path, Rules(push=("alice",)))
    channel.change("alice", ["bob", "carol"])
    with pytest.raises(Refused) as caught:
        channel.proposal("bob")
    assert caught.value.code == "release.channel.push"
    free = made(tmp_path / "free")
    document = free.proposal("bob")
    with pytest.raises(NotGenuine) as caught:
        metadata._check_push("policies", document.signed, ("alice",), free.state().people)
    assert caught.value.code == "release.channel.push"


def test_a_timestamp_that_would_hold_too_long_is_refused(tmp_path):
    lifetimes = changes.Lifetimes(timestamp=timedelta(days=9))
    channel = made(tmp_path / "c", lifetimes=lifetimes)
    with pytest.raises(Refused) as caught:
        state_of(channel)
    assert caught.value.code == "release.channel.age"
