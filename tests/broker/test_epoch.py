"""A broker that is cut off from its channel stops within the stated bound: real metadata, made-up partitions."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from broker.records import NOW, WEIGHTS
from broker.world import World, compiled, form, listed, new_world, release, trust
from policy import policyworld
from release.channels import LIFETIMES, made

from tallystick.broker import opening
from tallystick.broker.policies import PolicyState, check_heard, state_of
from tallystick.broker.releasing import judge
from tallystick.broker.sessions import Attested
from tallystick.core.errors import Malformed, NotGenuine, Refused
from tallystick.handshake.jwe import TeeKeyPair
from tallystick.policy import document
from tallystick.release import changes, metadata, revocations, roles
from tallystick.release.changes import Added
from tallystick.release.records import HighWater, Revocation

REFRESH = timedelta(seconds=60)
VERSIONS, REVOKED_AT = 30, 15  # the channel speaks every minute; it revokes in the fifteenth
SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Spoken:
    """The channel as it stood from a moment on."""

    at: datetime
    state: PolicyState


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """Everything the channel said, as a broker verified it that heard it at once."""
    channel = made(tmp_path_factory.mktemp("channel") / "staging", now=NOW)
    found = release("a")
    channel.change("alice", ["bob", "carol"], [listed(found)], role="releases", now=NOW)
    channel.change("alice", ["bob", "carol"], [compiled(form(found))], now=NOW)
    loader = opening.channel_loader(trust(channel), "staging")
    spoken = []
    for number in range(VERSIONS):
        at = NOW + REFRESH * number
        if number == REVOKED_AT:
            word = Revocation(release=found.digest, by="bob", reason="a test", at=at)
            added = Added(path=revocations.path_of(word), data=revocations.write(word))
            channel.folder.add_targets({added.path: added.data})
            args = (channel.state(at), channel.people["bob"], [added])
            role, said = changes.revoke(*args, now=at, lifetimes=LIFETIMES)
            channel.publish(role, said, at)
        else:
            files = changes.publication(channel.state(at), {}, channel.online, now=at, lifetimes=LIFETIMES)
            channel.folder.publish(files)
        spoken.append(
            Spoken(at, state_of(loader(channel.folder.read, at, HighWater()), "staging", document.read))
        )
    return spoken


@pytest.fixture(scope="module")
def attested():
    claims = policyworld.claims("a", pcr08=dict(release("a").tuples[0].expect)["pcr08"].value)
    claims = replace(claims, valid_until=NOW + timedelta(days=30))
    return Attested(
        attestation="x", claims=claims, challenge=policyworld.challenge(), public_key=TeeKeyPair.make().public
    )


def released(heard: Spoken, attested: Attested, *, within: timedelta, now: datetime) -> bool:
    """What ``PolicySource.current`` and the decision come to on the state that a replica heard last."""
    try:
        check_heard(heard.state, within=within, now=now)
    except Refused:
        return False
    fresh = replace(attested, challenge=replace(attested.challenge, issued_at=now))
    return judge(WEIGHTS, fresh, heard.state, now=now).allowed


def simulate(history, attested, seed: int) -> None:
    """One replica that hears the channel with delays until it is cut off, and is asked all the time."""
    draw = random.Random(seed)
    within = timedelta(seconds=draw.randint(1, 1800))
    cut_off = NOW + timedelta(seconds=draw.randint(0, 60 * VERSIONS))
    delay = timedelta(seconds=draw.randint(0, 59))
    revoked_at = history[REVOKED_AT].at
    for _ in range(12):
        now = NOW + timedelta(seconds=draw.randint(0, 2 * 60 * VERSIONS))
        until = min(now, cut_off) - delay
        heard = [one for one in history if one.at <= until] or history[:1]
        yes = released(heard[-1], attested, within=within, now=now)
        if now > heard[-1].at + within:
            assert not yes, (seed, "nothing leaves when the channel was not heard within the bound")
        if now > revoked_at + max(within, delay):
            assert not yes, (seed, "nothing of a revoked release leaves after the bound")
        if now >= cut_off + within + delay:
            assert not yes, (seed, "who is cut off stops within the bound")
        if heard[-1].at < revoked_at and now <= heard[-1].at + within:
            assert yes, (seed, "and not earlier")


def test_a_replica_that_is_cut_off_fails_closed_within_the_bound(history, attested):
    for seed in range(300):
        simulate(history, attested, seed)


@pytest.mark.soak
def test_it_does_in_every_one_of_ten_thousand_runs(history, attested):
    for seed in range(10_000):
        simulate(history, attested, seed)


def test_the_bound_is_exact_to_the_second(history, attested):
    heard, within = history[3], timedelta(seconds=90)
    assert released(heard, attested, within=within, now=heard.at + within)
    assert not released(heard, attested, within=within, now=heard.at + within + SECOND)


def test_a_timestamp_that_does_not_say_when_it_was_signed_is_bounded_by_its_end_alone(history):
    silent = replace(history[0].state, heard_at=None)
    check_heard(silent, within=metadata.MAX_AGE, now=NOW)
    with pytest.raises(Refused) as refused:
        check_heard(silent, within=timedelta(hours=1), now=NOW)
    assert refused.value.code == "release.epoch.stale"


@pytest.mark.parametrize(
    ("said", "error"), [("soon", Malformed), (7, Malformed), ("2030-01-01T00:00:00Z", NotGenuine)]
)
def test_a_signing_time_that_is_none_or_has_not_come_is_refused(tmp_path, said, error, monkeypatch):
    channel = made(tmp_path / "staging", now=NOW)
    monkeypatch.setattr(roles, "MADE_FIELD", "x-tallystick-made-at")
    state = channel.state(NOW)
    assert state.made_at == NOW
    timestamp = state.timestamp.signed
    timestamp.unrecognized_fields[roles.MADE_FIELD] = said
    with pytest.raises(error):
        metadata._made_at(timestamp, NOW)


def test_a_running_broker_releases_nothing_when_its_channel_fell_silent(tmp_path, monkeypatch):
    world = new_world(tmp_path)
    monkeypatch.setattr(
        type(world), "config", property(lambda w: replace(_config(w), revocations_within=timedelta(hours=1)))
    )
    with world.running() as running:
        from broker.world import Machine

        cookie, _ = running.attest(Machine(), TeeKeyPair.make())
        assert running.fetch(cookie).status == 200
        world.clock.forward(hours=1, seconds=1)
        cookie, _ = running.attest(Machine(), TeeKeyPair.make())
        reply = running.fetch(cookie)
        assert (reply.status, reply.code) == (403, "release.epoch.stale")
        assert running.ask("GET", "/readyz").status == 503
        files = changes.publication(
            world.channel.state(world.clock.at),
            {},
            world.channel.online,
            now=world.clock.at,
            lifetimes=LIFETIMES,
        )
        world.channel.folder.publish(files)
        assert running.fetch(cookie).status == 200


_config = World.config.fget
