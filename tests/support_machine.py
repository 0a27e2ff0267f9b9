"""A real measured boot: QEMU (emulated), OVMF and swtpm; the registers are read from the TPM afterwards."""

from __future__ import annotations

import array
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from support_tpm import await_listener

from tallystick.attester.tpm import SocketTransport, Tpm

ROOT = Path(__file__).resolve().parents[1]
_BOOT_SECONDS = 120
# Without CX16: QEMU 7.2's emulation of cmpxchg16b loses the flags, and Linux 6.12 then crashes in one boot of six
# (docs/decisions/0012). It moves no register.
_CPU = "max,-cx16"
_SET_DATA_FD = 0x10  # swtpm_ioctls(3), CMD_SET_DATAFD


def release_file(pattern: str) -> Path:
    """Return a file of the built demo release; skip without one, and fail under CI.

    ``TALLY_RELEASE`` names another release directory than the one `make demo` leaves.
    """
    folder = Path(os.environ.get("TALLY_RELEASE", ROOT / "demo" / "release"))
    found = sorted(folder.glob(pattern))
    if found:
        return found[0]
    reason = f"no {pattern} in {folder}: `make demo` builds it, TALLY_RELEASE names another release"
    pytest.skip(reason)


class _Handed(SocketTransport):
    """The data channel of a running swtpm, on a socket that was made for it."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(10)
        self._socket = end


def boot(
    image: Path,
    firmware: Path,
    folder: Path,
    *,
    ram_mib: int = 512,
    vcpus: int = 1,
    more: Sequence[str] = (),
    until: bytes = b"Kernel panic",
) -> tuple[str, ...]:
    """Return PCR 0 to 15 (hex) as they are when the console says ``until``.

    QEMU is stopped there and killed: a clean end would shut the TPM down. A kernel whose initrd is nothing panics
    after everything that a boot measures, IMA's boot_aggregate included.
    """
    for tool in ("qemu-system-x86_64", "swtpm", "swtpm_setup"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    state = folder / "tpm"
    state.mkdir(parents=True)
    control = Path(tempfile.mkdtemp(prefix="tally-vm-")) / "control"  # the name of a socket must be short
    subprocess.run(
        ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--overwrite", "--pcr-banks", "sha256"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    tpm = subprocess.Popen(
        [
            "swtpm",
            "socket",
            "--tpm2",
            "--tpmstate",
            f"dir={state}",
            "--ctrl",
            f"type=unixio,path={control}",
            "--flags",
            "startup-clear",
        ]
    )
    try:
        await_listener(control)
        _run(_command(image, firmware, control, ram_mib, vcpus, more), until)
        return _registers(control)
    finally:
        tpm.kill()
        tpm.wait()
        shutil.rmtree(control.parent)


def _command(
    image: Path, firmware: Path, control: Path, ram_mib: int, vcpus: int, more: Sequence[str]
) -> list[str]:
    return [
        *("qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,tb-size=512", "-cpu", _CPU),
        *(
            "-m",
            str(ram_mib),
            "-smp",
            str(vcpus),
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-no-shutdown",
        ),
        *("-serial", "stdio", "-monitor", "none", "-bios", str(firmware), "-kernel", str(image)),
        *("-chardev", f"socket,id=tpm,path={control}", "-tpmdev", "emulator,id=tpm0,chardev=tpm"),
        *("-device", "tpm-crb,tpmdev=tpm0", *more),
    ]


def _run(command: list[str], until: bytes) -> None:
    machine = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    timer = threading.Timer(_BOOT_SECONDS, machine.kill)
    timer.start()
    console: list[bytes] = []
    try:
        for line in machine.stdout or ():
            console.append(line)
            if until in line:
                return
        pytest.fail(
            f"the console never said {until!r}:\n" + b"".join(console[-20:]).decode("utf-8", "replace")
        )
    finally:
        timer.cancel()
        machine.kill()
        machine.wait()


def _registers(control: Path) -> tuple[str, ...]:
    """Return the registers of the swtpm behind ``control``, over a data channel of our own."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(control))
        channel.settimeout(10)
        ours, its = socket.socketpair()
        with its:
            handed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [its.fileno()]))]
            channel.sendmsg([struct.pack(">I", _SET_DATA_FD)], handed)
            assert channel.recv(4) == bytes(4)
        machine = Tpm(_Handed(ours))
        try:
            return tuple(value.hex() for value in machine.read_pcrs()[:16])
        finally:
            machine.close()
