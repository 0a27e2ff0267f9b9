"""A real PostgreSQL for tests: a fresh cluster in a folder of its own, on a Unix socket, never as root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

FOLDERS = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/usr/local/pgsql/bin"))
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "log_min_messages": "fatal",
}


def _binaries() -> Path:
    for folder in FOLDERS:
        if (folder / "initdb").exists():
            return folder
    pytest.skip("PostgreSQL is not installed (Debian: postgresql)")


def _owner() -> dict[str, object]:
    """Return the options of subprocess that give up root, which initdb and postgres refuse."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    return pytest.fail("neither postgres nor nobody is a user here")


@dataclass
class Server:
    """A cluster that may be stopped and started again."""

    binaries: Path
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = [item for name, value in SETTINGS.items() for item in ("-c", f"{name}={value}")]
        argv = [self.binaries / "postgres", "-D", self.folder / "data", "-k", self.folder, *options]
        self.process = subprocess.Popen(
            argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **_owner()
        )
        for _ in range(200):
            ready = subprocess.run(
                [self.binaries / "pg_isready", "-q", "-h", self.folder, "-d", "postgres"], check=False
            )
            if ready.returncode == 0:
                return
            time.sleep(0.05)
        pytest.fail("PostgreSQL does not start")

    def stop(self, *, signal: str = "INT") -> None:
        """Stop it: INT ends sessions, QUIT does so without writing anything, as a crash."""
        import signal as signals

        if self.process is not None:
            self.process.send_signal(signals.Signals[f"SIG{signal}"])
            self.process.wait(30)
            self.process = None

    def url(self, name: str) -> str:
        user = "postgres"
        return f"postgresql+psycopg://{user}@/{name}?host={quote(str(self.folder))}"

    def database(self, name: str) -> str:
        """Make an empty database and return the URL of a store in it."""
        self.run(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def run(self, statement: str, *, name: str = "postgres") -> list[tuple[object, ...]]:
        import psycopg

        with psycopg.connect(f"host={self.folder} user=postgres dbname={name}", autocommit=True) as db:
            found = db.execute(statement)
            return found.fetchall() if found.description else []


@contextmanager
def serving() -> Iterator[Server]:
    """A running server for as long as the block lasts."""
    binaries = _binaries()
    memory = Path(
        "/dev/shm"
    )  # its fsync takes no time, and what is killed here is processes, not the machine
    folder = Path(tempfile.mkdtemp(prefix="tally-pg-", dir=memory if memory.is_dir() else "/tmp"))
    try:
        options = _owner()
        if options:
            os.chown(folder, options["user"], options["group"])  # type: ignore[call-overload]
        subprocess.run(
            [binaries / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            **options,
        )  # fmt: skip
        server = Server(binaries=binaries, folder=folder)
        server.start()
        try:
            yield server
        finally:
            server.stop(signal="QUIT")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
