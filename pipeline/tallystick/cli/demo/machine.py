"""Virtual machines with a TPM that boot a measured image and reach nothing but the broker."""

from __future__ import annotations

import io
import json
import os
import selectors
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tallystick.attester.disk import INIT_DATA, PROMPT
from tallystick.attester.guest import LINE
from tallystick.cli.demo import relay
from tallystick.cli.demo.optionrom import option_rom
from tallystick.cli.demo.softtpm import controlled, running, tool
from tallystick.core.files import write_file

# Where the guest finds the broker: an address of QEMU's own network that leads to one port of the host.
GUEST_BROKER_URL = "http://10.0.2.100:8777"
TIMEOUT_SECONDS = 120.0

# Without CX16: QEMU up to 7.2 loses the flags when it emulates cmpxchg16b, and one boot in ten or so crashes
# (docs/decisions/0012-measured-boot-facts.md). It moves no register.
_EMULATED_CPU = "max,-cx16"
_MAX_CONSOLE_BYTES = 4 << 20
_PROBE_SECONDS = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a machine said and did. Times are in seconds from its start."""

    lines: tuple[tuple[float, str], ...]  # of the console
    events: tuple[tuple[float, dict[str, Any]], ...]  # the workload's own lines
    seconds: float
    timed_out: bool

    def event(self, name: str) -> dict[str, Any] | None:
        """Return the first event called ``name``, or None."""
        return next((event for _, event in self.events if event.get("event") == name), None)

    @property
    def answer(self) -> str | None:
        """What the model answered first; None when no key arrived."""
        event = self.event("answer")
        return None if event is None else str(event["text"])

    @property
    def refusal(self) -> dict[str, Any] | None:
        """The event that says why there was no answer; None when there was one."""
        return self.event("refused") or self.event("failed")

    @property
    def key_seconds(self) -> float | None:
        """When the first key had arrived and opened its artifact."""
        return next((at for at, event in self.events if event.get("event") == "opened"), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One virtual machine. Every field but the last three is measured, or decides what is."""

    uki: Path
    firmware: Path
    ram_mib: int = 512
    vcpus: int = 1
    option_rom: bool = False  # a card of the host's brings code of its own
    append: str | None = None  # a kernel command line from outside the image
    disk: Path
    tpm_state: Path  # made by TpmMaker.manufacture
    broker_port: int  # on this machine
    prompts: tuple[str, ...] = ()  # typed on the console once the guest listens
    accelerator: str = "tcg"  # or "kvm", when boots_under_kvm says so
    timeout_seconds: float = TIMEOUT_SECONDS

    def boot(self, on_line: Callable[[str], None] = lambda line: None) -> Outcome:
        """Boot, and return what happened once the machine is off. Nothing of it is left running.

        Args:
            on_line: is given every line of the console as it appears.

        Raises:
            Unreachable: QEMU or swtpm is not installed, or does not start.
        """
        with ExitStack() as stack:
            control = stack.enter_context(controlled(self.tpm_state))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tally-vm-")))
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            argv = self._command(control, folder)
            start = time.monotonic()
            process = stack.enter_context(running(argv, stderr=subprocess.STDOUT, **pipes))
            console = _Console(process, start, self.prompts, on_line)
            timed_out = console.follow(start + self.timeout_seconds)
        return Outcome(
            lines=tuple(console.lines),
            events=tuple(console.events),
            seconds=round(time.monotonic() - start, 2),
            timed_out=timed_out,
        )

    def _command(self, tpm_control: Path, folder: Path) -> list[str]:
        """Return QEMU's command line.

        The firmware is one file without variables of its own, and ``-kernel`` hands it the image untouched.
        The network's only way out is the broker's port; ``romfile=`` keeps the card's own ROM out of PCR 2.
        """
        rom = ""
        if self.option_rom:
            write_file(folder / "option.rom", option_rom())
            rom = _escaped(folder / "option.rom")
        machine = ["-machine", "q35", "-cpu", "host" if self.accelerator == "kvm" else _EMULATED_CPU]
        machine += ["-m", str(self.ram_mib), "-smp", str(self.vcpus)]
        machine += ["-accel", "kvm" if self.accelerator == "kvm" else "tcg,tb-size=512"]
        image = ["-bios", str(self.firmware), "-kernel", str(self.uki)]
        image += [] if self.append is None else ["-append", self.append]
        tpm = ["-chardev", f"socket,id=tpm,path={_escaped(tpm_control)}"]
        tpm += ["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"]
        disk = ["-drive", f"if=none,id=data,format=raw,readonly=on,file={_escaped(self.disk)}"]
        disk += ["-device", "virtio-blk-pci,drive=data"]
        way_out = shlex.join([sys.executable, "-I", "-S", relay.__file__, str(self.broker_port)])
        address = GUEST_BROKER_URL.removeprefix("http://")
        network = f"user,id=net,restrict=on,guestfwd=tcp:{address}-cmd:{way_out.replace(',', ',,')}"
        network_card = ["-netdev", network, "-device", f"virtio-net-pci,netdev=net,romfile={rom}"]
        plain = ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none"]
        return [
            tool("qemu-system-x86_64"),
            *plain,
            *("-serial", "stdio"),
            *machine,
            *image,
            *tpm,
            *disk,
            *network_card,
        ]


