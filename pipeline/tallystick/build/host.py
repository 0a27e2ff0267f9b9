"""What a build needs of the machine: Nix, users for builds, a configuration, and a second file system."""

from __future__ import annotations

import grp
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tallystick.build.nix import MACHINE_STATE, OLDEST, Nix, Store, version_of
from tallystick.core.errors import Misuse, Unreachable, Unsupported
from tallystick.core.files import write_file

GROUP = "tallybld"
USERS = 4  # builds at the same time, at most
_SECOND_STORE_SIZE = "4g"  # an image needs under 600 MB, the firmware 2 GB; tmpfs takes only what is used
_INSTALL = "install the package nix-bin (Debian, Ubuntu), elsewhere with the installer of the Nix project"

# Every line matters; docs/decisions/0003-nix-settings.md says why.
_SETTINGS = {
    "experimental-features": "nix-command",
    "substituters": "",
    "builders": "",
    "sandbox": "true",
    "sandbox-fallback": "false",
    "sandbox-paths": "",
    "build-users-group": GROUP,
    "filter-syscalls": "true",
    "system-features": "",
    "cores": "1",
    "restrict-eval": "true",
    "allow-import-from-derivation": "false",
    "auto-optimise-store": "false",
    "log-lines": "30",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """The empty store of the second build, and what is worth knowing about where it lies."""

    store: Store
    where: str  # "tmpfs", or a note that it is not on another file system


def prepare(state: Path) -> Nix:
    """Return the machine's Nix, ready to build: configuration written, users there.

    Raises:
        Unreachable: there is no Nix (``nix.missing``).
        Unsupported: it is too old (``nix.too-old``).
        Misuse: this user is neither root nor may use sudo without a password (``nix.no-root``).
    """
    if shutil.which("nix-store") is None:
        raise Unreachable(f"Nix is not on this machine: {_INSTALL}", code="nix.missing")
    said = subprocess.run(
        ["nix-instantiate", "--version"], capture_output=True, text=True, check=False
    ).stdout
    match = re.search(r"[0-9]+(\.[0-9]+)+\S*", said)
    version = match[0] if match else "an unknown version"
    if version_of(version) < OLDEST:
        want = f"{'.'.join(map(str, OLDEST))} or newer"
        raise Unsupported("Nix", at="version", want=want, got=version, code="nix.too-old")
    prefix = _prefix()
    _make_users(prefix)
    _must(prefix, "install", "-d", "-m", "0755", str(MACHINE_STATE))
    configuration, home = state / "nix", state / "home"
    settings = _SETTINGS | {"max-jobs": str(min(USERS, os.cpu_count() or 1))}
    text = "".join(f"{name} = {value}\n" for name, value in settings.items())
    write_file(configuration / "nix.conf", text.encode())
    home.mkdir(parents=True, exist_ok=True)
    return Nix(version=version, configuration=configuration, home=home, prefix=prefix)


def first_store(state: Path) -> Store:
    """Return the store that stays from build to build."""
    store = Store(root=state / "store", work=state / "work")
    for folder in (store.root, store.work):
        folder.mkdir(parents=True, exist_ok=True)
    return store


@contextmanager
def stopping_cleanly() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C inside the block, so that Nix is stopped and the second store unmounted."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def second_store(nix: Nix, state: Path) -> Iterator[Second]:
    """Give an empty store on another file system, and leave nothing of it.

    A file system of its own is mounted where that is allowed. Two builds on one file system can agree on an order
    of files that a third would not have.
    """
    _clear_old(nix, state)
    mount = state / f"second-{os.getpid()}"
    mount.mkdir(parents=True)
    options = f"mode=0755,size={_SECOND_STORE_SIZE}"
    mounted = _succeeds(nix.prefix, "mount", "-t", "tmpfs", "-o", options, "tallystick", str(mount))
    folder, where = mount, "tmpfs"
    if not mounted:
        folder, where = _other_folder(mount, state)
    try:
        store = Store(root=folder / "store", work=folder / "work")
        _make_folders(nix, store)
        yield Second(store=store, where=where)
    finally:
        if mounted:
            _succeeds(nix.prefix, "umount", "--lazy", str(mount))
        elif folder != mount:
            remove(nix, folder)
        remove(nix, mount)


def remove(nix: Nix, folder: Path) -> None:
    """Remove ``folder``, whose files belong to root and are read-only."""
    _succeeds(nix.prefix, "rm", "-rf", "--one-file-system", str(folder))


def _make_folders(nix: Nix, store: Store) -> None:
    command = ("install", "-d", "-m", "0755", str(store.root), str(store.work))
    if not _succeeds(nix.prefix, *command):
        raise Unreachable(f"{store.root}: the folder can not be made", code="file.unwritable")


def _other_folder(mount: Path, state: Path) -> tuple[Path, str]:
    memory = Path("/dev/shm")  # noqa: S108  a fresh name below, and never a link
    if os.access(memory, os.W_OK) and memory.stat().st_dev != state.stat().st_dev:
        return Path(tempfile.mkdtemp(prefix="tallystick-", dir=memory)), "tmpfs (/dev/shm)"
    return mount, "same file system as the first store: no other could be mounted"


def _clear_old(nix: Nix, state: Path) -> None:
    """Take away what a killed run left."""
    for folder in state.glob("second-*"):
        owner = folder.name.removeprefix("second-")
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            while folder.is_mount() and _succeeds(nix.prefix, "umount", "--lazy", str(folder)):
                pass
            remove(nix, folder)


def _prefix() -> tuple[str, ...]:
    if os.geteuid() == 0:
        return ()
    if shutil.which("sudo") and _succeeds((), "sudo", "-n", "true"):
        return ("sudo", "-n")
    raise Misuse(
        "building needs root, or sudo without a password: each build step runs as a user of its own, "
        "which keeps it from changing what other steps made",
        code="nix.no-root",
    )


def _make_users(prefix: tuple[str, ...]) -> None:
    """Make the users that build steps run as, where they are not there yet."""
    names = [f"{GROUP}{number}" for number in range(1, USERS + 1)]
    try:
        missing = set(names) - set(grp.getgrnam(GROUP).gr_mem)
    except KeyError:
        _must(prefix, "groupadd", "--system", GROUP)
        missing = set(names)
    for name in sorted(missing):
        shape = ("--system", "--gid", GROUP, "--groups", GROUP, "--no-create-home")
        _must(prefix, "useradd", *shape, "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", name)


def _must(prefix: tuple[str, ...], *command: str) -> None:
    try:
        done = subprocess.run([*prefix, *command], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unreachable(
            f"{command[0]} is not on this machine; it makes the users that builds run as", code="nix.no-users"
        ) from None
    if done.returncode and "already exists" not in done.stderr:
        raise Unreachable(f"{command[0]}: {done.stderr.strip()}", code="nix.no-users")


def _succeeds(prefix: tuple[str, ...], *command: str) -> bool:
    try:
        return subprocess.run([*prefix, *command], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
