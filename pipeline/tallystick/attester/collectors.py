"""What collects this machine's evidence, chosen by what the machine has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tallystick.attester import nsm, nvml, tsm
from tallystick.attester.client import KbsClient, Prove, Show, enrolled
from tallystick.attester.evidence import EVENT_LOG, read_event_log
from tallystick.attester.tpm import DEVICE, open_tpm
from tallystick.core.errors import Misuse, Unreachable, Unsupported


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Where a machine's interfaces lie. A test gives places of its own."""

    reports: Path = tsm.REPORTS
    ccel: Path = tsm.CCEL
    nsm: Path = nsm.DEVICE
    tpm: str = DEVICE  # a device, or the socket of an emulator
    event_log: Path = EVENT_LOG
    nvml: str = nvml.LIBRARY


def detect(devices: Devices) -> str:
    """Return the KBS tee of this machine: what its processor signs comes before what a TPM does.

    Raises:
        Unreachable: it has nothing that could attest (``attest.no-device``).
    """
    if nsm.available(devices.nsm):
        return "nitro"
    if tsm.available(devices.reports):
        try:
            name = tsm.provider(devices.reports)
        except Unreachable:
            name = ""  # the interface is there on any kernel that has the module
        if name in tsm.TEES:
            return tsm.TEES[name]
    if Path(devices.tpm).exists():
        return "tpm"
    message = f"this machine has none of {devices.nsm}, {devices.reports} and {devices.tpm}"
    raise Unreachable(message, code="attest.no-device")


def shower(devices: Devices) -> Show:
    """Return what collects the evidence of the machine's devices, beside its own: of NVIDIA GPUs, where it has any."""
    return lambda nonce: nvml.evidence(nonce, devices.nvml)


@contextmanager
def prover(client: KbsClient, tee: str, devices: Devices) -> Iterator[Prove]:
    """Give what makes evidence of ``tee`` on this machine until the block ends. A TPM is enrolled first.

    Raises:
        Misuse: the machine is another one (``attest.tee``). Unsupported: a tee that is not collected here.
        TallystickError: as the interfaces and the enrolment say.
    """
    if tee == "tpm":
        machine = open_tpm(devices.tpm)
        try:
            with enrolled(client, machine, event_log=read_event_log(devices.event_log)) as prove:
                yield prove
        finally:
            machine.close()
    elif tee == "nitro":
        yield lambda digest: nsm.evidence(nsm.document(digest, devices.nsm))
    elif tee in tsm.TEES.values():
        yield lambda digest: _reported(tee, digest, devices)
    else:
        want = ", ".join(("tpm", "nitro", *tsm.TEES.values()))
        raise Unsupported("attester", at="tee", want=f"one of {want}", got=tee)


def _reported(tee: str, digest: bytes, devices: Devices) -> object:
    found = tsm.report(digest, devices.reports)
    if tsm.TEES[found.provider] != tee:
        message = f"this machine is {tsm.TEES[found.provider]}, not {tee}"
        raise Misuse(message, code="attest.tee")
    return tsm.evidence(found, devices.ccel)