def write_disk(path: Path, init_data: bytes, files: Mapping[str, bytes], *, prompt: str | None) -> None:
    """Write a data disk: a tar with the init-data, the encrypted artifacts and perhaps a prompt."""
    members = {INIT_DATA: init_data, **files}
    if prompt is not None:
        members[PROMPT] = prompt.encode("utf-8")
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    write_file(path, made.getvalue())


def boots_under_kvm(firmware: Path) -> bool:
    """Whether hardware virtualisation really runs ``firmware`` here, seen by booting it.

    A device that opens proves nothing: under some hosts it opens and the firmware then never runs.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    argv = [tool("qemu-system-x86_64"), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
    argv += ["-monitor", "none", "-serial", "stdio", "-machine", "q35", "-accel", "kvm", "-cpu", "host"]
    argv += ["-m", "128", "-bios", str(firmware)]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with running(argv, **options) as process, selectors.DefaultSelector() as wait:
        wait.register(_pipe(process.stdout), selectors.EVENT_READ)
        wait.register(_pipe(process.stderr), selectors.EVENT_READ)
        # The firmware's first word decides, or the accelerator's complaint, or neither in time.
        for key, _ in wait.select(_PROBE_SECONDS):
            return key.fileobj is process.stdout and bool(os.read(key.fd, 1))
    return False


@dataclass(slots=True)
class _Console:
    """A machine's serial line, followed until it closes."""

    process: subprocess.Popen[bytes]
    start: float
    prompts: tuple[str, ...]
    on_line: Callable[[str], None]
    lines: list[tuple[float, str]] = field(default_factory=list)
    events: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    left: int = _MAX_CONSOLE_BYTES

    def follow(self, deadline: float) -> bool:
        """Read until the machine is off; return whether ``deadline`` came first."""
        pending = b""
        stream = _pipe(self.process.stdout)
        with selectors.DefaultSelector() as wait:
            wait.register(stream, selectors.EVENT_READ)
            while (seconds := deadline - time.monotonic()) > 0 and self.left > 0:
                if not wait.select(seconds):
                    break
                block = os.read(stream.fileno(), 1 << 16)
                if not block:
                    self._line(pending)
                    return False
                self.left -= len(block)
                *whole, pending = (pending + block).split(b"\n")
                for line in whole:
                    self._line(line)
        self._line(pending)
        return True

    def _line(self, raw: bytes) -> None:
        text = "".join(letter for letter in raw.decode("utf-8", "replace") if letter.isprintable())
        if not text:
            return
        seconds = round(time.monotonic() - self.start, 2)
        self.lines.append((seconds, text))
        self.on_line(text)
        event = parse_line(text)
        if event is not None:
            self.events.append((seconds, event))
            if event.get("event") == "listening":
                self._type()

    def _type(self) -> None:
        typed = "".join(f"{prompt}\n" for prompt in self.prompts) + "\n"
        stream = _pipe(self.process.stdin)
        stream.write(typed.encode("utf-8"))
        stream.flush()


def parse_line(line: str) -> dict[str, Any] | None:
    """Return the workload's event in a line of the console, which may start with words of the kernel's."""
    _, mark, text = line.partition(LINE + "{")
    if not mark:
        return None
    try:
        event = json.loads("{" + text)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("the program was started without this pipe")
    return stream


def _escaped(path: Path) -> str:
    """Return ``path`` for QEMU, whose options are separated by commas."""
    return str(path).replace(",", ",,")
