"""A channel's metadata: whole, current, never rolled back, and never one person's doing."""

from __future__ import annotations

import copy
import shutil
from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from release.channels import LIFETIMES, made, person, policy
from release.made import NOW, signatory
from securesystemslib.signer import Signature
from tuf.api.metadata import Metadata, TargetFile, Targets

from tallystick.core.errors import Malformed, Misuse, NotGenuine, Refused
from tallystick.release import changes, keys, metadata, roles
from tallystick.release.changes import Added
from tallystick.release.records import HighWater
from tallystick.release.tuf import Folder

DAY = timedelta(days=1)


@pytest.fixture
def channel(tmp_path):
    return made(tmp_path / "staging")


def codes(error):
    return [(finding.code, finding.where) for finding in error.value.findings]


def targets_of(channel, role="policies", now=NOW):
    return sorted(channel.state(now).delegated[role].signed.targets)


def test_a_new_channel_is_empty_and_says_what_it_is(channel):
    state = channel.state()
    assert (state.settings.name, state.settings.platforms, state.settings.threshold) == (
        "staging",
        ("qemu-vtpm",),
        2,
    )
    assert [p.name for p in state.people] == ["alice", "bob", "carol"]
    assert targets_of(channel) == targets_of(channel, "releases") == []
    assert state.expires == NOW + LIFETIMES.timestamp


def test_a_change_that_two_besides_its_author_approve_is_live(channel):
    channel.change("alice", ["bob", "carol"], [policy("one")])
    state = channel.state()
    signed = state.delegated["policies"].signed
    assert metadata.target(channel.folder.read, signed, "policies/p/broker/policy.json") == b"one"
    channel.change("bob", ["alice", "carol"], [policy("two")], remove=[])
    signed = channel.state().delegated["policies"].signed
    assert metadata.target(channel.folder.read, signed, "policies/p/broker/policy.json") == b"two"
    channel.change("carol", ["alice", "bob"], remove=["policies/p/broker/policy.json"])
    assert targets_of(channel) == []


def test_one_approval_is_not_enough_and_the_author_does_not_count(channel):
    document = channel.proposal("alice", [policy()])
    once = changes.cosign(channel.state(), "policies", document, channel.people["bob"])
    assert changes.describe(channel.state(), "policies", once).needed == 1
    channel.publish("policies", once)  # alice and bob: TUF's own threshold of 2 is met
    with pytest.raises(NotGenuine, match="2 people besides its author alice, got bob") as error:
        channel.state()
    assert codes(error) == [("release.channel.approvals", "policies")]


def test_a_proposal_needs_its_authors_signature(channel):
    """Without it, an author could name somebody else and approve the change as well."""
    document = channel.proposal("alice", [policy()])
    document.signed.unrecognized_fields[roles.CHANGE_FIELD]["author"] = "carol"
    document.signatures.clear()
    for name in ("alice", "bob"):
        document.sign(channel.people[name].signer, append=True)
    channel.publish("policies", document)
    with pytest.raises(NotGenuine, match="carol's signature, who proposed it") as error:
        channel.state()
    assert codes(error) == [("release.channel.author", "policies")]


def test_author_duplicates_and_strangers_are_refused_by_name(channel):
    state, document = channel.state(), channel.proposal("alice", [policy()])
    with pytest.raises(Refused, match="somebody else than the author alice, got alice") as error:
        changes.cosign(state, "policies", document, channel.people["alice"])
    assert codes(error) == [("release.approve.author", "policies")]
    once = changes.cosign(state, "policies", document, channel.people["bob"])
    with pytest.raises(Refused, match="each person's approval once, got bob again") as error:
        changes.cosign(state, "policies", once, channel.people["bob"])
    assert codes(error) == [("release.approve.duplicate", "policies")]
    for name in ("dave", "bob"):  # a new name, and another key under a known name
        with pytest.raises(Refused, match="a key of alice, bob, carol") as error:
            changes.cosign(state, "policies", document, signatory(name))
        assert codes(error) == [("release.channel.stranger", "staging")]
    renamed = signatory("carol")
    object.__setattr__(renamed, "keyid", channel.people["alice"].keyid)
    with pytest.raises(Refused, match="a key of alice"):
        changes.cosign(state, "policies", document, renamed)


