"""The file log: what was acknowledged survives everything, and what is not as it was is refused by name."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.core.errors import NotGenuine, Unreachable
from tallystick.tlog import frames, mark, merkle, store
from tallystick.tlog.log import Log
from tallystick.tlog.mark import Head

ROOT = Path(__file__).resolve().parents[2]


def filled(folder: Path, count: int = 5) -> Head:
    with Log.open(folder) as log:
        log.append_all([f"entry {number}".encode() for number in range(count)])
        return log.head()


def refused(folder: Path) -> str:
    with pytest.raises(NotGenuine) as caught:
        Log.open(folder)
    with pytest.raises(NotGenuine):
        Log.read(folder)
    return caught.value.code


def test_what_is_appended_is_there_after_opening_again(tmp_path):
    with Log.open(tmp_path / "log") as log:
        assert log.size == 0
        assert log.root() == merkle.EMPTY_ROOT
        assert log.append(b"a") == 0
        assert log.append_all([b"", b"c"]) == range(1, 3)
        assert log.append_all([]) == range(3, 3)
        head = log.head()
    with Log.open(tmp_path / "log", floor=head) as log:
        assert list(log.entries()) == [b"a", b"", b"c"]
        assert list(log.entries(1, 2)) == [b""]
        assert log.head() == log.verify() == head
        merkle.verify_inclusion(merkle.leaf_hash(b"c"), 2, 3, log.inclusion(2), head.root)
        merkle.verify_consistency(1, log.root(1), 3, head.root, log.consistency(1))


def test_files_are_for_their_owner(tmp_path):
    filled(tmp_path / "log")
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0
    assert [p.name for p in (tmp_path / "log").iterdir() if p.stat().st_mode & 0o077] == []


def test_a_torn_tail_is_cut_because_nobody_was_told(tmp_path):
    head = filled(tmp_path)
    whole = (tmp_path / "leaves").read_bytes()
    for tail in (b"\x54", b"\0" * 40, frames.frame(b"never acknowledged")[:-1], b"garbage" * 9):
        (tmp_path / "leaves").write_bytes(whole + tail)
        assert Log.read(tmp_path).head() == head
        with Log.open(tmp_path) as log:
            assert log.head() == head
        assert (tmp_path / "leaves").read_bytes() == whole


def test_a_whole_leaf_that_was_not_acknowledged_is_kept(tmp_path):
    head = filled(tmp_path)
    with (tmp_path / "leaves").open("ab") as stream:
        stream.write(frames.frame(b"written, not yet marked"))
    assert Log.read(tmp_path).head() == head
    with Log.open(tmp_path) as log:
        assert log.size == head.size + 1
        assert log.root(head.size) == head.root
    assert Log.read(tmp_path).size == head.size + 1


@pytest.mark.parametrize("cut", [1, 9, 20, 1000])
def test_a_log_shorter_than_its_mark_is_refused(tmp_path, cut):
    filled(tmp_path)
    data = (tmp_path / "leaves").read_bytes()
    (tmp_path / "leaves").write_bytes(data[:-cut] if cut < len(data) else b"")
    assert refused(tmp_path) == "log.shorter"


def test_leaves_that_are_gone_are_refused(tmp_path):
    filled(tmp_path)
    (tmp_path / "leaves").unlink()
    with pytest.raises(NotGenuine) as caught:
        Log.open(tmp_path)
    assert caught.value.code == "log.shorter"


def test_another_history_under_the_same_mark_is_refused(tmp_path):
    filled(tmp_path)
    (tmp_path / "leaves").write_bytes(b"".join(frames.frame(b"forged %d" % n) for n in range(5)))
    (tmp_path / "index").unlink()
    assert refused(tmp_path) == "log.altered"


def test_a_changed_leaf_is_refused_when_it_is_read(tmp_path):
    """Opening trusts the index, whose root the mark holds; the leaf itself is checked when it is used."""
    filled(tmp_path)
    data = bytearray((tmp_path / "leaves").read_bytes())
    data[frames.HEADER_BYTES] ^= 1
    (tmp_path / "leaves").write_bytes(data)
    log = Log.read(tmp_path)
    for use in (lambda: log.entry(0), log.verify):
        with pytest.raises(NotGenuine) as caught:
            use()
        assert caught.value.code in ("log.altered", "log.shorter")


def test_a_leaf_that_was_exchanged_with_its_checksum_is_refused_too(tmp_path):
    filled(tmp_path)
    old, new = frames.frame(b"entry 0"), frames.frame(b"forged!")
    data = (tmp_path / "leaves").read_bytes()
    (tmp_path / "leaves").write_bytes(data.replace(old, new))
    log = Log.read(tmp_path)
    for use in (lambda: log.entry(0), log.verify):
        with pytest.raises(NotGenuine) as caught:
            use()
        assert caught.value.code == "log.altered"


def test_leaves_are_on_the_disk_before_the_mark_says_so(tmp_path, monkeypatch):
    synced = []
    real = os.fdatasync

    def note(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        real(handle)

    with Log.open(tmp_path) as log:
        monkeypatch.setattr(os, "fdatasync", note)
        log.append(b"x")
    assert synced == ["leaves", "mark"]


def test_a_mark_that_is_gone_or_damaged_is_refused(tmp_path):
    filled(tmp_path / "a")
    (tmp_path / "a" / "mark").unlink()
    assert refused(tmp_path / "a") == "log.mark-missing"
    filled(tmp_path / "b")
    (tmp_path / "b" / "mark").write_bytes(b"\0" * 8192)
    assert refused(tmp_path / "b") == "log.mark-damaged"


@pytest.mark.parametrize("damage", [b"\0" * 200, None])
def test_one_damaged_slot_of_the_mark_costs_nothing_that_was_acknowledged(tmp_path, damage):
    with Log.open(tmp_path) as log:
        for number in range(3):
            log.append(b"%d" % number)
    data = bytearray((tmp_path / "mark").read_bytes())
    sequence, head = mark.read(tmp_path / "mark")
    slot = sequence % 2 * 4096
    if damage is None:  # one digit of the root, which still looks like a mark
        at = data.index(head.root.hex().encode(), slot)
        data[at] ^= 1
    else:
        data[slot : slot + 200] = damage
    (tmp_path / "mark").write_bytes(data)
    assert mark.read(tmp_path / "mark")[0] == sequence - 1
    with Log.open(tmp_path) as log:
        assert log.size == head.size == 3


def test_a_restored_backup_is_refused_by_who_remembers(tmp_path):
    filled(tmp_path / "log", 3)
    backup = {path.name: path.read_bytes() for path in (tmp_path / "log").iterdir()}
    with Log.open(tmp_path / "log") as log:
        log.append(b"since then")
        remembered = log.head()
    for name, data in backup.items():
        (tmp_path / "log" / name).write_bytes(data)
    for open_ in (Log.open, Log.read):
        with pytest.raises(NotGenuine) as caught:
            open_(tmp_path / "log", floor=remembered)
        assert caught.value.code == "log.shorter"
    with pytest.raises(NotGenuine) as caught:
        Log.read(tmp_path / "log", floor=Head(size=3, root=b"x" * 32))
    assert caught.value.code == "log.altered"


@settings(max_examples=60, deadline=None)
@given(damage=st.binary(min_size=0, max_size=300) | st.integers(0, 199))
def test_a_wrong_index_is_made_anew(tmp_path_factory, damage):
    folder = tmp_path_factory.mktemp("log")
    head = filled(folder)
    data = bytearray((folder / "index").read_bytes())
    if isinstance(damage, int):
        data[damage % len(data)] ^= 0x40
    (folder / "index").write_bytes(data if isinstance(damage, int) else damage)
    with Log.open(folder) as log:
        assert log.head() == head
        assert list(log.entries()) == [f"entry {number}".encode() for number in range(5)]
        log.append(b"more")
    assert Log.read(folder).verify().size == 6


def test_one_writer_at_a_time_and_readers_beside_it(tmp_path):
    with Log.open(tmp_path) as log:
        log.append(b"x")
        with pytest.raises(Unreachable) as caught:
            Log.open(tmp_path, wait_seconds=0.05)
        assert caught.value.code == "log.locked"
        reader = Log.read(tmp_path)
        log.append(b"y")
        assert reader.size == 1
        with pytest.raises(ValueError, match="not open for appending"):
            reader.append(b"z")
    with Log.open(tmp_path, wait_seconds=0) as log:
        assert log.size == 2
    with pytest.raises(ValueError, match="not open for appending"):
        log.append(b"closed")


def test_a_log_that_is_not_there_can_not_be_read(tmp_path):
    with pytest.raises(Unreachable) as caught:
        Log.read(tmp_path / "none")
    assert caught.value.code == "log.unreadable"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unreachable, match=r"Not a directory|File exists"):
        Log.open(tmp_path / "file")


def test_a_leaf_that_is_too_long_is_a_callers_bug(tmp_path):
    with Log.open(tmp_path) as log, pytest.raises(ValueError, match="at most"):
        log.append(b"\0" * (frames.MAX_LEAF_BYTES + 1))


def test_threads_share_an_fsync_and_each_gets_its_own_index(tmp_path, monkeypatch):
    syncs = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda handle: (syncs.append(1), time.sleep(0.002), real(handle))[2])
    got: dict[int, bytes] = {}
    with Log.open(tmp_path) as log:

        def work(name: int) -> None:
            for number in range(10):
                leaf = b"%d/%d" % (name, number)
                got[log.append(leaf)] = leaf

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == list(range(80))
        assert list(log.entries()) == [got[index] for index in range(80)]
    assert len(syncs) < 2 * 80


def test_a_full_disk_acknowledges_nothing_and_the_next_append_works(tmp_path, monkeypatch):
    head = filled(tmp_path)
    with Log.open(tmp_path) as log:
        real = os.pwrite

        def half(handle: int, data: bytes, at: int) -> int:
            if len(data) < 10:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(handle, data[: len(data) // 2], at)

        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", half)
            with pytest.raises(Unreachable) as caught:
                log.append(b"does not fit")
        assert caught.value.code == "log.unwritable"
        assert log.head() == head
        assert log.append(b"fits") == head.size
    assert Log.read(tmp_path).verify().size == head.size + 1


@pytest.mark.parametrize("failing", ["fdatasync", "mark"])
def test_after_an_uncertain_write_the_log_has_to_be_opened_again(tmp_path, monkeypatch, failing):
    head = filled(tmp_path)
    with Log.open(tmp_path) as log:
        with monkeypatch.context() as patched:
            if failing == "fdatasync":
                patched.setattr(os, "fdatasync", _fail)
            else:
                patched.setattr(mark, "advance", _fail)
            for _ in range(2):
                with pytest.raises(Unreachable) as caught:
                    log.append(b"perhaps")
                assert caught.value.code == "log.unwritable"
        with pytest.raises(Unreachable, match="has to be opened again"):
            log.append(b"after")
    with Log.open(tmp_path) as log:
        assert log.root(head.size) == head.root


def _fail(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_an_index_that_can_not_be_written_costs_nothing(tmp_path):
    head = filled(tmp_path)
    with Log.open(tmp_path) as log:
        (tmp_path / "index").unlink()
        log.append(b"without index")
        log.append(b"and again")
    with Log.open(tmp_path) as log:
        assert log.size == head.size + 2
        assert log.verify() == log.head()


WRITER = """
import sys
from pathlib import Path
from tallystick.tlog.log import Log
with Log.open(Path(sys.argv[1])) as log:
    number = log.size
    while True:
        first = log.append_all([b"%d " % (number + i) + b"x" * 700 for i in range(number % 3 + 1)])
        number = first.stop
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()
"""


def killed_again_and_again(folder: Path, times: int, seed: int) -> None:
    chance = random.Random(seed)
    acknowledged = 0
    for _ in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT / "pipeline")},
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(chance.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        said = (first + process.stdout.read()).split(b"\n")[:-1]
        process.wait()
        process.stdout.close()
        acknowledged = max(acknowledged, int(said[-1]))
        log = Log.read(folder)
        assert log.size >= acknowledged
        if chance.random() < 0.3:  # what a crash of the whole machine can add
            with (folder / "leaves").open("ab") as stream:
                stream.write(chance.randbytes(chance.randrange(40)))
    with Log.open(folder) as log:
        assert log.verify().size >= acknowledged
        assert all(leaf.startswith(b"%d " % index) for index, leaf in enumerate(log.entries()))


def test_kill_loses_nothing_that_was_acknowledged(tmp_path):
    killed_again_and_again(tmp_path / "log", times=8, seed=1)


@pytest.mark.soak
def test_kill_loses_nothing_that_was_acknowledged_500_times(tmp_path):
    killed_again_and_again(tmp_path / "log", times=500, seed=2)


def test_a_lock_is_released_when_opening_fails(tmp_path):
    filled(tmp_path)
    (tmp_path / "mark").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(NotGenuine):
            Log.open(tmp_path, wait_seconds=0)
    assert store.take_lock(tmp_path, 0) > 0
