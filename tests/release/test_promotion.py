"""Promotion, approval and revocation: gates, people, crashes, and what a client then sees."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from release import children
from release import world as worlds
from sbom import builds, test_vendored

from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, NotGenuine, Refused, TallystickError, Unreachable
from tallystick.formats import intoto, vsa
from tallystick.release import approve, channel, gates, index, names, promote, revocations, revoke
from tallystick.release.records import HighWater, Revocation

COMPILED = {"compiled.json": b"{}", "policy.yaml": b"source", "broker/policy.json": b"compiled"}


def same(name, files, verified):
    """A recompilation that gives the same bytes."""
    return dict(files)


def load(w, seen=None, channel_name="staging"):
    return channel.load(
        w.workdir / "channels" / channel_name,
        channel_name,
        w.trust,
        worlds.now(),
        seen or HighWater(),
    )


def propose(w, folder, author="alice", show=lambda gate: None, channel_name="staging"):
    return promote.propose_release(
        w.desk(channel_name), folder, w.signatories[author], w.sign_one(author), show
    )


def approve_as(w, name, recompile=same, channel_name="staging"):
    return approve.approve(w.desk(channel_name), w.signatories[name], lambda: w.online, recompile)


def promoted(w, folder):
    propose(w, folder)
    approve_as(w, "bob")
    (outcome,) = approve_as(w, "carol")
    assert outcome.live
    return load(w)


def codes(error):
    return [finding.code for finding in error.value.findings]


def test_two_people_besides_the_author_make_a_release_live(world):
    w, folder = world
    shown = []
    outcome = propose(w, folder, show=shown.append)
    assert [gate.name for gate in shown] == list(gates.NAMES)
    assert all(gate.passed and gate.detail for gate in shown)
    assert (outcome.live, outcome.change.needed, outcome.change.signed_by) == (False, 2, ("alice",))
    assert load(w).releases == ()
    (first,) = approve_as(w, "bob")
    assert (first.live, first.change.needed) == (False, 1)
    assert load(w).releases == ()
    (second,) = approve_as(w, "carol")
    assert second.live
    (release,) = load(w).releases
    assert release.digest == index.read(folder).digest
    assert release.vsa is not None
    assert release.vsa.signer == w.identity("alice")
    assert len(release.bundles) == 5
    with pytest.raises(Misuse, match="nothing waits in channel staging"):
        approve_as(w, "bob")


def test_the_verdict_names_every_statement_by_digest(world):
    w, folder = world
    (release,) = promoted(w, folder).releases
    statement = intoto.parse(release.vsa.payload)
    summary = vsa.parse(statement)
    assert (summary.result, summary.slsa_version) == ("PASSED", "1.2")
    assert summary.levels == ("SLSA_BUILD_LEVEL_1", "TALLYSTICK_REPRODUCED_1")
    assert summary.resource_uri == "https://tallystick.local/channels/staging/demo/1.2.3"
    named = {item.uri: item.digest("sha256") for item in summary.inputs}
    there = [*(folder / "bundles").iterdir(), *(folder / "links").iterdir()]
    assert named == {str(path.relative_to(folder)): Digest.of(path.read_bytes()).hex for path in there}
    assert statement.subjects[0].name == "index.json"
    assert statement.subjects[0].has(release.digest)
    assert {s.name for s in statement.subjects[1:]} == {"products/uki.efi", "products/initramfs.cpio.xz"}
    kept = (folder / names.promotion_file("staging")).read_bytes()
    assert Digest.of(kept) == release.vsa.bundle


def test_author_duplicate_and_stranger_do_not_approve(world):
    w, folder = world
    propose(w, folder)
    with pytest.raises(Refused, match="somebody else than the author alice"):
        approve_as(w, "alice")
    approve_as(w, "bob")
    with pytest.raises(Refused, match="each person's approval once, got bob again"):
        approve_as(w, "bob")
    with pytest.raises(Refused, match="a key of alice, bob, carol, got rebuilder's key"):
        approve_as(w, "rebuilder")
    assert load(w).releases == ()


def test_only_people_of_the_channel_propose_and_only_with_their_own_verdict(world):
    w, folder = world
    with pytest.raises(Refused, match="a key of alice, bob, carol"):
        propose(w, folder, "rebuilder")
    with pytest.raises(NotGenuine, match="does not admit this release") as error:
        promote.propose_release(w.desk(), folder, w.signatories["alice"], w.sign_one("bob"))
    assert codes(error) == ["release.vsa.verifier"]
    with pytest.raises(NotGenuine) as error:  # the builder is no promoter
        promote.propose_release(w.desk(), folder, w.signatories["alice"], w.sign_one("ci-builder"))
    assert error.value.code == "bundle.identity"
    assert not (w.workdir / "channels/staging/pending").exists()
    assert not (folder / "promotions").exists()


def test_a_verdict_for_another_channel_or_release_means_nothing(world, tmp_path):
    w, folder = world
    propose(w, folder, channel_name="debug")
    data = (folder / names.promotion_file("debug")).read_bytes()
    (folder / names.promotion_file("staging")).write_bytes(data)
    from tallystick.release import verify

    with pytest.raises(NotGenuine, match="does not admit this release into staging") as error:
        verify.verify_release(folder, w.trust, worlds.now())
    assert codes(error) == ["release.vsa.resource"]
    (folder / names.promotion_file("staging")).unlink()
    other = tmp_path / "other"
    w.release(other, files=builds.FILES[1:])
    worlds.write(other / names.promotion_file("debug"), data)
    with pytest.raises(NotGenuine, match="does not admit this release into debug") as error:
        verify.verify_release(other, w.trust, worlds.now())
    assert set(codes(error)) == {"release.vsa.subject", "release.vsa.inputs"}


def verdict_with(w, folder, change):
    """A correctly signed verdict after ``change`` to its predicate."""
    propose(w, folder, channel_name="debug")
    from tallystick.signing.verify import Verifier

    data = (folder / names.promotion_file("debug")).read_bytes()
    verified = Verifier(w.trust.sigstore_root).statement(
        data, signers=w.trust.promoters, predicate_type=vsa.PREDICATE_TYPE, now=worlds.now()
    )
    document = json.loads(verified.payload)
    change(document)
    import rfc8785

    (bundle,) = w.sign("alice", [rfc8785.dumps(document)])
    (folder / names.promotion_file("debug")).write_bytes(bundle)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda p: p.update(verificationResult="FAILED"), "release.vsa.result"),
        (lambda p: p["verifier"].update(id="https://tallystick.local/verifiers/bob"), "release.vsa.verifier"),
        (lambda p: p["inputAttestations"].pop(0), "release.vsa.inputs"),
        (lambda p: p["inputAttestations"].pop(), "release.vsa.levels"),  # the only link
        (lambda p: p["inputAttestations"].append(p["inputAttestations"][0]), "release.vsa.inputs"),
        (lambda p: p["inputAttestations"][0]["digest"].update(sha256="0" * 64), "release.vsa.inputs"),
        (
            lambda p: p.update(verifiedLevels=["SLSA_BUILD_LEVEL_1", "TALLYSTICK_REPRODUCED_2"]),
            "release.vsa.levels",
        ),
        (
            lambda p: p.update(verifiedLevels=["SLSA_BUILD_LEVEL_3", "TALLYSTICK_REPRODUCED_1"]),
            "release.vsa.levels",
        ),
    ],
)
def test_a_promoters_word_is_held_to_what_can_be_checked(world, change, code):
    w, folder = world
    from tallystick.release import verify

    verdict_with(w, folder, lambda document: change(document["predicate"]))
    with pytest.raises(NotGenuine, match="does not admit this release") as error:
        verify.verify_release(folder, w.trust, worlds.now())
    assert codes(error) == [code]


# Gates


def failed(w, folder, name):
    """The findings of gate ``name`` when a promotion of ``folder`` is refused."""
    shown = []
    with pytest.raises(TallystickError, match="not promoted") as error:
        propose(w, folder, show=shown.append)
    assert [gate.name for gate in shown] == list(gates.NAMES)
    gate = next(gate for gate in shown if gate.name == name)
    assert not gate.passed
    assert set(gate.findings) <= set(error.value.findings)
    assert not (w.workdir / "channels/staging/pending").exists()
    return [finding.code for finding in gate.findings]


def test_an_unsigned_release_is_refused_at_the_first_gate(world):
    w, folder = world
    shutil.rmtree(folder / "bundles")
    assert set(failed(w, folder, "index")) == {"release.file.missing"}
    assert failed(w, folder, "quorum") == ["release.gate.not-run"]


def test_a_changed_file_is_refused_and_named(world):
    w, folder = world
    (folder / "seeds/lock.json").write_bytes(b"{ }\n")
    assert failed(w, folder, "index") == ["release.file.changed"]


def test_a_release_that_nobody_rebuilt_is_refused(world):
    w, folder = world
    shutil.rmtree(folder / "links")
    assert failed(w, folder, "quorum") == ["release.quorum.missing"]


def test_a_missing_platform_is_refused(world, tmp_path):
    w, _ = world
    w.release(tmp_path / "other", platform="snp")
    assert failed(w, tmp_path / "other", "measurements") == ["release.measurement.missing"]


def test_provenance_that_does_not_follow_from_the_derivations_is_refused(world, tmp_path):
    w, _ = world

    def cut(where):
        next((where / "derivations").glob("*uki*")).unlink()

    w.release(tmp_path / "other", change=cut)
    assert failed(w, tmp_path / "other", "provenance")


def test_an_sbom_that_leaves_something_out_is_refused(world, tmp_path):
    w, _ = world

    def hide(where):
        document = json.loads((where / "statements/sbom.json").read_bytes())
        components = document["predicate"]["components"]
        gone = next(c for c in components if c["name"] == "cbor2")
        components.remove(gone)
        for edge in document["predicate"]["dependencies"]:
            edge["dependsOn"] = [ref for ref in edge.get("dependsOn", []) if ref != gone["bom-ref"]]
        document["predicate"]["dependencies"] = [
            edge for edge in document["predicate"]["dependencies"] if edge["ref"] != gone["bom-ref"]
        ]
        document["predicate"].pop("compositions", None)
        worlds.write(where / "statements/sbom.json", json.dumps(document).encode())

    w.release(tmp_path / "other", change=hide)
    assert failed(w, tmp_path / "other", "sbom") == ["sbom.component.missing"]


@pytest.mark.parametrize("version", ["1.3", None, []])
def test_a_signed_sbom_of_no_known_version_is_refused(world, tmp_path, version):
    w, _ = world

    def other(where):
        document = json.loads((where / "statements/sbom.json").read_bytes())
        document["predicate"]["specVersion"] = version
        worlds.write(where / "statements/sbom.json", json.dumps(document).encode())

    w.release(tmp_path / "other", change=other)
    assert failed(w, tmp_path / "other", "sbom") == ["unsupported"]


def test_an_sbom_that_is_silent_about_what_a_program_vendors_is_refused(world, tmp_path):
    w, _ = world
    w.release(tmp_path / "other", files=test_vendored.FILES)
    assert set(failed(w, tmp_path / "other", "contents")) == {"sbom.vendored.missing"}


def test_an_sbom_with_another_hash_of_a_product_is_refused(world, tmp_path):
    w, _ = world

    def change(where):
        document = json.loads((where / "statements/sbom.json").read_bytes())
        part = next(c for c in document["predicate"]["components"] if c["bom-ref"] == "product:uki")
        part["externalReferences"][0]["hashes"][1]["content"] = "0" * 128
        worlds.write(where / "statements/sbom.json", json.dumps(document).encode())

    w.release(tmp_path / "other", change=change)
    assert failed(w, tmp_path / "other", "sbom") == ["sbom.product.sha512"]


def test_a_file_that_no_component_explains_is_refused(world, tmp_path):
    """Even when contents list and SBOM agree that nobody knows where it came from."""
    w, _ = world

    def unexplain(build):
        first, *rest = build.contents
        lost = replace(first.files[0], component="")
        first = replace(first, files=(lost, *first.files[1:]))
        return replace(build, contents=(first, *rest))

    w.release(tmp_path / "other", edit=unexplain)
    assert failed(w, tmp_path / "other", "contents") == ["release.contents.unexplained"]


def test_a_contents_list_that_is_not_true_of_the_product_is_refused(world, tmp_path):
    w, _ = world

    def lie(build):
        first, *rest = build.contents
        changed = replace(first.files[-1], digest=Digest.of(b"other"))
        first = replace(first, files=(*first.files[:-1], changed))
        return replace(build, contents=(first, *rest))

    w.release(tmp_path / "other", edit=lie)
    assert "coverage.swapped" in failed(w, tmp_path / "other", "contents")


def test_a_development_root_does_not_come_into_production(world):
    w, folder = world
    with pytest.raises(Refused, match="a production channel takes no development root") as error:
        propose(w, folder, channel_name="production")
    assert "release.roots.development" in codes(error)


def test_an_approver_checks_for_themselves(world):
    """What the author's machine staged is not believed by the approver's."""
    w, folder = world
    propose(w, folder)
    (target,) = (w.workdir / "channels/staging/targets").rglob("*.sbom.sigstore.json")
    good = target.read_bytes()
    target.write_bytes(good[:-1])
    with pytest.raises(NotGenuine, match=r"sbom\.sigstore"):
        approve_as(w, "bob")
    target.write_bytes(good)
    stricter = replace(w, trust=replace(w.trust, promoters=(w.identity("bob"),)))
    with pytest.raises(NotGenuine, match="promotions/staging"):
        approve_as(stricter, "bob")
    approve_as(w, "bob")


def test_one_proposal_waits_at_a_time_and_can_be_withdrawn(world, tmp_path):
    w, folder = world
    propose(w, folder)
    w.release(tmp_path / "other", files=builds.FILES[1:])
    with pytest.raises(Refused, match="approve or withdraw it first") as error:
        propose(w, tmp_path / "other", "bob")
    assert codes(error) == ["release.channel.pending"]
    (change,) = approve.pending(w.desk())
    assert change.author == "alice"
    with pytest.raises(Refused, match="a key of alice"):
        approve.withdraw(w.desk(), w.signatories["rebuilder"])
    approve.withdraw(w.desk(), w.signatories["carol"])
    with pytest.raises(Misuse, match="nothing waits"):
        approve.withdraw(w.desk(), w.signatories["carol"])
    propose(w, tmp_path / "other", "bob")


def test_a_release_is_promoted_once(world):
    w, folder = world
    promoted(w, folder)
    with pytest.raises(Refused, match="it is there") as error:
        propose(w, folder)
    assert codes(error) == ["release.channel.present"]


# Policies


def test_a_policy_is_approved_by_people_whose_machines_compile_the_same_bytes(world):
    w, folder = world
    promoted(w, folder)
    promote.propose_policy(w.desk(), "p", COMPILED, w.signatories["bob"])
    seen = []

    def recompile(name, files, verified):
        seen.append((name, sorted(files), [r.digest for r in verified.releases]))
        return dict(files)

    approve_as(w, "alice", recompile)
    (outcome,) = approve_as(w, "carol", recompile)
    assert outcome.live
    assert seen[0] == ("p", sorted(COMPILED), [index.read(folder).digest])
    state = channel.load_policies(w.workdir / "channels/staging", "staging", w.trust, worlds.now())
    assert state.policy("p") == COMPILED
    assert state.policy("q") == {}
    promote.propose_policy(w.desk(), "p", {"compiled.json": b"[]"}, w.signatories["alice"])
    approve_as(w, "bob")
    approve_as(w, "carol")
    after = load(w)
    assert after.state.policy("p") == {"compiled.json": b"[]"}
    assert [(c.role, c.author, c.signed_by) for c in after.changes] == [
        ("releases", "alice", ("alice", "bob", "carol")),
        ("policies", "alice", ("alice", "bob", "carol")),
    ]


@pytest.mark.parametrize(
    "again",
    [
        {**COMPILED, "broker/policy.json": b"other"},
        {**COMPILED, "more": b""},
        {k: v for k, v in COMPILED.items() if k != "policy.yaml"},
    ],
)
def test_other_bytes_are_not_signed(world, again):
    w, _ = world
    promote.propose_policy(w.desk(), "p", COMPILED, w.signatories["bob"])
    with pytest.raises(Refused, match="policy p compiles to other bytes here; not signed") as error:
        approve_as(w, "alice", lambda *_: again)
    assert codes(error) == ["release.policy.differs"]
    (change,) = approve.pending(w.desk())
    assert change.signed_by == ("bob",)


def test_a_policy_file_edited_by_hand_is_noticed(world):
    w, _ = world
    promote.propose_policy(w.desk(), "p", COMPILED, w.signatories["bob"])
    approve_as(w, "alice")
    approve_as(w, "carol")
    (target,) = (w.workdir / "channels/staging/targets/policies/p/broker").iterdir()
    target.write_bytes(b"compilez")
    with pytest.raises(NotGenuine, match=r"policies/p/broker/policy\.json: want sha256"):
        channel.load_policies(w.workdir / "channels/staging", "staging", w.trust, worlds.now())


@pytest.mark.parametrize("path", ["../x", "a/b/c/d", "/x", "a\\b", ""])
def test_policy_paths_stay_inside(world, path):
    w, _ = world
    with pytest.raises(Misuse):
        promote.propose_policy(w.desk(), "p", {path: b""}, w.signatories["bob"])
    with pytest.raises(Misuse):
        promote.propose_policy(w.desk(), f"p/{path}", COMPILED, w.signatories["bob"])


def test_ones_own_proposal_does_not_keep_one_from_approving_another(world):
    w, folder = world
    propose(w, folder, "alice")
    promote.propose_policy(w.desk(), "p", COMPILED, w.signatories["bob"])
    (outcome,) = approve_as(w, "alice")
    assert outcome.change.role == "policies"
    (outcome,) = approve_as(w, "bob")
    assert outcome.change.role == "releases"
    assert [o.live for o in approve_as(w, "carol")] == [True, True]


# Revocation


def test_one_person_revokes_and_it_is_never_undone(world, tmp_path):
    w, folder = world
    digest = promoted(w, folder).releases[0].digest
    before = tmp_path / "before"
    shutil.copytree(w.workdir / "channels/staging", before)
    revocation, seen = revoke.revoke(w.desk(), digest, w.signatories["alice"], w.online, "CVE-2026-1")
    assert (revocation.by, revocation.reason) == ("alice", "CVE-2026-1")
    state = load(w)
    assert state.releases == ()
    assert state.state.revoked == {digest}
    assert seen.revoked == (str(digest),)
    with pytest.raises(Refused, match="alice has revoked") as error:
        revoke.revoke(w.desk(), digest, w.signatories["alice"], w.online, "again")
    assert codes(error) == ["release.revoke.duplicate"]
    with pytest.raises(Refused, match="was revoked"):
        approve_gate(w, folder)
    shutil.rmtree(w.workdir / "channels/staging")
    shutil.copytree(before, w.workdir / "channels/staging")
    with pytest.raises(NotGenuine, match="or later, got version"):
        load(w, seen)


def approve_gate(w, folder):
    """The gates over a revoked release, whose targets are out of the channel."""
    desk = w.desk()
    policies = desk.policies(desk.state())
    asked = gates.Asked(
        folder=folder,
        settings=desk.state().settings,
        revoked=policies.revoked,
        trust=w.trust,
        now=worlds.now(),
    )
    gates.require(gates.run(asked)[0])


def test_the_next_change_takes_a_revoked_release_out(world, tmp_path):
    w, folder = world
    digest = promoted(w, folder).releases[0].digest
    revoke.revoke(w.desk(), digest, w.signatories["carol"], w.online, "bad")
    w.release(tmp_path / "other", files=builds.FILES[1:])
    outcome = propose(w, tmp_path / "other")
    assert all(digest.hex in path for path in outcome.change.removes)
    assert len(outcome.change.removes) == len(outcome.change.adds)
    approve_as(w, "bob")
    approve_as(w, "carol")
    state = load(w)
    assert [r.digest for r in state.releases] == [index.read(tmp_path / "other").digest]
    assert state.state.revoked == {digest}


def test_a_revocation_that_was_seen_and_is_gone_is_noticed(world):
    """Even when its author publishes a version without it."""
    w, folder = world
    digest = promoted(w, folder).releases[0].digest
    _, seen = revoke.revoke(w.desk(), digest, w.signatories["alice"], w.online, "bad")
    from tallystick.release import changes

    desk = w.desk()
    state = desk.state()
    role, document = changes.revoke(
        state, w.signatories["alice"], [], now=worlds.now(), lifetimes=desk.lifetimes
    )
    document.signed.targets.clear()
    document.signatures.clear()
    document.sign(w.signatories["alice"].signer)
    desk.folder.publish(
        changes.publication(state, {role: document}, w.online, now=worlds.now(), lifetimes=desk.lifetimes)
    )
    with pytest.raises(NotGenuine, match="a revocation that was seen before is gone") as error:
        load(w, seen)
    assert codes(error) == ["release.channel.revocation-undone"]


def test_only_what_the_channel_has_is_revoked_and_by_its_people(world):
    w, folder = world
    with pytest.raises(Refused, match="a release of the channel: none") as error:
        revoke.revoke(w.desk(), Digest.of(b"x"), w.signatories["alice"], w.online, "bad")
    assert codes(error) == ["release.channel.absent"]
    digest = promoted(w, folder).releases[0].digest
    with pytest.raises(Refused, match="a key of alice"):
        revoke.revoke(w.desk(), digest, w.signatories["ci-builder"], w.online, "bad")


def test_a_pending_release_can_be_revoked_and_is_then_not_approved(world):
    w, folder = world
    propose(w, folder)
    digest = index.read(folder).digest
    revoke.revoke(w.desk(), digest, w.signatories["carol"], w.online, "bad")
    with pytest.raises(Refused, match="it is still listed") as error:
        approve_as(w, "bob")
    assert codes(error) == ["release.channel.revoked"]


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "tallystick/revocation/v2"},
        {"release": "sha256:00"},
        {"by": "bob"},
        {"reason": ""},
        {"reason": "\x1b[2J"},
        {"at": "now"},
        {"more": "x"},
    ],
)
def test_a_malformed_revocation_is_refused(change):
    good = Revocation(release=Digest.of(b"r"), by="alice", reason="bad", at=worlds.now())
    path = revocations.path_of(good)
    assert revocations.parse(revocations.write(good), path) == good
    document = json.loads(revocations.write(good)) | change
    with pytest.raises(TallystickError):
        revocations.parse(json.dumps(document).encode(), path)


def test_refresh_renews_the_timestamp_and_nothing_else(world):
    w, folder = world
    before = promoted(w, folder)
    later = replace(w.desk(), now=worlds.now() + timedelta(days=6))
    revoke.refresh(later, w.online)
    after = channel.load(
        w.workdir / "channels/staging", "staging", w.trust, worlds.now() + timedelta(days=12)
    )
    assert [r.digest for r in after.releases] == [r.digest for r in before.releases]
    assert after.version == before.version + 1


def test_a_channel_that_the_trust_file_does_not_know_is_refused(world):
    w, _ = world
    with pytest.raises(Refused, match="does not know the channel other") as error:
        channel.load(w.workdir / "channels/staging", "other", w.trust, worlds.now())
    assert codes(error) == ["release.channel.unknown"]
    with pytest.raises(NotGenuine, match="targets: want debug, got staging") as error:
        channel.load(w.workdir / "channels/staging", "debug", w.trust, worlds.now())
    assert codes(error) == ["release.channel.channel"]


def test_what_people_signed_for_one_channel_does_not_pass_in_another(world):
    """The same people, and here even the same online key: a policy for debug is put into staging."""
    w, _ = world
    promote.propose_policy(w.desk("debug"), "p", COMPILED, w.signatories["bob"])
    approve_as(w, "alice", channel_name="debug")
    approve_as(w, "carol", channel_name="debug")
    from tallystick.release import changes

    debug, staging = w.desk("debug"), w.desk("staging")
    document = debug.state().delegated["policies"]
    staging.folder.publish(
        changes.publication(
            staging.state(),
            {"policies": document},
            w.online,
            now=worlds.now(),
            lifetimes=staging.lifetimes,
        )
    )
    with pytest.raises(NotGenuine, match="policies: want staging, got debug") as error:
        load(w)
    assert codes(error) == ["release.channel.channel"]


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ("products/uki.efi", "release.target.extra"),
        ("trust.json", "release.target.extra"),
        ("promotions/debug.sigstore.json", "release.target.extra"),
        ("bundles/more.sigstore.json", "release.file.extra"),
        ("links/more.link", "release.link.malformed"),
    ],
)
def test_targets_beyond_a_releases_parts_are_refused(world, extra, code):
    """People may sign what they like; a client takes exactly the parts of a release."""
    w, folder = world
    promoted(w, folder)
    digest = index.read(folder).digest
    from tallystick.release import changes
    from tallystick.release.changes import Added

    desk = w.desk()
    state = desk.state()
    added = Added(path=f"releases/{digest.hex}/{extra}", data=b"x")
    desk.folder.add_targets({added.path: added.data})
    document = changes.propose(
        state,
        "releases",
        w.signatories["alice"],
        kind="release",
        summary="x",
        add=[added],
        remove=[],
        now=worlds.now(),
        lifetimes=desk.lifetimes,
    )
    for name in ("bob", "carol"):
        document = changes.cosign(state, "releases", document, w.signatories[name])
    desk.folder.publish(
        changes.publication(
            state, {"releases": document}, w.online, now=worlds.now(), lifetimes=desk.lifetimes
        )
    )
    with pytest.raises(NotGenuine) as error:
        load(w)
    assert error.value.code == code
    assert any(extra in finding.where for finding in error.value.findings)


# Crashes, and two at once


def _kill_after(w, folder, seconds):
    """Kill a process that promotes and revokes, and go on from wherever it stopped."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=children.promote_and_revoke, args=(w.workdir, folder, w.trust, ready))
    child.start()
    assert ready.wait(30)
    time.sleep(seconds)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    state = load(w)
    assert len(state.releases) <= 1
    if not state.releases and not state.state.revoked:
        with suppress(Misuse):
            approve.withdraw(w.desk(), w.signatories["alice"])
        assert len(promoted(w, folder).releases) == 1


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.2, 0.3, 0.45, 0.6])
def test_killed_at_any_moment_the_state_before_or_after_is_whole(world, seconds):
    _kill_after(*world, seconds)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(500))