def test_one_key_under_two_key_ids_is_refused_by_name(tmp_path):
    alice, bob, carol = signatory("alice"), signatory("bob"), signatory("carol")
    twin = copy.copy(alice)
    for field, value in (("name", "twin"), ("keyid", "ab" * 32)):
        object.__setattr__(twin, field, value)
    files = changes.create(
        "staging",
        [(person(who), who) for who in (alice, bob, carol, twin)],
        signatory("online"),
        platforms=["qemu-vtpm"],
        threshold=2,
        now=NOW,
        lifetimes=LIFETIMES,
    )
    folder = Folder(tmp_path)
    folder.publish(files)
    with pytest.raises(Refused, match="its roles are not") as error:
        folder.verify(files["metadata/1.root.json"], "staging", NOW, HighWater())
    assert ("release.channel.duplicate-key", "root") in codes(error)
    root = Metadata.from_bytes(files["metadata/1.root.json"])
    root.signatures["ab" * 32] = Signature("ab" * 32, root.signatures[alice.keyid].signature)
    with pytest.raises(NotGenuine, match="each key under one key id") as error:  # and it signs twice
        folder.verify(root.to_bytes(), "staging", NOW, HighWater())
    assert codes(error) == [("release.channel.duplicate-key", "root")]


def test_a_key_listed_twice_is_refused_even_before_it_signs(channel):
    state = channel.state()
    signed = copy.deepcopy(state.targets.signed)
    twin = copy.deepcopy(signed.delegations.keys[channel.people["alice"].keyid])
    twin.keyid = "ab" * 32
    signed.delegations.keys[twin.keyid] = twin
    signed.delegations.roles["releases"].keyids.append(twin.keyid)
    found = [(f.code, f.where) for f in roles.unfit(state.root.signed, signed)]
    assert ("release.channel.roles", "targets.delegations") in found
    twin.unrecognized_fields[roles.PERSON_FIELD] = {"name": "twin", "san": "t", "issuer": "i"}
    own = copy.deepcopy(signed.delegations.roles["revocations-alice"])
    own.name, own.paths, own.keyids = "revocations-twin", ["revocations/twin/*"], [twin.keyid]
    signed.delegations.roles["revocations-twin"] = own
    found = [(f.code, f.where) for f in roles.unfit(state.root.signed, signed)]
    assert ("release.channel.duplicate-key", "releases") in found


@pytest.mark.parametrize(
    ("life", "role"),
    [
        (changes.Lifetimes(), "timestamp"),
        (changes.Lifetimes(timestamp=900 * DAY), "snapshot"),
        (changes.Lifetimes(timestamp=900 * DAY, snapshot=900 * DAY), "releases"),
        (changes.Lifetimes(timestamp=900 * DAY, snapshot=900 * DAY, shared=900 * DAY), "root"),
    ],
)
def test_every_expiry_is_a_freeze_that_is_noticed(tmp_path, life, role, monkeypatch):
    monkeypatch.setattr(metadata, "_check_age", lambda *_: None)  # which would refuse these first
    channel = made(tmp_path, lifetimes=life)
    end = channel.state().expires
    channel.state(end - timedelta(seconds=1))
    with pytest.raises(Refused, match=f"{role}: want an end after") as error:
        channel.state(end)
    assert codes(error) == [("release.channel.expired", role)]


def test_old_metadata_replayed_is_a_rollback(channel, tmp_path):
    first = tmp_path / "first"
    shutil.copytree(channel.folder.path, first)
    channel.change("alice", ["bob", "carol"], [policy()])
    seen = channel.state().high_water
    shutil.rmtree(channel.folder.path)
    shutil.copytree(first, channel.folder.path)
    channel.state()  # a client that never saw more believes it, until it expires
    with pytest.raises(NotGenuine, match="timestamp: want version 2 or later, got version 1") as error:
        channel.state(seen=seen)
    assert codes(error) == [("release.channel.rollback", "timestamp")]


def test_the_online_key_alone_can_not_roll_a_role_back(channel):
    old = channel.state()
    channel.change("alice", ["bob", "carol"], [policy()])
    seen = channel.state().high_water
    meta = dict(channel.state().snapshot.signed.meta)
    meta["policies.json"] = old.snapshot.signed.meta["policies.json"]
    state = channel.state()
    state.snapshot.signed.meta = meta
    channel.folder.publish(changes.publication(state, {}, channel.online, now=NOW, lifetimes=LIFETIMES))
    with pytest.raises(NotGenuine, match="policies: want version 2 or later, got version 1"):
        channel.state(seen=seen)


