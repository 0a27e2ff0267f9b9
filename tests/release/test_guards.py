"""Guards that need somebody with genuine keys to misbehave: each refuses by name."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from datetime import timedelta

import pytest
from release import world as worlds
from release.channels import LIFETIMES, made, person, policy
from release.made import NOW, signatory
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Delegations, MetaFile

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, Refused, TallystickError, Unreachable
from tallystick.release import approve, beside, changes, channel, index, metadata, names, promote, roles
from tallystick.release.changes import Added
from tallystick.release.records import HighWater


def codes(error):
    return [finding.code for finding in error.value.findings]


@pytest.fixture
def staging(tmp_path):
    return made(tmp_path / "staging")


def all_sign(staging, document):
    document.signatures.clear()
    for who in staging.people.values():
        document.sign(who.signer, append=True)
    return document


# Metadata that enough people signed, and that is refused all the same


def with_targets(staging, change):
    """The channel after everybody signed another version of the top-level targets."""
    state = staging.state()
    targets = copy.deepcopy(state.targets)
    targets.signed.version += 1
    change(targets.signed)
    all_sign(staging, targets)
    staging.folder.publish(
        changes.publication(state, {"targets": targets}, staging.online, now=NOW, lifetimes=LIFETIMES)
    )


def key_field(name, value):
    def change(signed):
        key = next(iter(signed.delegations.keys.values()))
        key.unrecognized_fields[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (key_field(roles.PERSON_FIELD, {"name": "alice"}), "want a person"),
        (key_field(roles.PERSON_FIELD, {"name": "../a", "san": "a", "issuer": "b"}), "want plain texts"),
        (key_field(roles.PERSON_FIELD, {"name": "alice", "san": "", "issuer": "b"}), "want plain texts"),
        (
            lambda signed: signed.unrecognized_fields.update({roles.CHANNEL_FIELD: {"name": "staging"}}),
            "want name, platforms",
        ),
        (
            lambda signed: signed.unrecognized_fields[roles.CHANNEL_FIELD].update(platforms=[]),
            "want at least one platform",
        ),
    ],
)
def test_top_level_targets_that_do_not_say_what_they_must_are_malformed(staging, change, said):
    with_targets(staging, change)
    with pytest.raises(Malformed, match=said):
        staging.state()


@pytest.mark.parametrize(
    ("kind", "public"),
    [("rsa", "00" * 32), ("ed25519", "zz"), ("ed25519", "AB" * 32), ("ed25519", "00" * 31), ("ed25519", 7)],
)
def test_only_plain_ed25519_keys_are_persons_keys(kind, public):
    key = roles.key_of(person(signatory("alice")))
    key.keytype = key.scheme = kind
    key.keyval["public"] = public
    assert roles.raw_key(key) is None
    with pytest.raises(Malformed, match="want an Ed25519 key"):
        roles.person_of(key)


def test_a_role_key_that_is_not_listed_is_named(staging):
    state = staging.state()
    root = copy.deepcopy(state.root.signed)
    del root.keys[root.roles["root"].keyids[0]]
    found = [(f.code, f.where) for f in roles.unfit(root, state.targets.signed)]
    assert ("release.channel.key", "root") in found


def test_a_role_that_delegates_further_is_refused(staging):
    document = staging.proposal("alice", [policy()])
    document.signed.delegations = Delegations({}, {})
    staging.publish("policies", all_sign(staging, document))
    with pytest.raises(NotGenuine, match="want no further delegation") as error:
        staging.state()
    assert codes(error) == ["release.channel.roles"]


def test_a_first_version_with_targets_is_refused(staging):
    """It names no author, so that nobody could be held to not approving it alone."""
    document = copy.deepcopy(staging.state().delegated["policies"])
    document.signed.targets["policies/p/x"] = changes._target_file(Added(path="policies/p/x", data=b""))
    staging.publish("policies", all_sign(staging, document))
    with pytest.raises(NotGenuine, match="want no targets in version 1"):
        staging.state()


def test_a_target_without_sha256_is_refused(staging):
    staging.change("alice", ["bob", "carol"], [policy()])
    signed = copy.deepcopy(staging.state().delegated["policies"].signed)
    target = signed.targets["policies/p/broker/policy.json"]
    target.hashes = {"sha512": "0" * 128}
    with pytest.raises(NotGenuine, match="want a sha256, got sha512"):
        metadata.target(staging.folder.read, signed, target.path)


def republished(staging, change):
    """The channel after whoever holds the online key published a snapshot of their own."""
    state = staging.state()
    change(state.snapshot.signed.meta)
    staging.folder.publish(changes.publication(state, {}, staging.online, now=NOW, lifetimes=LIFETIMES))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda meta: meta.update({"policies.json": MetaFile(1)}), "release.channel.undescribed"),
        (lambda meta: meta.pop("policies.json"), "release.channel.missing"),
        (lambda meta: meta.pop("revocations-bob.json"), "release.channel.missing"),
        (
            lambda meta: meta.update({"policies.json": meta["releases.json"]}),
            "release.channel.role",
        ),
    ],
)
def test_the_online_key_alone_changes_nothing(staging, change, code):
    republished(staging, change)
    if code == "release.channel.role":  # the other role's file, under this role's name
        folder = staging.folder.path / "metadata"
        shutil.copy(folder / "1.releases.json", folder / "1.policies.json")
    with pytest.raises(NotGenuine) as error:
        staging.state()
    assert codes(error) == [code]


def test_a_version_that_is_not_its_files_is_refused(staging):
    document = staging.proposal("alice", [policy()])
    for name in ("bob", "carol"):
        document = changes.cosign(staging.state(), "policies", document, staging.people[name])
    data = document.to_bytes()

    def lie(meta):
        meta["policies.json"] = MetaFile.from_data(3, data, ["sha256"])

    (staging.folder.path / "metadata/3.policies.json").write_bytes(data)
    republished(staging, lie)
    with pytest.raises(NotGenuine, match="policies: want 3, got 2") as error:
        staging.state()
    assert codes(error) == ["release.channel.version"]


def test_a_root_out_of_order_or_of_another_type_is_refused(staging):
    folder = staging.folder.path / "metadata"
    shutil.copy(folder / "1.root.json", folder / "2.root.json")
    with pytest.raises(NotGenuine, match="root: want 2, got 1"):
        staging.state()
    shutil.copy(folder / "1.targets.json", folder / "2.root.json")
    with pytest.raises(Malformed, match="_type: want root, got targets"):
        staging.state()


def test_a_channel_that_can_not_be_written_is_unreachable(staging, monkeypatch):
    (staging.folder.path / ".lock").mkdir()
    with pytest.raises(Unreachable, match="Is a directory"), staging.folder.locked():
        pass


def test_a_file_that_can_not_be_placed_is_unreachable(tmp_path, monkeypatch):
    (tmp_path / "release/promotions/x").mkdir(parents=True)
    with pytest.raises(Unreachable, match="promotions/x"):
        beside.add(tmp_path / "release", "promotions/x", b"data")
    assert [p.name for p in tmp_path.iterdir()] == ["release"]
    beside.add(tmp_path / "release", "promotions/y", b"data")
    assert (tmp_path / "release/promotions/y").read_bytes() == b"data"
    assert beside.outside(tmp_path / "release") == tmp_path.resolve()
    monkeypatch.setattr(beside.os, "access", lambda path, mode: False)
    assert beside.outside(tmp_path / "release") == tmp_path / "release"
    with pytest.raises(Unreachable, match="No such file"):
        beside.outside(tmp_path / "none")


# What an approver refuses although its author signed it


def load(w):
    return channel.load(w.workdir / "channels/staging", "staging", w.trust, worlds.now())


def propose(w, folder, author="alice"):
    return promote.propose_release(w.desk(), folder, w.signatories[author], w.sign_one(author))


def approve_as(w, name, **changed):
    desk = replace(w.desk(), **changed)
    return approve.approve(desk, w.signatories[name], lambda: w.online, lambda name, files, state: files)


def pending_after(w, change, signer="alice"):
    """What waits in staging after ``change``, signed again by ``signer``."""
    desk = w.desk()
    (document,) = desk.folder.pending(desk.state()).values()
    change(document.signed)
    document.signatures.clear()
    document.sign(w.signatories[signer].signer)
    desk.folder.keep_pending("releases", document)


def test_an_expired_or_unsigned_proposal_is_not_approved(world):
    w, folder = world
    propose(w, folder)
    pending_after(w, lambda signed: setattr(signed, "expires", worlds.now() - timedelta(days=1)))
    with pytest.raises(Refused, match="releases: want after") as error:
        approve_as(w, "bob")
    assert codes(error) == ["release.channel.expired"]
    pending_after(w, lambda signed: setattr(signed, "expires", worlds.now() + timedelta(days=9)), "carol")
    with pytest.raises(NotGenuine, match="alice did not sign the proposal") as error:
        approve_as(w, "bob")
    assert codes(error) == ["release.channel.author"]


def test_a_proposal_in_another_persons_name_is_not_approved(world):
    """Carol proposes what alice gave the verdict for, in her own name."""
    w, folder = world
    propose(w, folder)
    pending_after(
        w, lambda signed: signed.unrecognized_fields[roles.CHANGE_FIELD].update(author="carol"), "carol"
    )
    with pytest.raises(Refused, match=r"a verdict by the author carol@example\.org, got alice") as error:
        approve_as(w, "bob")
    assert codes(error) == ["release.channel.author"]


def test_an_approver_asks_for_the_channels_platforms(world):
    w, folder = world
    propose(w, folder)
    desk = w.desk()
    state = desk.state()
    targets = copy.deepcopy(state.targets)
    targets.signed.version += 1
    targets.signed.unrecognized_fields[roles.CHANNEL_FIELD]["platforms"].append("snp")
    targets.signatures.clear()
    for name in worlds.APPROVERS:
        targets.sign(w.signatories[name].signer, append=True)
    desk.folder.publish(
        changes.publication(state, {"targets": targets}, w.online, now=desk.now, lifetimes=desk.lifetimes)
    )
    with pytest.raises(Refused, match="want a measurement for snp") as error:
        approve_as(w, "bob")
    assert codes(error) == ["release.channel.platform"]


def test_taking_parts_of_a_release_away_is_looked_at_too(world):
    """A proposal that only removes a file of a promoted release."""
    w, folder = world
    propose(w, folder)
    approve_as(w, "bob")
    approve_as(w, "carol")
    desk = w.desk()
    (link,) = [p for p in desk.state().delegated["releases"].signed.targets if "/links/" in p]
    proposed = changes.propose(
        desk.state(),
        "releases",
        w.signatories["alice"],
        kind="release",
        summary="tidy up",
        add=[],
        remove=[link],
        now=desk.now,
        lifetimes=desk.lifetimes,
    )
    desk.folder.keep_pending("releases", proposed)
    with pytest.raises(NotGenuine, match="does not admit") as error:  # the verdict rests on that link
        approve_as(w, "bob")
    assert set(codes(error)) == {"release.vsa.inputs", "release.vsa.levels"}


def test_what_a_release_in_a_channel_must_have_is_named(world):
    w, folder = world
    propose(w, folder)
    approve_as(w, "bob")
    approve_as(w, "carol")
    desk = w.desk()
    digest = index.read(folder).digest
    prefix = f"releases/{digest.hex}/"

    def republish(change):
        state = desk.state()
        document = copy.deepcopy(state.delegated["releases"])
        document.signed.version += 1
        change(document.signed.targets)
        document.signatures.clear()
        for name in worlds.APPROVERS:
            document.sign(w.signatories[name].signer, append=True)
        desk.folder.publish(
            changes.publication(
                state, {"releases": document}, w.online, now=desk.now, lifetimes=desk.lifetimes
            )
        )
        with pytest.raises(TallystickError) as error:
            load(w)
        return error

    kept = copy.deepcopy(desk.state().delegated["releases"].signed.targets)

    def lose(path):
        def change(targets):
            targets.clear()
            targets.update({p: t for p, t in kept.items() if p != prefix + path})

        return change

    def swap(path, data):
        def change(targets):
            targets.clear()
            targets.update(kept)
            desk.folder.add_targets({prefix + path: data})
            targets[prefix + path] = changes._target_file(Added(path=prefix + path, data=data))

        return change

    def rename(targets):
        targets.clear()
        other = f"releases/{Digest.of(b'another').hex}/"
        for path, target in kept.items():
            name = path.replace(prefix, other)
            data = desk.folder.read(
                f"targets/{path.rpartition('/')[0]}/{target.hashes['sha256']}.{path.rpartition('/')[2]}"
            )
            desk.folder.add_targets({name: data})
            targets[name] = changes._target_file(Added(path=name, data=data))

    assert codes(republish(lose("contents/uki.json"))) == ["release.target.missing"]
    assert codes(republish(lose("promotions/staging.sigstore.json"))) == ["release.target.missing"]
    assert codes(republish(swap("statements/sbom.json", b"{}"))) == ["release.file.changed"]
    assert codes(republish(swap("contents/uki.json", b"{}"))) == ["release.file.changed"]
    assert codes(republish(lose("bundles/sbom.sigstore.json"))) == ["release.file.missing"]
    assert republish(lose("index.json")).value.code == "file.missing"
    assert codes(republish(rename)) == ["release.target.index"]


# A builder that is a promoter too, and statements about too much


def test_the_builder_does_not_promote_its_own_release(world):
    w, folder = world
    both = replace(w, trust=replace(w.trust, promoters=(*w.trust.promoters, w.identity("ci-builder"))))
    from tallystick.release import gates, verdict, verify

    release = verify.verify_release(folder, both.trust, worlds.now())
    rules = gates.rules(w.desk().state().settings, w.trust)
    statement = verdict.make(release, "staging", w.identity("ci-builder"), rules, worlds.now())
    worlds.write(folder / names.promotion_file("staging"), w.sign("ci-builder", [statement])[0])
    with pytest.raises(NotGenuine, match="does not admit") as error:
        verify.verify_release(folder, both.trust, worlds.now())
    assert codes(error) == ["release.vsa.builder"]


def test_a_release_statement_about_more_than_the_index_is_refused(world):
    from tallystick.formats import intoto

    w, folder = world
    digest = {"sha256": index.read(folder).digest.hex}
    for subjects in ([("index.json", digest), ("more", digest)], [("other.json", digest)]):
        payload = intoto.make(subjects, names.RELEASE_PREDICATE, {})
        worlds.write(folder / names.bundle_file("index"), w.sign("ci-builder", [payload])[0])
        from tallystick.release import verify

        with pytest.raises(NotGenuine, match="bundles/index") as error:
            verify.verify_release(folder, w.trust, worlds.now())
        assert codes(error) == ["release.statement.other"]


def test_a_release_statement_names_its_own_oci_manifest_or_none(world):
    from tallystick.formats import intoto
    from tallystick.release import artifact, verify

    w, folder = world
    about = artifact.subjects((folder / index.FILE).read_bytes())
    for subjects in (about[:1], about, [about[0], (artifact.SUBJECT, {"sha256": "0" * 64})]):
        payload = intoto.make(subjects, names.RELEASE_PREDICATE, {})
        worlds.write(folder / names.bundle_file("index"), w.sign("ci-builder", [payload])[0])
        if subjects in (about[:1], about):
            verify.verify_release(folder, w.trust, worlds.now())
            continue
        with pytest.raises(NotGenuine, match=about[1][1]["sha256"]) as error:
            verify.verify_release(folder, w.trust, worlds.now())
        assert codes(error) == ["release.statement.manifest"]


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda s: s.pop(), "no such subject"),
        (lambda s: s.append({"name": "more", "digest": {"sha256": "0" * 64}}), "another subject"),
        (lambda s: s.append({**s[0], "digest": {"sha256": "0" * 64}}), "a name twice"),
        (lambda s: s[0].update(digest={"sha512": "0" * 128}), "sha256:no sha256"),
    ],
)
def test_an_sbom_about_other_subjects_is_refused(world, tmp_path, change, got):
    from tallystick.release import verify

    w, _ = world

    def edit(where):
        document = json.loads((where / "statements/sbom.json").read_bytes())
        change(document["subject"])
        worlds.write(where / "statements/sbom.json", json.dumps(document).encode())

    w.release(tmp_path / "other", change=edit)
    with pytest.raises(NotGenuine, match="not about this release's products") as error:
        verify.verify_release(tmp_path / "other", w.trust, worlds.now())
    assert got in [finding.got for finding in error.value.findings]
    assert set(codes(error)) == {"release.subject.sbom"}


def test_unused_signers_are_no_signers(staging):
    """A signature by a key of nobody changes nothing, and is not counted."""
    document = staging.proposal("alice", [policy()])
    document.sign(CryptoSigner.generate_ed25519(), append=True)
    once = changes.cosign(staging.state(), "policies", document, staging.people["bob"])
    assert changes.describe(staging.state(), "policies", once).signed_by == ("alice", "bob")
    staging.publish("policies", once)
    with pytest.raises(NotGenuine, match="2 people besides its author"):
        staging.folder.verify(staging.root, "staging", NOW, HighWater())
