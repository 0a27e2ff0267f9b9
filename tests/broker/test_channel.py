"""The broker decides by its channel as it stands at this moment, and by nothing else."""

import json
import os
import shutil
import time
from datetime import timedelta

import pytest
from broker.world import NOW, WEIGHTS, Machine, World, compiled, form, listed, release
from release.channels import made

from tallystick.broker import opening
from tallystick.broker.policies import state_of
from tallystick.broker.store import Store
from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, NotGenuine, Refused
from tallystick.policy import document
from tallystick.policy.normal import KeyRule
from tallystick.release.changes import Added


def targets(world, folder="policies"):
    return sorted(p for p in (world.channel.folder.path / "targets" / folder).rglob("*.json"))


def last(world, kind):
    return [leaf for leaf in world.leaves() if leaf["kind"] == kind][-1]


def test_a_policy_that_was_edited_by_hand_is_refused_by_name(running, pair):
    cookie, _ = running.attest(Machine(image="b"), pair)
    (path,) = targets(running.world)
    wanted, got = release(), release("b")
    edited = path.read_bytes()
    for name in ("pcr04", "pcr09", "pcr11"):
        old, new = (dict(found.tuples[0].expect)[name].value for found in (wanted, got))
        edited = edited.replace(old.encode(), new.encode())
    path.write_bytes(edited)
    refused = running.fetch(cookie)
    assert refused.status == 403
    record = running.world.decision(refused.json["decision"])
    (finding,) = record["details"]["findings"]
    assert "policies/confidential-inference/broker/policy.json" in finding["where"]
    assert "policy" not in record, "no policy was in force"
    assert refused.json["findings"][0]["got"] == "(withheld)"
    path.write_bytes(document.write(form(release())))
    cookie, _ = running.attest(Machine(), pair)
    assert running.fetch(cookie).status == 200