def test_killed_at_many_random_moments(world, seed):
    _kill_after(*world, random.Random(seed).uniform(0, 0.8))


def test_two_approvals_at_once_are_taken_one_after_the_other(world):
    w, folder = world
    propose(w, folder)
    context = multiprocessing.get_context("spawn")
    go = context.Event()
    approvals = [
        context.Process(target=children.approve_when_told, args=(w.workdir, w.trust, name, go))
        for name in ("bob", "carol")
    ]
    for child in approvals:
        child.start()
    go.set()
    for child in approvals:
        child.join(60)
        assert child.exitcode == 0
    assert len(load(w).releases) == 1


def test_of_two_promotions_at_once_one_waits_and_the_other_is_refused(world):
    w, folder = world
    context = multiprocessing.get_context("spawn")
    go = context.Event()
    proposals = [
        context.Process(target=children.promote_when_told, args=(w.workdir, folder, w.trust, name, go))
        for name in ("alice", "bob")
    ]
    for child in proposals:
        child.start()
    go.set()
    for child in proposals:
        child.join(60)
        assert child.exitcode == 0
    (waiting,) = approve.pending(w.desk())
    for name in {"alice", "bob", "carol"} - {waiting.author}:
        approve_as(w, name)
    assert len(load(w).releases) == 1


