"""The workload of the measured image: measure, prove, fetch two keys, open the model, answer.

``python3 -m tallystick.attester.guest`` is started by the image's first process, which powers the machine off
when this one ends. What happens is said on the console in lines that start with ``TALLY `` and hold one JSON
object. No line ever holds a key.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tallystick.attester import channel, infer, keeper
from tallystick.attester.backoff import until
from tallystick.attester.client import KbsClient, Prove, enrolled
from tallystick.attester.collectors import Devices, detect, prover, shower
from tallystick.attester.disk import INIT_DATA, PROMPT, DataDisk
from tallystick.attester.evidence import read_event_log
from tallystick.attester.measured import measure
from tallystick.attester.tpm import Tpm, open_tpm
from tallystick.core.digests import Digest
from tallystick.core.errors import Exit, Malformed, TallystickError
from tallystick.handshake import artifact, initdata, wrapping
from tallystick.handshake import manifest as manifests
from tallystick.handshake.manifest import Artifact, Manifest

DISK = Path("/dev/vda")
CMDLINE = Path("/proc/cmdline")  # measured with the image
LINE = "TALLY "
ANSWER_LETTERS = 120

REATTEST_SECONDS = 60.0  # no answer is given later than this after the last attestation that succeeded

_DISK_SECONDS = 5.0  # how long a slow machine may take to find its disk
_BROKER_SECONDS = 60.0  # how long the broker may be away while the machine starts
_MAX_INIT_DATA_BYTES = 1 << 20
_MAX_PROMPT_BYTES = 4096

Say = Callable[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the workload runs on. A test gives an emulator where the image gives its devices."""

    tpm: Tpm | None  # None where the processor's own evidence stands for the machine
    event_log: bytes = b""
    tee: str = "tpm"
    devices: Devices = field(default_factory=Devices)
    broker_url: str = ""  # empty: the one in the measured init-data
    channel: Digest | None = None  # root of the channel that artifacts come from, when the image pins one

    def prover(self, client: KbsClient) -> AbstractContextManager[Prove]:
        """Return what makes this machine's evidence."""
        if self.tpm is None:
            return prover(client, self.tee, self.devices)
        return enrolled(client, self.tpm, event_log=self.event_log)


def run(disk: DataDisk, machine: Machine, say: Say, prompts: Iterator[str]) -> None:
    """Do all of the workload on ``machine`` with ``disk``, and answer each of ``prompts``.

    Raises:
        TallystickError: whatever went wrong; no key is kept and nothing was answered.
    """
    toml = disk.read(INIT_DATA, max_bytes=_MAX_INIT_DATA_BYTES)
    if machine.tpm is not None:
        measure(machine.tpm, toml)
        say("measured", register=initdata.PCR, init_data=str(Digest.of(toml)))
    else:  # its digest is in what the host launched: HOST_DATA, MRCONFIGID
        say("read", init_data=str(Digest.of(toml)))
    init = initdata.parse(toml)
    listed = manifests.parse_all(init.text(initdata.ARTIFACTS).encode("utf-8"))
    if machine.channel is not None:
        channel.check(machine.channel, lambda name: disk.read(name, max_bytes=channel.MAX_BYTES), listed)
        say("listed", channel=str(machine.channel), artifacts=[str(one.digest) for one in listed])
    artifacts = [(manifest, one) for manifest in listed for one in manifest.artifacts]
    for _, one in artifacts:
        disk.check(one)
    url = machine.broker_url or initdata.broker_url(init)
    client = KbsClient(url, tee=machine.tee)

    def attest() -> None:
        with machine.prover(client) as prove:
            client.attest(prove, init_data=toml.decode("utf-8"), show=shower(machine.devices))

    until(attest, _BROKER_SECONDS)
    say("attested", broker=url, tee=machine.tee)
    opened: dict[str, bytes] = {}
    for manifest, one in artifacts:
        opened[one.name] = _open(disk, manifest, one, client.fetch(one.key))
        say("opened", artifact=one.name, key=one.key, plaintext=str(one.plaintext))
    model = infer.load(_part(opened, "weights"), _part(opened, "tokenizer"))

    def renew() -> None:  # to be given the keys again is what the policy of that moment says
        attest()
        for _, one in artifacts:
            client.fetch(one.key)

    with keeper.beside(renew, every_seconds=REATTEST_SECONDS) as check:
        for prompt in prompts:
            check()
            say("answer", prompt=prompt, text=model.answer(prompt, letters=ANSWER_LETTERS))


def prompts_of(disk: DataDisk, say: Say) -> Iterator[str]:
    """Give the disk's prompt; without one, the lines of the console until an empty one."""
    if disk.has(PROMPT):
        yield disk.read(PROMPT, max_bytes=_MAX_PROMPT_BYTES).decode("utf-8", "replace").strip()
        return
    say("listening")
    while line := sys.stdin.readline(_MAX_PROMPT_BYTES).strip():
        yield line


def _open(disk: DataDisk, manifest: Manifest, one: Artifact, broker_key: bytes) -> bytes:
    """Return the plaintext of ``one``, checked against the manifest that was measured."""
    wrapped = wrapping.parse(disk.read(one.file + wrapping.SUFFIX, max_bytes=wrapping.MAX_BYTES))
    plaintext = io.BytesIO()
    with disk.open(one.file) as source:
        header = artifact.read_header(source)
        data_key = wrapping.unwrap(wrapped, broker_key, wrapping.binding(manifest, one, header))
        source.seek(0)
        artifact.decrypt(source, plaintext, data_key, one.plaintext)
    return plaintext.getvalue()


def _part(opened: dict[str, bytes], name: str) -> bytes:
    if name not in opened:
        raise Malformed("artifacts manifest", at="artifacts", want=f"one called {name}", got="none")
    return opened[name]


def console(event: str, **values: object) -> None:
    """Say one thing on the console, with the seconds since the machine started."""
    line = {"event": event, "uptime_seconds": round(time.monotonic(), 2), **values}
    sys.stdout.write(LINE + json.dumps(line) + "\n")
    sys.stdout.flush()


def supervise(work: Callable[[], None], say: Say) -> int:
    """Do ``work``, say why it did not end well, and return the exit code."""
    try:
        work()
    except TallystickError as error:
        event = "refused" if error.exit in (Exit.REFUSED, Exit.NOT_GENUINE) else "failed"
        findings = [finding.document() for finding in error.findings]
        say(event, code=error.code, message=error.message, findings=findings)
        return int(error.exit)
    except Exception as error:  # the console is the host's: a traceback could show it a value
        say("failed", code="bug", message=f"a bug of ours: {type(error).__name__}", findings=[])
        return int(Exit.BUG)
    return int(Exit.OK)


def main() -> int:
    """Run the workload on this machine's own devices."""
    console("started")
    code = supervise(_on_devices, console)
    if code == Exit.OK:
        console("done")
    return code


def _on_devices() -> None:
    _wait_for(DISK)
    with DataDisk(DISK) as disk:
        devices = Devices()
        tee = detect(devices)
        tpm = open_tpm(devices.tpm) if tee == "tpm" else None
        try:
            log = b"" if tpm is None else read_event_log()
            pin = channel.pinned(CMDLINE.read_text("ascii", "replace"))
            machine = Machine(tpm=tpm, event_log=log, tee=tee, devices=devices, channel=pin)
            run(disk, machine, console, prompts_of(disk, console))
        finally:
            if tpm is not None:
                tpm.close()


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + _DISK_SECONDS
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