@pytest.mark.parametrize("folder", ["policies", "metadata"])
def test_an_edit_within_the_clocks_tick_is_seen(running, pair, folder):
    """The file keeps its size and its times: only its change time, one tick apart, gives it away."""
    cookie, _ = running.attest(Machine(), pair)
    assert running.fetch(cookie).status == 200
    at = running.world.channel.folder.path
    path = targets(running.world)[0] if folder == "policies" else at / "metadata" / "timestamp.json"
    stat, data = path.stat(), path.read_bytes()
    with path.open("r+b") as stream:
        stream.write(data.replace(b"2026", b"2036") if b"2026" in data else data[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert running.fetch(cookie).status == 403


def test_what_was_verified_is_not_verified_again_until_a_file_changes(running, pair, monkeypatch):
    from tallystick.broker import policies

    read = []
    original = policies.read_file
    monkeypatch.setattr(
        policies, "read_file", lambda path, *a, **k: read.append(path) or original(path, *a, **k)
    )
    cookie, _ = running.attest(Machine(), pair)
    for _ in range(3):
        time.sleep(0.06)
        assert running.fetch(cookie).status == 200
    read.clear()
    for _ in range(5):
        assert running.fetch(cookie).status == 200
    assert read == []
    running.world.channel.folder.path.joinpath("metadata/timestamp.json").touch()
    assert running.fetch(cookie).status == 200
    assert read != []


def test_what_was_read_within_the_clocks_tick_is_read_again(world, monkeypatch):
    """Files that look the same may differ until the tick in which they were read is over."""
    from tallystick.broker import policies

    loads = []

    def load(read, now, seen):
        loads.append(read("metadata/timestamp.json"))
        return verified(world, compiled(form()))

    monkeypatch.setattr(policies, "_stat", lambda path: (1, 1, 1, 1))
    source = policies.PolicySource(
        world.channel.folder.path,
        "staging",
        load=load,
        read=document.read,
        seen=policies.Seen,
        within=policies.MAX_AGE,
        announce=lambda state, high_water, seen, now: None,
    )
    for expected in (1, 2):
        source.current(NOW)
        assert len(loads) == expected
    time.sleep(0.06)
    for _ in range(3):
        source.current(NOW)
        assert len(loads) == 3


def test_a_revocation_holds_for_sessions_that_attested_before(running, pair):
    cookie, _ = running.attest(Machine(), pair)
    assert running.fetch(cookie).status == 200
    running.world.revoke(release())
    refused = running.fetch(cookie)
    assert (refused.status, refused.code) == (403, "release.revoked")
    assert last(running.world, "policy")["revoked"] == [str(release().digest)]
    record = running.world.decision(refused.json["decision"])
    assert record["details"]["findings"][0]["got"] == str(release().digest)


def test_a_revoked_release_does_not_take_another_with_it(world, pair):
    both = release(), release("b")
    world.clock.forward(seconds=1)
    world.channel.change("alice", ["bob", "carol"], [listed(both[1])], role="releases", now=world.clock.at)
    world.channel.change("alice", ["bob", "carol"], [compiled(form(*both))], now=world.clock.at)
    world.revoke(both[0])
    with world.running() as running:
        for image, status in (("a", 403), ("b", 200)):
            cookie, _ = running.attest(Machine(image=image), pair)
            assert running.fetch(cookie).status == status


def test_two_releases_of_one_image_outlive_the_revocation_of_one(world, pair):
    from dataclasses import replace

    twin = replace(release(), digest=Digest.of(b"twin"), version="0.1.1")
    world.channel.change("alice", ["bob", "carol"], [listed(twin)], role="releases", now=NOW)
    world.channel.change("alice", ["bob", "carol"], [compiled(form(release(), twin))], now=NOW)
    world.revoke(release())
    with world.running() as running:
        cookie, _ = running.attest(Machine(), pair)
        assert running.fetch(cookie).status == 200
        assert last(world, "release")["release"] == str(twin.digest)


def test_a_release_that_the_channel_does_not_list_gets_nothing(world, pair):
    """Compiled into an approved policy all the same: what is not promoted, or is taken out again, is out."""
    unlisted = release("b")
    world.channel.change("alice", ["bob", "carol"], [compiled(form(release(), unlisted))], now=NOW)
    with world.running() as running:
        cookie, _ = running.attest(Machine(image="b"), pair)
        refused = running.fetch(cookie)
        assert (refused.status, refused.code) == (403, "release.removed")


def test_a_release_without_a_policy_gets_nothing(world, pair):
    world.channel.change("alice", ["bob", "carol"], [listed(release("b"))], role="releases", now=NOW)
    with world.running() as running:
        cookie, _ = running.attest(Machine(image="b"), pair)
        assert running.fetch(cookie).code == "tpm.pcr04.mismatch"


def test_a_new_policy_is_in_force_at_once(running, pair):
    cookie, _ = running.attest(Machine(image="b"), pair)
    assert running.fetch(cookie).status == 403
    running.world.publish(release("b"))
    assert running.fetch(cookie).status == 200
    assert [leaf["kind"] for leaf in running.world.leaves()].count("policy") == 2


def test_metadata_that_has_expired_releases_nothing_and_says_so(running, pair):
    running.world.clock.at = running.world.channel.state().expires - timedelta(seconds=10)
    cookie, _ = running.attest(Machine(), pair)
    for _ in range(3):  # so that what was verified is settled, and time alone makes it stale
        assert running.fetch(cookie).status == 200
        time.sleep(0.06)
    running.world.clock.forward(seconds=10)
    refused = running.fetch(cookie)
    assert (refused.status, refused.code) == (403, "release.channel.expired")


def test_a_compiled_policy_has_an_end(world, pair):
    end = NOW + timedelta(minutes=2)
    world.channel.change("bob", ["alice", "carol"], [compiled(form(release(), not_after=end))], now=NOW)
    with world.running() as running:
        cookie, _ = running.attest(Machine(), pair)
        assert running.fetch(cookie).status == 200
        world.clock.forward(minutes=2, seconds=1)
        assert running.fetch(cookie).code == "policy.expired"


def test_an_older_channel_is_refused_also_after_a_restart(world, pair, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(world.channel.folder.path, old)
    world.publish(release("b"))
    with world.running() as running:
        cookie, _ = running.attest(Machine(image="b"), pair)
        assert running.fetch(cookie).status == 200
    shutil.rmtree(world.channel.folder.path)
    shutil.copytree(old, world.channel.folder.path)
    with world.running() as running:
        cookie, _ = running.attest(Machine(), pair)
        refused = running.fetch(cookie)
        assert refused.status == 403
        assert "rollback" in refused.code or "version" in refused.code


def test_a_revocation_is_never_forgotten(world, pair, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(world.channel.folder.path, old)
    world.revoke(release())
    with world.running() as running:
        cookie, _ = running.attest(Machine(), pair)
        assert running.fetch(cookie).code == "release.revoked"
    store = Store.open(world.home.store)
    assert json.loads(store.channel("staging").high_water)["revoked"] == [str(release().digest)]
    store.close()


def test_a_channel_that_is_gone_releases_nothing(running, pair):
    cookie, _ = running.attest(Machine(), pair)
    shutil.rmtree(running.world.channel.folder.path)
    assert running.fetch(cookie).status == 403


def test_a_forged_channel_with_its_own_root_is_not_the_pinned_one(world, pair, tmp_path):
    forged = World(folder=tmp_path / "forged", channel=made(tmp_path / "forged" / "staging"))
    forged.publish(release("b"))
    shutil.rmtree(world.channel.folder.path)
    shutil.copytree(forged.channel.folder.path, world.channel.folder.path)
    with world.running() as running:
        cookie, _ = running.attest(Machine(image="b"), pair)
        assert running.fetch(cookie).status == 403


def test_the_trust_file_must_pin_the_channel(world):
    from dataclasses import replace

    config = replace(world.config, channel="production")
    from broker.world import trust

    with pytest.raises(Refused, match="does not know the channel production") as caught:
        opening.open_broker(config, trust=trust(world.channel), read_clock=world.clock)
    assert caught.value.code == "release.channel.unknown"


def verified(world, *policies, revoked=()):
    """What a load of a channel with these policies gives, without the signatures."""
    from dataclasses import replace

    from tallystick.broker.policies import Verified
    from tallystick.release.channel import load_policies

    from broker.world import trust  # isort: skip

    found = load_policies(world.channel.folder.path, "staging", trust(world.channel), NOW)
    files = {added.path.removeprefix("policies/"): added.data for added in policies}
    return Verified(policies=replace(found, policies=files), releases=frozenset({release().digest}))


def test_two_policies_for_one_key_permit_it_to_nobody(world):
    second = form(release(), policy="second", keys=(KeyRule(key=WEIGHTS, artifact="weights"),))
    state = state_of(verified(world, compiled(form()), compiled(second)), "staging", document.read)
    assert WEIGHTS not in state.by_key
    assert len(state.by_key) == 1
    assert [finding.code for finding in state.unusable] == ["policy.key-twice"]


@pytest.mark.parametrize(
    ("added", "code"),
    [
        (Added(path="policies/p/broker/policy.json", data=b"{}"), "malformed"),
        (Added(path="policies/p/trustee/policy.rego", data=b"allow := true"), "policy.no-target"),
        (compiled(form(channel="debug")), "policy.other"),
        (Added(path="policies/q/broker/policy.json", data=document.write(form())), "policy.other"),
    ],
)
def test_a_policy_that_is_not_ours_permits_nothing_and_says_why(world, added, code):
    state = state_of(verified(world, added), "staging", document.read)
    assert (dict(state.by_key), [finding.code for finding in state.unusable]) == ({}, [code])


def test_a_production_policy_with_a_development_root_permits_nothing():
    from types import SimpleNamespace

    from tallystick.broker.policies import Verified

    found = form(release(), channel="production")
    data = compiled(found)
    policies = SimpleNamespace(
        channel="production",
        version=1,
        expires=NOW,
        revoked=frozenset(),
        policies={data.path.removeprefix("policies/"): data.data},
        policy=lambda name: {"broker/policy.json": data.data},
    )
    held = Verified(policies=policies, releases=frozenset({release().digest}))
    state = state_of(held, "production", document.read)
    assert [finding.code for finding in state.unusable] == ["compiled.development-root"]
    assert not state.by_key


def test_metadata_of_another_channel_is_refused(world):
    with pytest.raises(NotGenuine, match="want debug, got staging") as caught:
        state_of(verified(world), "debug", document.read)
    assert caught.value.code == "channel.other"


def test_a_broker_without_its_folder_says_what_to_do(tmp_path):
    from broker.world import trust

    world = World(folder=tmp_path, channel=made(tmp_path / "staging"))
    with pytest.raises(Misuse, match="tally broker init"):
        opening.open_broker(world.config, trust=trust(world.channel), read_clock=world.clock)
