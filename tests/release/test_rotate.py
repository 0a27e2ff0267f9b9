"""Keys exchanged by the people who are left, never by fewer than the threshold, and nothing else along with it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from release.channels import LIFETIMES, Made, made, person, policy
from release.made import NOW, signatory

from tallystick.core.errors import Misuse, NotGenuine, Refused
from tallystick.release import changes, marks, metadata, rotate
from tallystick.release.desk import Desk
from tallystick.release.records import HighWater, Rules
from tallystick.release.tuf import Folder
from tallystick.signing.records import Trust


@pytest.fixture
def channel(tmp_path):
    found = made(tmp_path / "channel")
    found.change("alice", ["bob", "carol"], [policy()])
    return found


def desk(channel: Made, seen: HighWater | None = None) -> Desk:
    trust = Trust(
        label="embedded-dev",
        sigstore_root=b"{}",
        builders=(),
        promoters=(),
        layout=b"{}",
        layout_owners=(),
        channels=((channel.name, channel.root),),
        endorsers=(),
    )
    return Desk(folder=channel.folder, channel=channel.name, trust=trust, now=NOW, seen=seen or HighWater())


def after(channel, changed):
    """The channel's people with ``changed`` keys; None takes somebody out."""
    people = {one.name: one for one in desk(channel).state().people}
    for name, who in changed.items():
        if who is None:
            people.pop(name)
        else:
            people[name] = person(who)
    return tuple(people[name] for name in sorted(people))


def propose(channel, who, changed):
    return rotate.propose(desk(channel), after(channel, changed), who, lambda keyids: channel.online)[0]


def approve(channel, who):
    return rotate.approve(desk(channel), who, lambda keyids: channel.online)[0]


def test_who_lost_a_key_comes_back_by_the_others(channel):
    fresh = signatory("alice")
    before = desk(channel).state()
    first = propose(channel, channel.people["bob"], {"alice": fresh})
    assert (first.signed_by, bool(first.lacks)) == (("bob",), True)
    assert desk(channel).state().root.signed.version == 1
    second = approve(channel, channel.people["carol"])
    assert second.lacks  # alice's own roles need her new key
    last = approve(channel, fresh)
    assert (last.lacks, last.signed_by) == ("", ("alice", "bob", "carol"))
    state = desk(channel, before.high_water).state()
    assert state.root.signed.version == 2
    assert {one.keyid for one in state.people} == {
        fresh.keyid,
        channel.people["bob"].keyid,
        channel.people["carol"].keyid,
    }
    assert state.delegated["policies"].signed.targets == before.delegated["policies"].signed.targets
    channel.people["alice"] = fresh
    channel.change("alice", ["bob", "carol"], [policy("other")])  # the channel goes on


def test_the_old_key_is_worth_nothing_afterwards(channel):
    fresh, lost = signatory("alice"), channel.people["alice"]
    propose(channel, channel.people["bob"], {"alice": fresh})
    for who in (channel.people["carol"], fresh):
        approve(channel, who)
    with pytest.raises(Refused) as caught:
        channel.proposal("alice")
    assert caught.value.code == "release.channel.stranger"
    with pytest.raises(Misuse):
        approve(channel, lost)


def test_fewer_than_the_threshold_rotate_nothing(channel):
    """Alice alone, with as many new keys as she likes."""
    mine = {name: signatory(name) for name in ("bob", "carol")}
    assert propose(channel, channel.people["alice"], mine).lacks
    for who in (*mine.values(), channel.people["alice"]):
        assert approve(channel, who).lacks
    state = desk(channel).state()
    assert state.root.signed.version == 1


def test_somebody_comes_and_somebody_goes(channel):
    dave = signatory("dave")
    propose(channel, channel.people["alice"], {"dave": dave, "carol": None})
    assert approve(channel, channel.people["bob"]).lacks
    assert approve(channel, dave).lacks == ""
    state = desk(channel).state()
    assert [one.name for one in state.people] == ["alice", "bob", "dave"]
    assert "revocations-carol" not in state.delegated
    with pytest.raises(Misuse, match="at least 3 people"):
        propose(channel, channel.people["alice"], {"dave": None})
    with pytest.raises(Misuse, match="already"):
        propose(channel, channel.people["alice"], {})


def test_what_waits_is_nothing_but_a_rotation(channel):
    fresh = signatory("alice")
    propose(channel, channel.people["bob"], {"alice": fresh})
    place = channel.folder.path / rotate.FOLDER / "policies.json"
    document = json.loads(place.read_bytes())
    document["signed"]["targets"] = {}
    place.write_text(json.dumps(document))
    with pytest.raises(NotGenuine) as caught:
        approve(channel, channel.people["carol"])
    assert caught.value.code == "release.rotate.other"


def test_one_waits_at_a_time_strangers_sign_nothing_and_anybody_withdraws(channel):
    propose(channel, channel.people["bob"], {"alice": signatory("alice")})
    with pytest.raises(Refused):
        propose(channel, channel.people["bob"], {"alice": signatory("alice")})
    with pytest.raises(Refused) as caught:
        approve(channel, signatory("mallory"))
    assert caught.value.code == "release.channel.stranger"
    rotate.withdraw(desk(channel), channel.people["carol"])
    with pytest.raises(Misuse):
        approve(channel, channel.people["carol"])
    assert metadata.verify(channel.folder.read, channel.root, channel.name, NOW, HighWater())


