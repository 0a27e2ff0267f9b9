"""A machine without a machine: a fresh TPM, the events of a boot, and the guest's own code.

What an honest boot would have extended is extended here, so the broker sees real structures and real
signatures in milliseconds. It is also what a malicious owner of a software TPM would do.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tallystick.attester import guest
from tallystick.attester.disk import DataDisk
from tallystick.attester.tpm import Tpm, open_tpm
from tallystick.cli.demo.machine import Outcome
from tallystick.cli.demo.softtpm import emulator
from tallystick.core.digests import Algorithm, Digest
from tallystick.formats import eventlog
from tallystick.handshake import initdata
from tallystick.measure.records import Event

_IMA = 10  # extended by the kernel, which the firmware's log does not show
_NUMBERS = {name: number for number, name in eventlog.EVENT_TYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayMachine:
    """A TPM that has been through a boot. ``replayed`` makes one."""

    tpm: Tpm
    event_log: bytes

    def run(self, disk: Path, *, broker_url: str) -> Outcome:
        """Run the guest's workload with the data disk ``disk``, and return what it said."""
        start = time.monotonic()
        events: list[tuple[float, dict[str, Any]]] = []

        def say(event: str, **values: object) -> None:
            events.append((round(time.monotonic() - start, 3), {"event": event, **values}))

        machine = guest.Machine(tpm=self.tpm, event_log=self.event_log, broker_url=broker_url)

        def work() -> None:
            with DataDisk(disk) as data:
                guest.run(data, machine, say, guest.prompts_of(data, say))
            say("done")

        guest.supervise(work, say)
        seconds = round(time.monotonic() - start, 3)
        return Outcome(lines=(), events=tuple(events), seconds=seconds, timed_out=False)


@contextmanager
def replayed(tpm_state: Path, boot: Iterable[Event] | bytes) -> Iterator[ReplayMachine]:
    """Start the TPM in ``tpm_state``, take it through ``boot``, and give it until the block ends.

    Args:
        boot: the events that ``measure`` predicts, or a recorded log (binary_bios_measurements). The guest
            measures its init-data itself, so events of that register are left out.
    """
    events = recorded(boot) if isinstance(boot, bytes) else tuple(boot)
    log = boot if isinstance(boot, bytes) else event_log(events)
    with emulator(tpm_state) as socket:
        tpm = open_tpm(str(socket))
        try:
            for event in events:
                if event.register != initdata.PCR:
                    tpm.extend(event.register, event.digest.value)
            yield ReplayMachine(tpm=tpm, event_log=log)
            tpm.shutdown()
        finally:
            tpm.close()


def recorded(log: bytes) -> tuple[Event, ...]:
    """Return the events of a recorded log that were extended into the SHA-256 bank.

    Raises:
        Malformed: not an event log.
    """
    found = eventlog.parse(log).events
    return tuple(
        Event(
            register=event.register,
            digest=Digest(Algorithm.SHA256, event.digest("sha256")),
            what=f"{event.kind_name}: {eventlog.describe(event)}",
        )
        for event in found
        if event.kind != eventlog.EV_NO_ACTION
    )


def event_log(events: Iterable[Event]) -> bytes:
    """Return the firmware's log of ``events``: binary_bios_measurements with a SHA-256 bank.

    An event's data is the words that predicted it. A verifier takes digests from the log and believes data
    only where its hash is the digest.

    Source: TCG PC Client Platform Firmware Profile 1.06, section 10 (TCG_PCR_EVENT2, TCG_EfiSpecIDEvent).
    """
    spec = struct.pack("<16sIBBBBIHHB", b"Spec ID Event03", 0, 0, 2, 0, 2, 1, 0x000B, 32, 0)
    log = [struct.pack("<II20sI", 0, eventlog.EV_NO_ACTION, bytes(20), len(spec)) + spec]
    for event in events:
        if event.register in (initdata.PCR, _IMA):
            continue
        kind = _NUMBERS.get(event.what.split(" ")[0].rstrip(":"), eventlog.EV_IPL)
        words = event.what.encode("utf-8")
        head = struct.pack("<IIIH", event.register, kind, 1, 0x000B) + event.digest.value
        log.append(head + struct.pack("<I", len(words)) + words)
    return b"".join(log)
