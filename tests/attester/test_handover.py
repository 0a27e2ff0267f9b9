"""A key in sealed memory, in a file in memory, and never on a disk."""

from __future__ import annotations

import os
import signal
import stat
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tallystick.attester import handover
from tallystick.core.errors import Misuse, Unreachable

SECRET = bytes(range(32))


@pytest.fixture
def memory():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_sealed_memory_is_read_and_never_written():
    handle = handover.sealed(SECRET)
    try:
        assert os.read(handle, 100) == SECRET
        assert not os.get_inheritable(handle)
        for change in (
            lambda: os.pwrite(handle, b"x", 0),
            lambda: os.ftruncate(handle, 1),
            lambda: os.ftruncate(handle, 100),
        ):
            with pytest.raises(PermissionError):
                change()
        with pytest.raises(PermissionError):
            os.pwrite(os.open(f"/proc/self/fd/{handle}", os.O_RDWR), b"x", 0)
    finally:
        os.close(handle)


def test_a_kernel_without_it_says_so(monkeypatch):
    def refuse(name, flags):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(Unreachable) as caught:
        handover.sealed(SECRET)
    assert caught.value.code == "handover.memfd"


def test_a_file_in_memory_is_for_its_owner_alone(memory):
    handover.write(memory / "key", SECRET)
    assert (memory / "key").read_bytes() == SECRET
    assert stat.S_IMODE((memory / "key").stat().st_mode) == 0o400
    assert [one.name for one in memory.iterdir()] == ["key"]


@pytest.mark.parametrize(
    ("name", "code"), [("key", "file.exists"), ("link", "file.exists"), ("none/key", "file.missing")]
)
def test_nothing_is_overwritten_and_no_folder_made(memory, name, code):
    (memory / "key").write_text("mine")
    (memory / "link").symlink_to("nowhere")
    with pytest.raises(Misuse) as caught:
        handover.write(memory / name, SECRET)
    assert caught.value.code == code
    assert (memory / "key").read_text() == "mine"


def _mounts(tmp_path, kind):
    device = os.stat(tmp_path).st_dev
    place = tmp_path / "mountinfo"
    line = f"36 35 {os.major(device)}:{os.minor(device)} / /x rw,noatime master:1 - {kind} none rw\n"
    place.write_text("short\n21 20 0:999 / /y rw - proc proc rw\n" + line)
    return place


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_memory_is_known_by_the_kernels_list(tmp_path, kind):
    handover.check(tmp_path / "key", _mounts(tmp_path, kind))


@pytest.mark.parametrize("kind", ["ext4", "overlay", "nfs", "tmpfsx"])
def test_a_disk_is_refused(tmp_path, kind):
    with pytest.raises(Misuse, match=f"got {kind}") as caught:
        handover.check(tmp_path / "key", _mounts(tmp_path, kind))
    assert caught.value.code == "handover.disk"


def test_a_kernel_that_does_not_say_is_no_permission(tmp_path):
    (tmp_path / "empty").write_text("")
    for place in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(Unreachable) as caught:
            handover.check(tmp_path / "key", place)
        assert caught.value.code == "handover.mounts"


def _python(script):
    return [sys.executable, "-c", "import os, sys, time\n" + script]


def test_a_command_reads_the_key_and_its_code_is_told(tmp_path):
    script = (
        f"at = int(os.environ['TALLY_KEY_FD'])\nopen({str(tmp_path / 'seen')!r}, 'wb').write(os.read(at, 99))\n"
        "sys.exit(7)"
    )
    with handover.running(_python(script), SECRET) as child:
        assert child.exit_code() == 7
    assert (tmp_path / "seen").read_bytes() == SECRET


def test_a_command_that_is_killed_has_a_shells_code():
    with handover.running(_python("os.kill(os.getpid(), 9)"), SECRET) as child:
        assert child.exit_code() == 128 + 9


def test_no_such_command():
    with pytest.raises(Misuse, match="No such file"), handover.running(["/no/such"], SECRET):
        pass


def test_when_the_block_ends_so_does_the_command(monkeypatch):
    monkeypatch.setattr(handover, "_GRACE_SECONDS", 0.5)
    stubborn = (
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(flush=True)\ntime.sleep(60)"
    )
    with handover.running(_python("time.sleep(60)"), SECRET) as child:
        assert not child.ended_within(0.05)
    assert child.exit_code() == 128 + signal.SIGTERM
    with handover.running(_python(stubborn), SECRET) as child:
        assert not child.ended_within(0.5)
    assert child.exit_code() in (128 + signal.SIGKILL, 128 + signal.SIGTERM)


def test_a_signal_reaches_the_command_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with handover.running(_python("time.sleep(60)"), SECRET) as child:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert child.exit_code() == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