def test_rules_are_agreed_on_like_keys(channel):
    people = desk(channel).state().people
    rules = Rules(slsa_build_level=2, denied_licences=("GPL-9",), push=("bob",))

    def ask():
        return rotate.propose(
            desk(channel), people, channel.people["bob"], lambda keyids: channel.online, rules
        )

    first, _ = ask()
    assert (first.rules, bool(first.lacks)) == (rules, True)
    assert desk(channel).state().settings.rules == Rules()
    approve(channel, channel.people["carol"])
    assert approve(channel, channel.people["alice"]).lacks == ""
    assert desk(channel).state().settings.rules == rules
    with pytest.raises(Misuse, match="already"):
        ask()
    with pytest.raises(Refused) as caught:
        channel.proposal("alice")
    assert caught.value.code == "release.channel.push"


def exchange_online(channel, fresh, signers=("bob", "carol", "alice")):
    """Exchange the online key; everybody who has one of the two can be asked for it."""
    both = {who.keyid: who for who in (channel.online, fresh)}

    def online(keyids):
        return next(both[keyid] for keyid in keyids)

    first, *others = (channel.people[name] for name in signers)
    people = desk(channel).state().people
    progress, _ = rotate.propose(desk(channel), people, first, online, new_online=fresh.public_key)
    for who in others:
        progress, _ = rotate.approve(desk(channel), who, online)
    return progress


def old_online(channel, version):
    """Publish a timestamp and snapshot of that version with the channel's old online key."""
    state = desk(channel).state()
    for document in (state.snapshot, state.timestamp):
        document.signed.version = version
    channel.folder.publish(changes.publication(state, {}, channel.online, now=NOW, lifetimes=LIFETIMES))


def test_the_online_key_is_exchanged_by_the_people(channel):
    fresh = signatory("online")
    assert exchange_online(channel, fresh).lacks == ""
    assert desk(channel).state().online == (fresh.keyid,)
    old_online(channel, 50)
    with pytest.raises(NotGenuine, match="timestamp: want 1 distinct") as caught:
        desk(channel).state()
    assert caught.value.code == "release.channel.signature"


def test_two_of_three_people_do_not_exchange_the_online_key(channel):
    assert exchange_online(channel, signatory("online"), ("bob", "carol")).lacks
    assert desk(channel).state().online == (channel.online.keyid,)


def test_an_online_key_that_lies_elsewhere_leaves_the_rotation_waiting(channel):
    def elsewhere(keyids):
        raise Misuse("no key here", code="key.missing")

    people, bob, fresh = desk(channel).state().people, channel.people["bob"], signatory("online")
    said, _ = rotate.propose(desk(channel), people, bob, elsewhere, new_online=fresh.public_key)
    assert (said.lacks, said.online) == ("no key here", (fresh.keyid,))
    assert rotate.approve(desk(channel), channel.people["carol"], elsewhere)[0].lacks == "no key here"
    last, _ = rotate.approve(desk(channel), channel.people["alice"], lambda keyids: fresh)
    assert last.lacks == ""


def test_a_persons_key_is_no_online_key_and_the_same_is_no_change(channel):
    for who, code in ((channel.people["carol"], "online"), (channel.online, "same")):
        with pytest.raises(Misuse) as caught:
            exchange_online(channel, who)
        assert caught.value.code == f"release.rotate.{code}"


def test_who_was_shown_far_versions_by_the_old_online_key_goes_on_after_the_exchange(channel, tmp_path):
    """Recovery from a fast-forward attack, TUF 5.3.11."""
    shutil.copytree(channel.folder.path, tmp_path / "shown")
    shown = replace(channel, folder=Folder(tmp_path / "shown"))
    old_online(shown, 1000)
    seen = desk(shown).state().high_water
    assert seen.version("timestamp") == 1001
    with pytest.raises(NotGenuine, match="want version 1001 or later"):
        desk(channel, seen).state()
    propose(channel, channel.people["bob"], {"alice": (alice := signatory("alice"))})
    for who in (channel.people["carol"], alice):
        approve(channel, who)
    with pytest.raises(NotGenuine, match="want version 1001 or later"):  # other keys do not excuse it
        desk(channel, seen).state()
    channel.people["alice"] = alice
    exchange_online(channel, signatory("online"))
    now_seen = desk(channel, seen).state().high_water
    assert now_seen.version("timestamp") < 1000
    marks.keep(tmp_path / "marks.json", seen)
    marks.keep(tmp_path / "marks.json", now_seen)
    kept = marks.load(tmp_path / "marks.json")
    assert kept.version("timestamp") == now_seen.version("timestamp")
    assert desk(channel, kept).state()
    assert marks.higher(kept, seen) == marks.higher(seen, kept) == kept


def test_thresholds_are_not_rotated_along(channel):
    propose(channel, channel.people["bob"], {"alice": signatory("alice")})
    place = channel.folder.path / rotate.FOLDER / "root.json"
    document = json.loads(place.read_bytes())
    document["signed"]["roles"]["root"]["threshold"] = 3
    place.write_text(json.dumps(document))
    with pytest.raises(NotGenuine) as caught:
        approve(channel, channel.people["carol"])
    assert caught.value.code == "release.rotate.other"