def test_the_clock_does_not_run_back(channel):
    seen = channel.state(NOW).high_water
    with pytest.raises(Refused, match="now: want at or after") as error:
        channel.state(NOW - timedelta(seconds=1), seen=seen)
    assert codes(error) == [("release.channel.clock", "now")]


def test_another_channels_repository_is_refused(tmp_path):
    debug = made(tmp_path / "debug", name="debug")
    with pytest.raises(NotGenuine, match="want production, got debug") as error:
        debug.folder.verify(debug.root, "production", NOW, HighWater())
    assert codes(error) == [("release.channel.channel", "root")]
    other = made(tmp_path / "other", name="debug")
    with pytest.raises(NotGenuine, match="distinct signatures that hold") as error:
        debug.folder.verify(other.root, "debug", NOW, HighWater())
    assert codes(error) == [("release.channel.signature", "timestamp")]


def test_a_role_lists_its_own_paths_only(channel):
    document = channel.proposal("alice", [policy(path="releases/aa/index.json")])
    for name in ("bob", "carol"):
        document.sign(channel.people[name].signer, append=True)
    channel.publish("policies", document)
    with pytest.raises(NotGenuine, match=r"want a path of this role, got releases/aa/index\.json"):
        channel.state()


@pytest.mark.parametrize(
    "path", ["policies/../x", "policies/a/b/c/d/e", "/policies/a", "policies", "policies/a/b\\c"]
)
def test_odd_paths_are_refused(channel, path):
    document = channel.proposal("alice", [Added(path="policies/a/b", data=b"")])
    document.signed.targets[path] = document.signed.targets.pop("policies/a/b")
    document.signatures.clear()
    for name in ("alice", "bob", "carol"):
        document.sign(channel.people[name].signer, append=True)
    channel.publish("policies", document)
    with pytest.raises(NotGenuine, match="want a path of this role"):
        channel.state()


def test_changed_and_missing_files_are_named(channel):
    channel.change("alice", ["bob", "carol"], [policy("one")])
    folder = channel.folder.path
    (place,) = (folder / "targets/policies/p/broker").iterdir()
    place.write_bytes(b"two")
    signed = channel.state().delegated["policies"].signed
    with pytest.raises(NotGenuine, match=r"policies/p/broker/policy\.json: want sha256:") as error:
        metadata.target(channel.folder.read, signed, "policies/p/broker/policy.json")
    assert codes(error) == [("release.channel.target-changed", "policies/p/broker/policy.json")]
    place.unlink()
    with pytest.raises(NotGenuine, match="no file") as error:
        metadata.target(channel.folder.read, signed, "policies/p/broker/policy.json")
    assert codes(error) == [("release.channel.missing", "policies/p/broker/policy.json")]
    for name in ("2.policies.json", "2.snapshot.json", "1.targets.json", "1.releases.json"):
        kept = (folder / "metadata" / name).read_bytes()
        (folder / "metadata" / name).write_bytes(kept + b"\n")
        with pytest.raises(NotGenuine, match="the channel's metadata do not hold") as error:
            channel.state()
        assert error.value.code == "release.channel.changed"
        (folder / "metadata" / name).unlink()
        with pytest.raises(NotGenuine, match="no file"):
            channel.state()
        (folder / "metadata" / name).write_bytes(kept)
    (folder / "metadata/timestamp.json").unlink()
    with pytest.raises(Misuse, match="there is no channel in"):
        channel.state()


def test_a_revocation_is_one_persons_and_only_theirs(channel):
    added = Added(path="revocations/alice/aa.json", data=b"{}")
    state = channel.state()
    role, document = changes.revoke(state, channel.people["alice"], [added], now=NOW, lifetimes=LIFETIMES)
    assert role == "revocations-alice"
    channel.folder.add_targets({added.path: added.data})
    channel.publish(role, document)
    assert targets_of(channel, role) == ["revocations/alice/aa.json"]
    undone = copy.deepcopy(channel.state().delegated[role])  # bob tries to take it back
    undone.signed.version += 1
    undone.signed.targets.clear()
    undone.sign(channel.people["bob"].signer)
    channel.publish(role, undone)
    with pytest.raises(NotGenuine, match="1 distinct signatures that hold, got 0") as error:
        channel.state()
    assert codes(error) == [("release.channel.signature", "revocations-alice")]


