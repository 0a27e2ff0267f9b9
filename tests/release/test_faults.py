"""A disk that fills up at any write, and a clock that was set back: the state before or after is whole, by name."""

from __future__ import annotations

import errno
import os
import random
import threading
from contextlib import contextmanager, suppress
from datetime import timedelta

import pytest
from release import children
from release import world as worlds
from release.test_promotion import load, promoted

from tallystick.cli import clock
from tallystick.cli.app import _run
from tallystick.core.errors import Misuse, Unreachable
from tallystick.release import approve, index, revoke

WRITES = ("fsync", "pwrite", "fdatasync")  # one of these ends every durable write


@contextmanager
def filling(monkeypatch, after):
    """A disk that has room for ``after`` more writes; gives the list of those that were tried."""
    tried = []

    def full(real):
        def write(*arguments):
            tried.append(arguments)
            if len(tried) > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments)

        return write

    with monkeypatch.context() as patched:
        for name in WRITES:
            patched.setattr(os, name, full(getattr(os, name)))
        yield tried


def promote_and_revoke(w, folder):
    children.promote_and_revoke(w.workdir, folder, w.trust, threading.Event())


def fills(world, monkeypatch, after):
    """Promote, approve and revoke until the disk is full; then, with room again, go on from there."""
    w, folder = world
    with filling(monkeypatch, after), pytest.raises(Unreachable) as caught:
        promote_and_revoke(w, folder)
    assert caught.value.code in ("file.unwritable", "log.unwritable")
    state = load(w)
    assert len(state.releases) <= 1
    if not state.releases and not state.state.revoked:
        with suppress(Misuse):
            approve.withdraw(w.desk(), w.signatories["alice"])
        state = promoted(w, folder)
    if state.releases:
        digest = index.read(folder).digest
        revoke.revoke(w.desk(), digest, w.signatories["carol"], w.online, "bad")
    state = load(w)
    assert (state.releases, len(state.state.revoked)) == ((), 1)


@pytest.fixture(scope="module")
def writes(base, tmp_path_factory):
    """How many durable writes the whole story takes."""
    import shutil

    made, folder = base
    place = tmp_path_factory.mktemp("counted")
    shutil.copytree(folder, place, dirs_exist_ok=True)
    w = worlds.World(place / "work", made.trust, made.signatories, made.online)
    with pytest.MonkeyPatch.context() as patch, filling(patch, 1 << 30) as tried:
        promote_and_revoke(w, place / "release")
    return len(tried)


@pytest.mark.parametrize("seed", range(6))
def test_a_disk_that_is_full_at_any_write_leaves_a_whole_state(world, writes, monkeypatch, seed):
    fills(world, monkeypatch, random.Random(seed).randrange(writes))


@pytest.mark.soak
def test_a_disk_that_is_full_at_each_write_leaves_a_whole_state(base, writes, monkeypatch, tmp_path):
    import shutil

    made, folder = base
    for after in range(writes):
        place = tmp_path / str(after)
        shutil.copytree(folder, place)
        w = worlds.World(place / "work", made.trust, made.signatories, made.online)
        fills((w, place / "release"), monkeypatch, after)
        shutil.rmtree(place)


def test_a_full_disk_signs_nothing_and_the_next_signature_holds(world, monkeypatch):
    w, folder = world
    payload = (folder / "statements/provenance.json").read_bytes()
    for after in range(6):
        with filling(monkeypatch, after) as tried, suppress(Unreachable):
            w.sign("ci-builder", [payload])
        assert tried
        assert w.sign("ci-builder", [payload])


@pytest.fixture
def back(world, monkeypatch, capsys):
    """The commands of a work directory whose clock was set back by a day since the channel was last looked at."""
    w, folder = world
    from tallystick.signing import trust as trust_file

    trust_file.save(w.workdir / "trust.json", w.trust)
    (w.workdir / "channels/staging/online.key").write_bytes((w.workdir / "keys/online.key").read_bytes())
    (w.workdir / "channels/staging/online.key").chmod(0o600)
    monkeypatch.setenv("TALLY_HOME", str(w.workdir))
    assert _run(["channel", "show", "staging"]) == 0
    then = worlds.now() - timedelta(days=1)
    monkeypatch.setattr(clock, "now", lambda: then)
    capsys.readouterr()
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "promote {} --channel staging --as alice",
        "approve --channel staging --as bob",
        "revoke {} --channel staging --as bob --reason x --yes",
        "channel refresh staging",
        "channel show staging",
        "channel withdraw staging --as bob",
        "channel rules staging --as bob --slsa-build-level 2",
    ],
)
def test_a_clock_that_was_set_back_is_refused_by_the_mark(back, command, capsys):
    assert _run(command.format(back).split()) == 6
    assert "release.channel.clock" in capsys.readouterr().err


def test_the_embedded_sigstore_certifies_nothing_when_its_clock_was_set_back(back, capsys):
    assert _run(["sign", str(back), "--as", "ci-builder", "--replace"]) == 6
    assert "clock" in capsys.readouterr().err
