"""``tally resident``: its answers are what the command says alone; where it does not answer, the command is alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from signing.boxes import BUILDER, SUBJECT, Box

from tallystick.cli import resident_socket

ROOT = Path(__file__).resolve().parents[2]


def tally(folder, *arguments, resident=None, **more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "pipeline"), **more}
    if resident is not None:
        environment["TALLY_RESIDENT"] = str(resident)
    command = [sys.executable, "-m", "tallystick.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a bundle, and a resident that listens in it."""
    folder = tmp_path_factory.mktemp("resident")
    box = Box.make(folder / "box")
    (folder / "b.json").write_bytes(box.sign())
    (folder / "root.json").write_bytes(box.root)
    path = folder / "socket"
    process = subprocess.Popen(
        [sys.executable, "-m", "tallystick.cli", "resident", str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "pipeline")},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == f"ready: export TALLY_RESIDENT={path}\n"
    yield folder
    process.terminate()
    assert process.wait(10) == 0
    process.stderr.close()
    assert not path.exists()


BUNDLE = ("verify", "b.json", "--artifact", f"sha256:{SUBJECT.hex}", "--trusted-root", "root.json")
WHO = ("--identity", BUILDER.san, "--issuer", BUILDER.issuer)


@pytest.mark.parametrize(
    "arguments",
    [
        (*BUNDLE, *WHO),
        (*BUNDLE, *WHO, "--json"),
        (*BUNDLE, "--identity", "mallory@example.org", "--issuer", BUILDER.issuer, "--json"),
        (*BUNDLE,),
        ("verify", "no.json", "--artifact", "x"),
        ("verify", ".", "--trust", "none.json"),
        ("verify", "--help"),
        ("verify", "--no-such-option"),
        ("verify",),
    ],
)
def test_the_resident_says_what_the_command_says_alone(place, arguments):
    assert tally(place, *arguments, resident=place / "socket") == tally(place, *arguments)


def test_whoever_answers_is_believed_so_it_has_to_be_the_same_user(place, tmp_path):
    listener = Listener(tmp_path / "s", b"\x07")
    with listener as path:
        assert tally(place, *BUNDLE, *WHO, resident=path) == (7, "", "")
    assert json.loads(listener.heard)["arguments"] == [*BUNDLE, *WHO]


class Listener:
    """Something that listens where a resident should, and answers ``said``."""

    def __init__(self, path, said):
        self.path, self.said, self.heard = path, said, b""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self):
        self.socket.bind(str(self.path))
        self.socket.listen()
        self.thread = threading.Thread(target=self.answer)
        self.thread.start()
        return self.path

    def answer(self):
        connection, _ = self.socket.accept()
        with connection:
            header, files, _, _ = socket.recv_fds(connection, 4, 3)
            for file in files:
                os.close(file)
            while len(self.heard) < int.from_bytes(header):
                self.heard += connection.recv(1 << 16)
            connection.sendall(self.said)

    def __exit__(self, *_):
        self.thread.join(10)
        self.socket.close()


@pytest.mark.parametrize("said", [b"", bytes([resident_socket.NOT_DONE])])
def test_who_is_not_served_works_alone(place, tmp_path, said):
    with Listener(tmp_path / "s", said) as path:
        assert tally(place, *BUNDLE, *WHO, resident=path) == tally(place, *BUNDLE, *WHO)


def test_where_nobody_listens_the_command_works_alone(place, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file", "x" * 300, tmp_path):
        assert tally(place, *BUNDLE, *WHO, resident=path)[0] == 0


def test_another_users_socket_is_not_asked(place, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert resident_socket.ask(str(place / "socket"), ["verify", "--help"]) is None


@pytest.mark.parametrize(("name", "value"), [("_version", lambda: "0.0"), ("_PACKAGE", "/elsewhere")])
def test_another_version_is_not_served(place, monkeypatch, name, value):
    monkeypatch.setattr(resident_socket, name, value)
    assert resident_socket.ask(str(place / "socket"), ["verify", "--help"]) is None


def test_no_other_command_is_run_there(place):
    for arguments in (["keys", "show"], [], ["resident", "x"]):
        assert resident_socket.ask(str(place / "socket"), arguments) is None


def test_garbage_does_not_end_it(place):
    for data in (b"", b"\0\0\0\5hello", b"\xff\xff\xff\xff", b"\0\0\0\2{}", os.urandom(3000)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(str(place / "socket"))
            connection.send(data) if data else None
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) in (bytes([resident_socket.NOT_DONE]), b"")
    assert tally(place, *BUNDLE, *WHO, resident=place / "socket")[0] == 0


def test_only_its_user_may_open_the_socket(place):
    assert (place / "socket").stat().st_mode & 0o077 == 0


def test_a_path_that_can_not_be_listened_at_is_told(tmp_path):
    (tmp_path / "there").write_text("")
    code, _, said = tally(tmp_path, "resident", tmp_path / "there")
    assert (code, "[resident.socket]" in said) == (7, True)


def test_what_a_killed_resident_left_is_in_nobodys_way(place, tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
    resident_socket._forget(str(path))
    assert not path.exists()
    (tmp_path / "file").write_text("mine")
    for kept in (place / "socket", tmp_path / "file"):
        resident_socket._forget(str(kept))
        assert kept.exists()
    code, _, said = tally(tmp_path, "resident", place / "socket")
    assert (code, "in use" in said) == (7, True)


def test_a_slow_caller_holds_nobody_up(place):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waiting:
        waiting.connect(str(place / "socket"))
        start = time.monotonic()
        assert tally(place, *BUNDLE, *WHO, resident=place / "socket")[0] == 0
        assert time.monotonic() - start < 30
