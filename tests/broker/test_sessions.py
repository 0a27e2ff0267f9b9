"""Sessions and enrolments: bounded, short, one attempt each; and time that never runs back."""

from datetime import UTC, datetime, timedelta

import pytest

from tallystick.broker.clock import STEP, Clock
from tallystick.broker.sessions import Sessions
from tallystick.core.errors import NotGenuine, Refused

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LIFE = timedelta(minutes=5)


@pytest.fixture
def sessions():
    return Sessions(limit=3, life=LIFE)


def test_a_session_is_found_until_it_expires(sessions):
    cookie, session = sessions.open("tpm", now=NOW)
    assert sessions.find(cookie, now=NOW + LIFE - timedelta(seconds=1)) == session
    with pytest.raises(NotGenuine, match="expired") as caught:
        sessions.find(cookie, now=NOW + LIFE)
    assert caught.value.code == "session.unknown"
    assert len(sessions) == 0


@pytest.mark.parametrize("cookie", ["", "nonsense", "\udcff", "0" * 32])
def test_another_cookie_finds_nothing(sessions, cookie):
    sessions.open("tpm", now=NOW)
    with pytest.raises(NotGenuine, match="no such session"):
        sessions.find(cookie, now=NOW)


def test_cookies_and_nonces_are_never_the_same(sessions):
    opened = [Sessions(limit=1, life=LIFE).open("tpm", now=NOW) for _ in range(100)]
    assert len({cookie for cookie, _ in opened}) == 100
    assert len({session.nonce for _, session in opened}) == 100
    assert all(len(session.nonce) == 44 for _, session in opened)


def test_a_nonce_can_be_spent_once(sessions):
    cookie, _ = sessions.open("tpm", now=NOW)
    assert not sessions.spend(cookie, now=NOW).spent
    assert sessions.spend(cookie, now=NOW).spent
    assert sessions.spend(cookie, now=NOW).spent


def test_an_attested_session_is_spent(sessions, attested):
    cookie, _ = sessions.open("tpm", now=NOW)
    sessions.spend(cookie, now=NOW)
    sessions.attest(cookie, attested, now=NOW)
    assert sessions.find(cookie, now=NOW).attested is attested
    assert sessions.spend(cookie, now=NOW).spent
    assert sessions.find(cookie, now=NOW).attested is attested


def test_the_oldest_waiting_session_gives_way(sessions):
    cookies = [sessions.open("tpm", now=NOW)[0] for _ in range(4)]
    assert len(sessions) == 3
    with pytest.raises(NotGenuine, match="no such session"):
        sessions.find(cookies[0], now=NOW)
    assert sessions.find(cookies[3], now=NOW)


def test_a_flood_of_new_sessions_does_not_evict_an_attested_one(sessions, attested):
    cookie, _ = sessions.open("tpm", now=NOW)
    sessions.spend(cookie, now=NOW)
    sessions.attest(cookie, attested, now=NOW)
    for _ in range(10):
        sessions.open("tpm", now=NOW)
    assert sessions.find(cookie, now=NOW).attested is attested
    assert len(sessions) == 4


def test_a_session_that_was_evicted_meanwhile_does_not_come_back(sessions, attested):
    cookie, _ = sessions.open("tpm", now=NOW)
    sessions.spend(cookie, now=NOW)
    for _ in range(3):
        sessions.open("tpm", now=NOW)
    with pytest.raises(NotGenuine, match="no such session"):
        sessions.attest(cookie, attested, now=NOW)


def test_expired_sessions_leave_first(sessions):
    for _ in range(3):
        sessions.open("tpm", now=NOW)
    later, _ = sessions.open("tpm", now=NOW + LIFE)
    assert len(sessions) == 1
    assert sessions.find(later, now=NOW + LIFE)


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