def test_too_few_people_for_the_threshold_is_misuse(tmp_path):
    with pytest.raises(Misuse, match="need at least 3 people with keys, got 2"):
        made(tmp_path, ["alice", "bob"])


def rotate(channel, change, signers):
    """The next root after ``change``, signed by ``signers``, on disk."""
    root = copy.deepcopy(channel.state().root)
    root.signed.version += 1
    change(root.signed)
    root.signatures.clear()
    for who in signers:
        root.sign(who.signer, append=True)
    (channel.folder.path / f"metadata/{root.signed.version}.root.json").write_bytes(root.to_bytes())


def test_a_root_is_rotated_by_the_old_and_the_new_keys(channel):
    people = channel.people
    dave = signatory("dave")

    def swap(root):
        root.add_key(roles.key_of(person(dave)), "root")
        root.revoke_key(people["carol"].keyid, "root")

    rotate(channel, swap, [people["alice"], people["bob"]])
    assert channel.state().high_water.version("root") == 2
    seen = channel.state().high_water
    rotate(channel, lambda root: None, [dave, people["carol"]])  # carol is out
    with pytest.raises(NotGenuine, match="2 distinct signatures that hold, got 1"):
        channel.state()
    (channel.folder.path / "metadata/3.root.json").unlink()
    (channel.folder.path / "metadata/2.root.json").unlink()
    with pytest.raises(NotGenuine, match="root: want version 2 or later"):
        channel.state(seen=seen)


def test_weak_roots_and_targets_are_refused_by_name(tmp_path):
    def weak(change, code):
        channel = made(tmp_path / code)
        targets = copy.deepcopy(channel.state().targets)
        targets.signed.version += 1
        change(targets.signed)
        targets.signatures.clear()
        for who in channel.people.values():
            targets.sign(who.signer, append=True)
        state = channel.state()
        channel.folder.publish(
            changes.publication(state, {"targets": targets}, channel.online, now=NOW, lifetimes=LIFETIMES)
        )
        with pytest.raises(Refused, match="its roles are not") as error:
            channel.state()
        assert code in [c for c, _ in codes(error)]

    def one(signed):
        signed.delegations.roles["releases"].threshold = 1

    def wide(signed):
        signed.delegations.roles["policies"].paths.append("releases/*/*")

    def gone(signed):
        del signed.delegations.roles["revocations-bob"]

    def shared(signed):
        role = signed.delegations.roles["revocations-bob"]
        role.keyids.append(signed.delegations.roles["revocations-alice"].keyids[0])

    def direct(signed):
        signed.targets["x"] = TargetFile.from_data("x", b"")

    weak(one, "release.channel.threshold")
    weak(wide, "release.channel.paths")
    weak(gone, "release.channel.roles")
    weak(shared, "release.channel.roles")
    weak(direct, "release.channel.target")


def test_pythons_own_updater_agrees(channel, tmp_path):
    """A second opinion: unmodified python-tuf finds the same target in the same folder."""
    from tuf.api.exceptions import DownloadHTTPError
    from tuf.ngclient import FetcherInterface, Updater

    class FromDisk(FetcherInterface):
        def _fetch(self, url):
            data = channel.folder.read(url.removeprefix("file:///"))
            if data is None:
                raise DownloadHTTPError("not found", 404)
            yield data

    def client(name):
        where = tmp_path / name
        for part in ("metadata", "targets"):
            (where / part).mkdir(parents=True)
        return Updater(
            metadata_dir=str(where / "metadata"),
            metadata_base_url="file:///metadata/",
            target_dir=str(where / "targets"),
            target_base_url="file:///targets/",
            fetcher=FromDisk(),
            bootstrap=channel.root,
        )

    from datetime import UTC, datetime

    now = datetime.now(UTC).replace(microsecond=0)
    fresh = made(tmp_path / "fresh", now=now)
    channel.folder, channel.root = fresh.folder, fresh.root
    channel.people, channel.online = fresh.people, fresh.online
    assert client("before").get_targetinfo("policies/p/broker/policy.json") is None
    channel.change("alice", ["bob", "carol"], [policy("one")], now=now)
    updater = client("after")
    info = updater.get_targetinfo("policies/p/broker/policy.json")
    assert info is not None
    with open(updater.download_target(info), "rb") as stream:
        assert stream.read() == b"one"


