"""Sessions: in their cookies, short, one attempt each, attested by the broker's key alone; and time never runs back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from tallystick.broker import recorded, tables
from tallystick.broker.clock import STEP, Clock
from tallystick.broker.decisions import Kind, entry
from tallystick.broker.sessions import KEY_BYTES, Sessions
from tallystick.broker.store import Store
from tallystick.core.errors import NotGenuine, Refused

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LIFE = timedelta(minutes=5)


KEY = b"k" * KEY_BYTES


@pytest.fixture
def store(tmp_path):
    Store.create(tmp_path / "store.sqlite")
    found = Store.open(tmp_path / "store.sqlite")
    yield found
    found.close()


def sessions_of(store, key=KEY, limit=3):
    return Sessions(key, store, limit=limit, life=LIFE)


@pytest.fixture
def sessions(store):
    return sessions_of(store)


def record(attested):
    details = {
        "claims": recorded.claims_document(attested.claims),
        "challenge": recorded.challenge_document(attested.challenge),
        "public_key": attested.public_key.document(),
    }
    return entry(Kind.ATTESTATION, now=NOW, public={}, details=details, decision=attested.attestation)


def attest(sessions, store, session, attested):
    made = record(attested)
    with store.batch() as batch:
        batch.append([(made.decision, made.leaf, made.record)])
        sessions.keep(batch, session, attested, made.record)


def test_a_session_is_found_until_it_expires_by_whoever_has_the_key(sessions, store):
    cookie, session = sessions.open("tpm", now=NOW)
    assert (session.tee, session.issued_at, session.expires_at) == ("tpm", NOW, NOW + LIFE)
    for one in (sessions, sessions_of(store)):
        assert one.find(cookie, now=NOW + LIFE - timedelta(seconds=1)) == session
        with pytest.raises(NotGenuine, match="expired") as caught:
            one.find(cookie, now=NOW + LIFE)
        assert caught.value.code == "session.unknown"


@given(st.text() | st.text("abcdefgh-_=", max_size=200) | st.sampled_from(["\udcff", "0" * 32, "A" * 5000]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_another_cookie_finds_nothing(sessions, cookie):
    with pytest.raises(NotGenuine, match="no such session"):
        sessions.find(cookie, now=NOW)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cookie_with_another_character_is_another_cookie(sessions, data):
    cookie, _ = sessions.open("tpm", now=NOW)
    at = data.draw(st.integers(0, len(cookie) - 1))
    other = data.draw(st.sampled_from("AbZ09-_=+/"))
    changed = cookie[:at] + other + cookie[at + 1 :]
    if changed != cookie:
        with pytest.raises(NotGenuine, match="no such session"):
            sessions.find(changed, now=NOW)


def test_a_cookie_of_another_key_is_none(sessions, store):
    cookie, _ = sessions_of(store, key=b"o" * KEY_BYTES).open("tpm", now=NOW)
    with pytest.raises(NotGenuine, match="no such session"):
        sessions.find(cookie, now=NOW)


def test_cookies_and_nonces_are_never_the_same(sessions):
    opened = [sessions.open("tpm", now=NOW) for _ in range(100)]
    assert len({cookie for cookie, _ in opened}) == 100
    assert len({session.nonce for _, session in opened}) == 100
    assert all(len(session.nonce) == 44 for _, session in opened)


def test_a_second_attempt_is_seen_before_any_work(sessions):
    _, session = sessions.open("tpm", now=NOW)
    assert [sessions.spend(session) for _ in range(3)] == [True, False, False]


def test_what_a_session_proved_is_known_to_all_that_share_the_store(sessions, store, attested):
    _, session = sessions.open("tpm", now=NOW)
    assert sessions.attested(session) is None
    attest(sessions, store, session, attested)
    other = sessions_of(store)
    assert other.at_hand(session) is None
    assert other.attested(session) == attested
    assert other.at_hand(session) == attested


def test_who_only_writes_to_the_store_attests_nobody(sessions, store, attested):
    """A row of another key, of another session, or for a record that was altered is not ours."""
    (_, mine), (_, other) = (sessions.open("tpm", now=NOW) for _ in range(2))
    forged = sessions_of(store, key=b"o" * KEY_BYTES)
    attest(forged, store, mine, attested)
    with pytest.raises(NotGenuine) as caught:
        sessions.attested(mine)
    assert caught.value.code == "session.altered"
    honest = replace(attested, attestation="e")
    attest(sessions, store, other, honest)
    with store.batch() as batch:
        altered = record(replace(honest, claims=replace(honest.claims, roots=("hardware",)))).record
        table = tables.decisions
        batch.connection.execute(update(table).where(table.c.id == "e").values(record=altered))
    with pytest.raises(NotGenuine, match="not ours"):
        sessions.attested(other)
    _, third = sessions.open("tpm", now=NOW)
    with store.batch() as batch:
        table = tables.sessions
        batch.connection.execute(update(table).where(table.c.attestation == "e").values(name=third.name))
    with pytest.raises(NotGenuine, match="not ours"):
        sessions.attested(third)


def test_what_a_process_remembers_is_bounded(sessions, attested):
    opened = [sessions.open("tpm", now=NOW)[1] for _ in range(10)]
    for session in opened:
        sessions.spend(session)
        sessions.remember(session, attested)
    assert len(sessions) == len(sessions._spent) == 3
    assert [sessions.at_hand(session) is attested for session in opened] == [False] * 7 + [True] * 3


def test_time_never_runs_back():
    times = [NOW, NOW + timedelta(seconds=9), NOW + timedelta(seconds=8), NOW]
    clock = Clock(NOW, read=iter(times).__next__)
    assert clock.now() == NOW
    assert clock.now() == NOW + timedelta(seconds=9)
    assert clock.now() == NOW + timedelta(seconds=9), "a small step back stands still"
    with pytest.raises(Refused, match="has been at") as caught:
        clock.now()
    assert caught.value.code == "clock.behind"


def test_the_clock_is_held_against_what_was_remembered():
    assert Clock(NOW, read=lambda: NOW - STEP).now() == NOW
    with pytest.raises(Refused, match="until it has caught up"):
        Clock(NOW, read=lambda: NOW - STEP - timedelta(seconds=1)).now()
