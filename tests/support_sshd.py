"""A builder that is reached by SSH: an sshd of our own on the loopback, with throwaway keys, that runs Nix alone."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tallystick.build.nix import Nix, Store, environment


@dataclass(frozen=True)
class Builder:
    store: Store  # what it builds in
    query: str  # for the store's URL: the key, and where the store lies
    options: str  # for NIX_SSHOPTS
    log: Path  # what it was told to run, one line each

    def url(self, scheme: str) -> str:
        return f"{scheme}://root@127.0.0.1?{self.query}"


def program() -> str:
    """Return the path of sshd; skip where there is none, but not in CI."""
    found = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        message = "no sshd (Debian: openssh-server)"
        pytest.skip(message)
    return found


@contextmanager
def serving(folder: Path, machine: Nix) -> Iterator[Builder]:
    """Serve a builder whose empty store lies in ``folder``, with the configuration of ``machine``."""
    sshd = program()
    if os.geteuid() != 0:
        pytest.skip("sshd lets only root in as root")
    folder.mkdir(mode=0o700, parents=True)
    store = Store(root=folder / "store", work=folder / "work")
    for place in (store.root, store.work):
        place.mkdir(mode=0o755)
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    settings = "".join(f"export {name}='{value}'\n" for name, value in environment(machine, store).items())
    run = folder / "run"
    run.write_text(
        f'#!/bin/sh\n{settings}echo "$SSH_ORIGINAL_COMMAND" >> {folder}/log\neval "exec $SSH_ORIGINAL_COMMAND"\n'
    )
    run.chmod(0o700)
    (folder / "allowed").write_text(f'restrict,command="{run}" {(folder / "client.pub").read_text()}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/allowed\n"
        "PidFile none\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nUsePAM no\nStrictModes no\n"
    )
    known = (folder / "host.pub").read_text().rsplit(" ", 1)[0]
    (folder / "known").write_text(f"[127.0.0.1]:{port} {known}\n")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd parts with its privileges
    server = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "config"], stderr=subprocess.DEVNULL)
    try:
        _wait(port, server)
        yield Builder(
            store=store,
            query=f"ssh-key={folder}/client&remote-store=local?root={store.root}",
            options=f"-p {port} -o UserKnownHostsFile={folder}/known -o StrictHostKeyChecking=yes",
            log=folder / "log",
        )
    finally:
        server.terminate()
        server.wait(10)


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        assert server.poll() is None, "sshd ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("sshd does not answer")
