"""Software TPMs and the private authority that certifies them. Development only: whoever holds its files can
make any evidence, and so its root is labelled ``software-tpm`` and never satisfies a production policy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tallystick.core.errors import Unreachable
from tallystick.core.files import write_file

_START_SECONDS = 10.0
_STOP_SECONDS = 3.0
_SETUP_SECONDS = 120.0  # the first run makes two RSA-3072 keys
# swtpm-localca(8), swtpm_setup.conf(5): without files of our own both write to a place all users share
_AUTHORITY = """\
statedir = {folder}
signingkey = {folder}/signkey.pem
issuercert = {folder}/issuercert.pem
certserial = {folder}/certserial
"""
_OPTIONS = "--platform-manufacturer Tallystick --platform-version 1 --platform-model demo\n"
_SETUP = """\
create_certs_tool = {tool}
create_certs_tool_config = {folder}/localca.conf
create_certs_tool_options = {folder}/localca.options
active_pcr_banks = sha256
"""


class TpmMaker:
    """A manufacturer of software TPMs, with its authority in one private folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def manufacture(self, state: Path) -> None:
        """Make a new TPM in the folder ``state``: its own seeds, an endorsement key and its certificate.

        Raises:
            Unreachable: swtpm is not installed, or failed.
        """
        config = self._configuration()
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        argv = [tool("swtpm_setup"), "--tpm2", "--config", str(config), "--tpmstate", str(state.resolve())]
        argv += ["--create-ek-cert", "--lock-nvram", "--overwrite", "--pcr-banks", "sha256"]
        with running(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                said, _ = process.communicate(timeout=_SETUP_SECONDS)
            except subprocess.TimeoutExpired:
                raise Unreachable("swtpm_setup: no end in sight", code="tpm.setup") from None
        if process.returncode != 0:
            lines = said.decode("utf-8", "replace").strip().splitlines()[-3:]
            raise Unreachable(f"swtpm_setup failed: {' / '.join(lines)}", code="tpm.setup")

    def certificates(self) -> tuple[bytes, ...]:
        """Return the authority's certificates in DER, root first; made by the first TPM.

        Raises:
            Unreachable: no TPM was made yet.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        found = []
        for name in ("swtpm-localca-rootca-cert.pem", "issuercert.pem"):
            try:
                pem = (self.folder / name).read_bytes()
            except OSError as error:
                where = f"{self.folder / name}: {error.strerror}"
                raise Unreachable(f"TPM authority: {where}", code="tpm.authority") from None
            found.append(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER))
        return tuple(found)

    def _configuration(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        files = {
            "localca.conf": _AUTHORITY.format(folder=self.folder),
            "localca.options": _OPTIONS,
            "setup.conf": _SETUP.format(folder=self.folder, tool=tool("swtpm_localca")),
        }
        for name, text in files.items():
            write_file(self.folder / name, text.encode("utf-8"), mode=0o600)
        return self.folder / "setup.conf"


@contextmanager
def emulator(state: Path) -> Iterator[Path]:
    """Run the TPM in ``state`` and give the socket that takes its commands. No virtual machine is involved."""
    with tempfile.TemporaryDirectory(prefix="tally-tpm-") as folder:
        path = Path(folder) / "server"
        argv = [tool("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={state.resolve()}"]
        argv += ["--server", f"type=unixio,path={path}", "--flags", "startup-clear,not-need-init"]
        with running(argv) as process:
            _wait_for(path, process)
            yield path


@contextmanager
def controlled(state: Path) -> Iterator[Path]:
    """Run the TPM in ``state`` for a virtual machine, and give the socket that controls it."""
    with tempfile.TemporaryDirectory(prefix="tally-tpm-") as folder:
        path = Path(folder) / "control"
        argv = [tool("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={state.resolve()}"]
        argv += ["--ctrl", f"type=unixio,path={path}", "--flags", "startup-clear", "--terminate"]
        with running(argv) as process:
            _wait_for(path, process)
            yield path


@contextmanager
def running(argv: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends, however it ends.

    It has a process group of its own, so that Ctrl-C reaches only us and we end it; and the kernel ends it when
    we are killed ourselves.
    """
    guarded = [setpriv, "--pdeathsig", "KILL", *argv] if (setpriv := shutil.which("setpriv")) else list(argv)
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    quiet["stderr"] = subprocess.DEVNULL
    with subprocess.Popen(guarded, start_new_session=True, **{**quiet, **options}) as process:
        try:
            yield process
        finally:
            _stop(process)


def tool(name: str) -> str:
    """Return the path of the program ``name``.

    Raises:
        Unreachable: it is not installed (``tool.missing``).
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/local/bin:/usr/bin:/usr/sbin:/sbin")
    if found is None:
        raise Unreachable(f"{name} is not installed; see README.md, what it needs", code="tool.missing")
    return found


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Return once somebody listens at ``path``. The file is there a little earlier."""
    deadline = time.monotonic() + _START_SECONDS
    while not _is_listening(path):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Unreachable("swtpm did not start; is its state locked by another?", code="tpm.start")
        time.sleep(0.005)


def _is_listening(path: Path) -> bool:
    """Whether a unix socket takes connections, without making one: swtpm would take its end for the guest's.

    Source: Linux, net/unix/af_unix.c, unix_seq_show: the flag __SO_ACCEPTCON is 0x10000.
    """
    for line in Path("/proc/net/unix").read_text("utf-8", "replace").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == str(path):
            return int(fields[3], 16) & 0x10000 != 0
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the program and everything it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
            return
