"""The log comes first: what is answered is on the disk, in the log and in the store, or nothing is."""

import json
import threading
from datetime import UTC, datetime, timedelta

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tallystick.broker import decisions
from tallystick.broker.decisions import Kind, entry
from tallystick.broker.ledger import Ledger
from tallystick.broker.store import LOG_MARK, TIME_MARK, Store
from tallystick.core.errors import (
    Malformed,
    Misuse,
    NotGenuine,
    Refused,
    TallystickError,
    Unreachable,
    Unsupported,
)
from tallystick.tlog import store as tlog_store
from tallystick.tlog.log import Log

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
def ledger(home, store):
    found = Ledger.open(home / "log", store, nonce_life=LIFE)
    yield found
    found.close()


def some(kind=Kind.RELEASE, now=NOW, **public):
    return entry(kind, now=now, public={"key": "a/b/c", **public}, details={"findings": []})


def test_an_entry_is_in_the_log_and_its_record_in_the_store(ledger, store, home):
    made = some()
    ledger.submit([made], now=NOW).result()
    kept = store.decision(made.decision)
    assert kept.record == made.record
    assert Log.read(home / "log").entry(kept.leaf) == made.leaf
    decisions.check_opens(decisions.parse_leaf(made.leaf), kept.record)
    assert (store.mark(LOG_MARK), store.mark(TIME_MARK)) == (1, int(NOW.timestamp()))
    assert store.log_root() == (1, Log.read(home / "log").root())


def test_a_nonce_is_used_once_and_the_second_leaves_no_leaf(ledger, home):
    ledger.submit([some()], now=NOW, nonce=b"n").result()
    second = ledger.submit([some()], now=NOW, nonce=b"n")
    with pytest.raises(NotGenuine, match="used before") as caught:
        second.result()
    assert caught.value.code == "nonce.used"
    assert Log.read(home / "log").size == 1


def test_a_nonce_stays_used_when_the_broker_starts_again(home, store):
    for expected in (None, "nonce.used"):
        ledger = Ledger.open(home / "log", store, nonce_life=LIFE)
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


def test_many_threads_share_few_commits_and_lose_nothing(ledger, store, home):
    made = [some() for _ in range(200)]
    threads = [
        threading.Thread(
            target=lambda part: [ledger.submit([e], now=NOW).result() for e in part], args=(part,)
        )
        for part in (made[at::10] for at in range(10))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = Log.read(home / "log")
    assert log.size == 200
    assert {log.entry(store.decision(e.decision).leaf) for e in made} == {e.leaf for e in made}


def test_when_the_log_can_not_be_written_nothing_is_answered_and_nothing_kept(ledger, store, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    made = some()
    with monkeypatch.context() as patch:
        patch.setattr(tlog_store, "append", full)
        with pytest.raises(Unreachable):
            ledger.submit([made], now=NOW, nonce=b"n").result()
    with pytest.raises(Refused, match="has no decision"):
        store.decision(made.decision)
    ledger.submit([some()], now=NOW, nonce=b"n").result()


def test_after_a_write_that_may_or_may_not_be_there_the_log_is_read_again(ledger, store, home, monkeypatch):
    """A failed fsync says nothing about the disk: what is there counts, and the next answer comes after it."""
    original = tlog_store.append

    def uncertain(*args, **kwargs):
        original(*args, **kwargs)
        raise tlog_store.Uncertain(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(tlog_store, "append", uncertain)
        with pytest.raises(Unreachable):
            ledger.submit([some()], now=NOW).result()
    made = some()
    ledger.submit([made], now=NOW).result()
    kept = store.decision(made.decision)
    assert Log.read(home / "log").entry(kept.leaf) == made.leaf


def test_when_the_store_can_not_commit_nothing_is_answered(ledger, store, monkeypatch):
    def full(self, *args):
        raise Unreachable("broker store: disk full", code="store.unreachable")

    with monkeypatch.context() as patch:
        patch.setattr("tallystick.broker.store.Batch.keep", full)
        with pytest.raises(Unreachable, match="disk full"):
            ledger.submit([some()], now=NOW).result()
    made = some()
    ledger.submit([made], now=NOW).result()
    assert store.decision(made.decision).leaf == 1, "the leaf without a record stays in the log"


def test_a_log_that_was_cut_back_is_refused(home, store):
    ledger = Ledger.open(home / "log", store, nonce_life=LIFE)
    for _ in range(3):
        ledger.submit([some()], now=NOW).result()
    ledger.close()
    for path in (home / "log").iterdir():
        path.unlink()
    Log.open(home / "log").close()
    with pytest.raises(NotGenuine) as caught:
        Ledger.open(home / "log", store, nonce_life=LIFE)
    assert caught.value.code == "log.shorter"


def test_a_log_that_was_rewritten_is_refused(home, store):
    ledger = Ledger.open(home / "log", store, nonce_life=LIFE)
    ledger.submit([some()], now=NOW).result()
    ledger.close()
    for path in (home / "log").iterdir():
        path.unlink()
    with Log.open(home / "log") as log:
        log.append(b"{}")
        log.append(b"{}")
    with pytest.raises(NotGenuine) as caught:
        Ledger.open(home / "log", store, nonce_life=LIFE)
    assert caught.value.code == "log.altered"


def test_one_process_writes_at_a_time(ledger, home, store):
    with pytest.raises(Unreachable) as caught:
        Ledger.open(home / "log", store, nonce_life=LIFE, wait_seconds=0.05)
    assert caught.value.code == "log.locked"


def test_a_closed_ledger_takes_nothing(home, store):
    ledger = Ledger.open(home / "log", store, nonce_life=LIFE)
    ledger.close()
    ledger.close()
    with pytest.raises(Unreachable, match="shutting down"):
        ledger.submit([some()], now=NOW)


def test_marks_only_rise(store):
    with store.batch() as batch:
        batch.raise_mark("x", 5)
        batch.raise_mark("x", 3)
    assert store.mark("x") == 5
    assert store.mark("y") == 0


def test_a_batch_that_raises_leaves_nothing(store):
    def fail():
        with store.batch() as batch:
            batch.raise_mark("x", 5)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert store.mark("x") == 0


def test_a_store_is_made_once_and_must_be_ours(home, tmp_path):
    path = home / "store.sqlite"
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(Misuse, match="exists already"):
        Store.create(path)
    with pytest.raises(Misuse, match="run `tally broker init`"):
        Store.open(tmp_path / "none")
    other = tmp_path / "other"
    other.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(Malformed, match="want a SQLite database"):
        Store.open(other)
    import sqlite3

    db = sqlite3.connect(tmp_path / "newer")
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(Unsupported, match="want version 1, got 2"):
        Store.open(tmp_path / "newer")


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
    assert decisions.canonical(value) == rfc8785.dumps(value)


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_any_leaf_is_refused_by_name(data):
    with pytest.raises((Malformed, Unsupported)):
        decisions.parse_leaf(data)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: json.dumps(d).encode(), "want canonical JSON"),
        (lambda d: decisions.canonical({**d, "kind": 1}), "kind: want a string"),
        (lambda d: b"[]", "want an object"),
    ],
)
def test_nearly_right_leaves_are_malformed(change, error):
    with pytest.raises(Malformed, match=error):
        decisions.parse_leaf(change(decisions.parse_leaf(some().leaf)))
