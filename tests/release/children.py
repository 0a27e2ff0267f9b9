"""What other processes do in tests: a module of its own, so that a spawned process can import it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from release import world as worlds

from tallystick.core.errors import Refused
from tallystick.release import approve, index, keys, promote, revoke
from tallystick.signing.records import Trust


def _world(workdir: Path, trust: Trust) -> worlds.World:
    return worlds.World(
        workdir=workdir,
        trust=trust,
        signatories={name: keys.load(workdir / "people" / name, name) for name in worlds.SANS},
        online=keys.load(workdir / "keys", "online", file="online.key"),
    )


def _approve(w: worlds.World, name: str) -> None:
    approve.approve(w.desk(), w.signatories[name], lambda: w.online, lambda name, files, channel: files)


def promote_and_revoke(workdir: Path, folder: Path, trust: Trust, ready: Any) -> None:
    """Promote the release in ``folder``, approve it twice, and revoke it."""
    w = _world(workdir, trust)
    ready.set()
    promote.propose_release(w.desk(), folder, w.signatories["alice"], w.sign_one("alice"))
    _approve(w, "bob")
    _approve(w, "carol")
    revoke.revoke(w.desk(), index.read(folder).digest, w.signatories["bob"], w.online, "bad")


def approve_when_told(workdir: Path, trust: Trust, name: str, go: Any) -> None:
    """Approve what waits as soon as ``go`` is set."""
    w = _world(workdir, trust)
    go.wait(30)
    _approve(w, name)


def promote_when_told(workdir: Path, folder: Path, trust: Trust, name: str, go: Any) -> None:
    """Propose the release in ``folder`` as soon as ``go`` is set; another's proposal may be first."""
    w = _world(workdir, trust)
    go.wait(30)
    with suppress(Refused):
        promote.propose_release(w.desk(), folder, w.signatories[name], w.sign_one(name))
