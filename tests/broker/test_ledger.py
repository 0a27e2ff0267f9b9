"""The log comes first: what is answered is on the disk, in the log and in the store, or nothing is."""

import json
import threading
from datetime import UTC, datetime, timedelta

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tallystick.broker import decisions
from tallystick.broker.clock import Clock
from tallystick.broker.decisions import Kind, entry
from tallystick.broker.leaflog import LeafLog
from tallystick.broker.ledger import Ledger, Stale, Under
from tallystick.broker.store import ChannelMark, Store
from tallystick.core import jsondoc
from tallystick.core.errors import (
    Malformed,
    NotGenuine,
    Refused,
    TallystickError,
    Unreachable,
    Unsupported,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LIFE = timedelta(minutes=10)


@pytest.fixture
def home(tmp_path):
    Store.create(tmp_path / "store.sqlite")
    return tmp_path


@pytest.fixture
def store(home):
    found = Store.open(home / "store.sqlite")
    yield found
    found.close()


@pytest.fixture
def clock():
    return Clock(NOW, read=lambda: NOW)


@pytest.fixture
def ledger(store, clock):
    found = Ledger(store, clock, nonce_life=LIFE)
    yield found
    found.close()


def some(kind=Kind.RELEASE, now=NOW, **public):
    return entry(kind, now=now, public={"key": "a/b/c", **public}, details={"findings": []})


def test_an_entry_is_in_the_log_with_its_record(ledger, store):
    made = some()
    ledger.submit([made], now=NOW).result()
    kept = store.decision(made.decision)
    assert (kept.record, kept.leaf, kept.position) == (made.record, made.leaf, 0)
    assert LeafLog(store).leaf(kept) == made.leaf
    decisions.check_opens(decisions.parse_leaf(made.leaf), kept.record)
    assert (store.head().size, store.time_mark()) == (1, NOW)


def test_a_nonce_is_used_once_and_the_second_leaves_no_leaf(ledger, store):
    ledger.submit([some()], now=NOW, nonce=b"n").result()
    second = ledger.submit([some()], now=NOW, nonce=b"n")
    with pytest.raises(NotGenuine, match="used before") as caught:
        second.result()
    assert caught.value.code == "nonce.used"
    assert store.head().size == 1


def test_a_nonce_is_used_once_within_one_batch(store, clock):
    gate = threading.Event()
    ledger = Ledger(store, clock, nonce_life=LIFE)
    held = ledger.submit([], now=NOW, also=lambda batch: gate.wait())
    futures = [ledger.submit([some()], now=NOW, nonce=b"n") for _ in range(5)]
    gate.set()
    held.result()
    assert sorted(future.exception() is None for future in futures) == [False] * 4 + [True]
    ledger.close()


def test_a_nonce_stays_used_when_the_broker_starts_again(store, clock):
    for expected in (None, "nonce.used"):
        ledger = Ledger(store, clock, nonce_life=LIFE)
        future = ledger.submit([some()], now=NOW, nonce=b"n")
        ledger.close()
        error = future.exception()
        assert (error.code if isinstance(error, TallystickError) else None) == expected


def test_nonces_are_forgotten_only_after_their_sessions(ledger):
    ledger.submit([], now=NOW, nonce=b"n").result()
    ledger.submit([], now=NOW + LIFE).result()
    assert ledger.submit([], now=NOW + LIFE, nonce=b"n").exception() is not None
    ledger.submit([], now=NOW + 2 * LIFE).result()
    ledger.submit([], now=NOW + 2 * LIFE, nonce=b"n").result()


def test_many_threads_and_two_writers_share_few_commits_and_lose_nothing(ledger, store, clock):
    other = Ledger(store, clock, nonce_life=LIFE)
    made = [some() for _ in range(300)]

    def write(part, to):
        for one in part:
            to.submit([one], now=NOW).result()

    threads = [
        threading.Thread(target=write, args=(made[at::10], ledger if at % 2 else other)) for at in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    log = LeafLog(store)
    assert log.size == 300
    assert {kept.leaf for kept in log.decisions()} == {one.leaf for one in made}


def test_two_writers_never_take_one_nonce_twice(ledger, store, clock):
    other = Ledger(store, clock, nonce_life=LIFE)
    futures = [
        to.submit([some()], now=NOW, nonce=b"%d" % number) for number in range(50) for to in (ledger, other)
    ]
    taken = [future.exception() is None for future in futures]
    other.close()
    assert [sum(taken[at : at + 2]) for at in range(0, 100, 2)] == [1] * 50


def test_what_was_decided_under_other_policies_is_not_logged(ledger, store):
    def seen(epoch):
        return lambda batch: batch.see_channel("staging", ChannelMark(epoch=epoch, high_water=b"{}"))

    first, second = (Under(channel="staging", epoch=epoch) for epoch in (b"1", b"2"))
    none = Under(channel="staging", epoch=None)
    ledger.submit([], now=NOW, under=none, also=seen(b"1")).result()
    ledger.submit([some()], now=NOW, under=first).result()
    ledger.submit([], now=NOW, under=first, also=seen(b"2")).result()
    for stale in (first, none):
        with pytest.raises(Stale, match="other policies of channel staging"):
            ledger.submit([some()], now=NOW, under=stale).result()
    ledger.submit([some()], now=NOW, under=second).result()
    assert store.head().size == 2


def test_the_time_of_another_process_is_seen(ledger, store, clock):
    later = NOW + timedelta(minutes=1)
    with store.batch() as batch:
        batch.acted_at(later)
    assert clock.now() == NOW
    ledger.submit([some()], now=NOW).result()
    with pytest.raises(Refused, match="the clock says") as caught:
        clock.now()
    assert caught.value.code == "clock.behind"
    assert store.time_mark() == later


@pytest.mark.parametrize("step", ["append", "end", "use", "acted_at"])
def test_when_the_store_can_not_commit_nothing_is_answered_and_nothing_kept(ledger, store, monkeypatch, step):
    def full(self, *args, **kwargs):
        raise Unreachable("broker store: disk full", code="store.unreachable")

    made = some()
    with monkeypatch.context() as patch:
        patch.setattr(f"tallystick.broker.store.Batch.{step}", full)
        with pytest.raises(Unreachable, match="disk full"):
            ledger.submit([made], now=NOW, nonce=b"n").result()
    with pytest.raises(Refused, match="has no decision"):
        store.decision(made.decision)
    ledger.submit([some()], now=NOW, nonce=b"n").result()
    assert store.head().size == 1


def test_an_error_that_nobody_foresaw_fails_the_batch_by_name(ledger, monkeypatch):
    def broken(self, *args):
        raise RuntimeError("secret")

    with monkeypatch.context() as patch:
        patch.setattr("tallystick.broker.store.Batch.append", broken)
        with pytest.raises(Unreachable, match=r"could not be written \(RuntimeError\)") as caught:
            ledger.submit([some()], now=NOW).result()
    assert caught.value.code == "log.unwritable"


def test_a_closed_ledger_takes_nothing(store, clock):
    ledger = Ledger(store, clock, nonce_life=LIFE)
    ledger.close()
    ledger.close()
    with pytest.raises(Unreachable, match="shutting down"):
        ledger.submit([some()], now=NOW)


def test_a_record_that_was_altered_does_not_open_its_leaf():
    made = some()
    leaf = decisions.parse_leaf(made.leaf)
    with pytest.raises(NotGenuine, match="was altered") as caught:
        decisions.check_opens(leaf, made.record.replace(b"a/b/c", b"a/b/d"))
    assert caught.value.code == "decision.altered"


def test_a_commitment_can_not_be_tested_by_guessing():
    first, second = (entry(Kind.KEY, now=NOW, public={}, details={}, decision="d") for _ in range(2))
    assert decisions.parse_leaf(first.leaf)["commitment"] != decisions.parse_leaf(second.leaf)["commitment"]


SIMPLE = st.recursive(
    st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(min_codepoint=32, max_codepoint=126)), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters(min_codepoint=32, max_codepoint=126)), SIMPLE, max_size=5))
def test_our_canonical_json_is_rfc_8785(value):
    assert jsondoc.canonical(value) == rfc8785.dumps(value)


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_any_leaf_is_refused_by_name(data):
    with pytest.raises((Malformed, Unsupported)):
        decisions.parse_leaf(data)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: json.dumps(d).encode(), "want canonical JSON"),
        (lambda d: jsondoc.canonical({**d, "kind": 1}), "kind: want a string"),
        (lambda d: b"[]", "want an object"),
    ],
)
def test_nearly_right_leaves_are_malformed(change, error):
    with pytest.raises(Malformed, match=error):
        decisions.parse_leaf(change(decisions.parse_leaf(some().leaf)))