@settings(max_examples=40, deadline=None)
@given(
    st.integers(3, 5).flatmap(
        lambda n: st.tuples(
            st.integers(2, n - 1),
            st.lists(st.sampled_from(["absent", "dishonest", "forged"]), min_size=n, max_size=n),
            st.integers(0, n - 1),
        )
    )
)
def test_no_k_minus_1_dishonest_approvers_change_anything(tmp_path_factory, plan):
    """The dishonest sign whatever they like with their own keys and hold the online key as well."""
    threshold, parts, author = plan
    names = [f"p{i}" for i in range(len(parts))]
    channel = made(tmp_path_factory.mktemp("c"), names, threshold=threshold)
    document = channel.proposal(names[author], [policy("evil")])
    document.signatures.clear()
    for name, part in zip(names, parts, strict=True):
        if part == "dishonest":
            document.sign(channel.people[name].signer, append=True)
        elif part == "forged":
            other = signatory(name).signer
            other.public_key.keyid = channel.people[name].keyid
            document.sign(other, append=True)
    channel.publish("policies", document)
    try:
        live = bool(targets_of(channel))
    except (NotGenuine, Refused):
        live = False
    dishonest = {name for name, part in zip(names, parts, strict=True) if part == "dishonest"}
    others = dishonest - {names[author]}
    assert live == (names[author] in dishonest and len(others) >= threshold)
    assert not (live and len(dishonest) <= threshold - 1)


@given(st.binary() | st.text().map(lambda t: f'{{"signed": {{"_type": "{t}"}}}}'.encode()))
def test_whatever_is_read_as_metadata_is_read_or_refused(data):
    with suppress(Malformed):
        metadata.parse(data, "timestamp")


def test_a_torn_publication_leaves_the_old_state(channel):
    """Everything but the timestamp may be on disk: the state is the one before."""
    before = channel.state().high_water
    document = channel.proposal("alice", [policy()])
    for name in ("bob", "carol"):
        document = changes.cosign(channel.state(), "policies", document, channel.people[name])
    files = changes.publication(
        channel.state(), {"policies": document}, channel.online, now=NOW, lifetimes=LIFETIMES
    )
    names = list(files)
    assert names[-1] == "metadata/timestamp.json"
    for count in range(len(names)):
        channel.folder.publish({name: files[name] for name in names[:count]})
        assert channel.state().high_water == before
    channel.folder.publish(files)
    assert targets_of(channel) == ["policies/p/broker/policy.json"]


def test_what_is_pending_is_kept_until_it_is_published(channel):
    assert channel.folder.pending(channel.state()) == {}
    document = channel.proposal("alice", [policy()])
    channel.folder.keep_pending("policies", document)
    (role,) = channel.folder.pending(channel.state())
    assert role == "policies"
    change = changes.describe(channel.state(), role, document)
    assert (change.author, change.needed, change.adds) == (
        "alice",
        2,
        ("policies/p/broker/policy.json",),
    )
    for name in ("bob", "carol"):
        document = changes.cosign(channel.state(), role, document, channel.people[name])
    channel.publish(role, document)
    assert channel.folder.pending(channel.state()) == {}  # a crash before the file was removed
    channel.folder.drop_pending(role)
    assert channel.folder.read("pending/policies.json") is None


def test_targets_metadata_is_the_type_that_is_kept(channel):
    assert isinstance(channel.state().targets, Metadata)
    assert isinstance(channel.state().targets.signed, Targets)
    assert keys.PUBLIC_KEY_BYTES == 32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"at": "yesterday"}, "at: want YYYY"),
        ({"author": "dave"}, "author: want a person of the channel"),
        ({"summary": "\x1b[2J"}, "want printable texts"),
        ({"kind": ""}, "want printable texts"),
        ({"more": "x"}, "want at, author, kind, summary"),
    ],
)
def test_what_a_change_says_of_itself_is_read_strictly(channel, change, said):
    document = channel.proposal("alice", [policy()])
    document.signed.unrecognized_fields[roles.CHANGE_FIELD].update(change)
    document.signatures.clear()
    for who in channel.people.values():
        document.sign(who.signer, append=True)
    channel.publish("policies", document)
    with pytest.raises(Malformed, match=said):
        channel.state()
