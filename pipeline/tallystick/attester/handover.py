"""How a key leaves the attester: sealed anonymous memory for one command, or a file in memory for its owner alone.

Neither reaches a disk by itself. A machine that swaps can still write its memory there, as it can any other: the
guests that keys are released to have no swap.

Source: Linux, memfd_create(2) and fcntl(2), "File Sealing"; proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from tallystick.core.errors import Misuse, Unreachable
from tallystick.core.files import write_file

MEMORY = ("tmpfs", "ramfs")
VARIABLE = "TALLY_KEY_FD"  # tells a command which of its open files is the key
MOUNTS = Path("/proc/self/mountinfo")
_MODE = 0o400
_GRACE_SECONDS = 10.0  # between asking a command to end and ending it


def sealed(secret: bytes, name: str = "key") -> int:
    """Return an open file in memory that holds ``secret`` and that nobody can change, longer or shorter make.

    A command that shall have it names it among its ``pass_fds``; everybody else's copy is closed at an exec.

    Args:
        name: shown in /proc, for people. No secret.

    Raises:
        Unreachable: the kernel gives no such file (``handover.memfd``).
    """
    import fcntl

    try:
        handle = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise Unreachable(f"memfd: {error.strerror}", code="handover.memfd") from None
    try:
        with os.fdopen(os.dup(handle), "wb") as stream:
            stream.write(secret)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, seals)
        os.lseek(handle, 0, os.SEEK_SET)
    except OSError as error:
        os.close(handle)
        raise Unreachable(f"memfd: {error.strerror}", code="handover.memfd") from None
    return handle


class Child:
    """A command that holds a key."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def ended_within(self, seconds: float) -> bool:
        """Wait for so long at most, and say whether the command ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    def exit_code(self) -> int:
        """Wait for the command's end and return its exit code, 128 + n after signal n as a shell does."""
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def end(self) -> None:
        """Ask the command to end, and end it when it does not."""
        if self._process.poll() is None:
            self._process.terminate()
            if not self.ended_within(_GRACE_SECONDS):
                self._process.kill()
                self._process.wait()


@contextmanager
def running(command: Sequence[str], secret: bytes) -> Iterator[Child]:
    """Run ``command`` with ``secret`` as an open sealed file, and end it when the block ends.

    The command reads the key from file descriptor ``$TALLY_KEY_FD``. SIGTERM and SIGINT reach it through this process.

    Raises:
        Misuse: there is no such command (``handover.command``).
    """
    handle = sealed(secret)
    try:
        try:
            process = subprocess.Popen(
                list(command), pass_fds=(handle,), env={**os.environ, VARIABLE: str(handle)}
            )
        except OSError as error:
            raise Misuse(f"{command[0]}: {error.strerror}", code="handover.command") from None
    finally:
        os.close(handle)
    child = Child(process)

    def forward(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield child
    finally:
        child.end()
        for number, handler in before.items():
            signal.signal(number, handler)


def write(path: Path, secret: bytes) -> None:
    """Write ``secret`` to the new file ``path`` with mode 0400; errors as :func:`check` and ``write_file``."""
    check(path)
    write_file(path, secret, mode=_MODE)


def check(path: Path, mounts: Path = MOUNTS) -> None:
    """Check that ``path`` is a new file in a folder that lies in memory.

    Raises:
        Misuse: it is there already (``file.exists``), its folder is not (``file.missing``), or that lies on a disk
            (``handover.disk``).
        Unreachable: the kernel does not say what lies there.
    """
    folder = path.absolute().parent
    if path.exists() or path.is_symlink():
        raise Misuse(f"{path} is there already; no key overwrites a file", code="file.exists")
    if not folder.is_dir():
        raise Misuse(f"there is no folder {folder}", code="file.missing")
    kind = filesystem(folder, mounts)
    if kind not in MEMORY:
        want = f"a folder in memory ({' or '.join(MEMORY)}, as /run and /dev/shm are)"
        raise Misuse(f"{folder}: want {want} for a key, got {kind}", code="handover.disk")


def filesystem(folder: Path, mounts: Path = MOUNTS) -> str:
    """Return the type of the file system that holds ``folder``: "tmpfs".

    Raises:
        Unreachable: the kernel does not say (``handover.mounts``).
    """
    try:
        device = os.stat(folder).st_dev
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise Unreachable(f"{mounts}: {error.strerror}", code="handover.mounts") from None
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        before, _, after = line.partition(" - ")
        words = before.split()
        if len(words) > 2 and words[2] == wanted and after:
            return after.split()[0]
    raise Unreachable(f"{mounts}: no file system {wanted}", code="handover.mounts")