def test_a_full_disk_leaves_the_previous_state_whole(world, monkeypatch):
    """At each file that a promotion and its approvals write, one at a time."""
    w, folder = world
    from tallystick.release import tuf

    real, left = tuf.write_file, 0

    def full(path, data, **options):
        nonlocal left
        if left == 0:
            raise Unreachable(f"{path}: No space left on device", code="file.unwritable")
        left -= 1
        real(path, data, **options)

    monkeypatch.setattr(tuf, "write_file", full)
    for allowed in (0, 1, 3):
        left = allowed
        with pytest.raises(Unreachable):
            propose(w, folder)
        assert not approve.pending(w.desk())
    monkeypatch.setattr(tuf, "write_file", real)
    propose(w, folder)
    approve_as(w, "bob")
    monkeypatch.setattr(tuf, "write_file", full)
    for allowed in (1, 3):
        left = allowed
        with pytest.raises(Unreachable):
            approve_as(w, "carol")
        assert load(w).releases == ()
        monkeypatch.setattr(tuf, "write_file", real)
        approve.withdraw(w.desk(), w.signatories["alice"])
        propose(w, folder)
        approve_as(w, "bob")
        monkeypatch.setattr(tuf, "write_file", full)
    monkeypatch.setattr(tuf, "write_file", real)
    approve_as(w, "carol")
    assert len(load(w).releases) == 1


def test_an_interrupt_leaves_the_previous_state_whole(world, monkeypatch):
    """Ctrl-C at each file that an approval writes, one at a time."""
    w, folder = world
    propose(w, folder)
    approve_as(w, "bob")
    from tallystick.release import tuf

    real = tuf.write_file
    left = 0

    def interrupted(path, data, **options):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        real(path, data, **options)

    for at in range(8):
        left = at
        shutil.copytree(w.workdir / "channels/staging", w.workdir / "kept")
        monkeypatch.setattr(tuf, "write_file", interrupted)
        try:
            approve_as(w, "carol")
        except KeyboardInterrupt:
            monkeypatch.setattr(tuf, "write_file", real)
            assert load(w).releases == ()
            shutil.rmtree(w.workdir / "channels/staging")
            (w.workdir / "kept").rename(w.workdir / "channels/staging")
            continue
        break
    assert at >= 3  # the approval, the role, the snapshot, and the timestamp last
    monkeypatch.setattr(tuf, "write_file", real)
    assert len(load(w).releases) == 1
