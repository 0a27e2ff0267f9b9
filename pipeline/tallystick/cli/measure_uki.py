"""``tally measure uki``: what a TPM holds after a unified kernel image has booted, from files alone."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.output import JsonFlag, emit
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.core.digests import Digest
    from tallystick.measure.records import Event
    from tallystick.measure.uki import ImageEvents

_MAX_IMAGE_BYTES = 1 << 30
_MAX_INIT_DATA_BYTES = 1 << 20


class BootPath(Enum):
    """How the image is started, which decides the order of PCR 4."""

    KERNEL = "kernel"
    DISK = "disk"


def register(app: typer.Typer) -> None:
    """Add the command to ``tally measure``."""
    app.command()(uki)


def uki(
    file: Annotated[Path, typer.Argument(help="The unified kernel image.")],
    firmware: Annotated[Path | None, typer.Option(help="The OVMF file it boots under.")] = None,
    ram_mib: Annotated[int | None, typer.Option(help="RAM of the machine, in MiB.")] = None,
    vcpus: Annotated[int | None, typer.Option(help="Number of vCPUs.")] = None,
    initdata: Annotated[
        Path | None, typer.Option(help="Init-data that the guest extends into PCR 8.")
    ] = None,
    boot: Annotated[
        BootPath, typer.Option(help="Started with QEMU's -kernel, or from a disk's EFI partition.")
    ] = BootPath.KERNEL,
    explain: Annotated[bool, typer.Option("--explain", help="Print every event of the boot.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """A unified kernel image: PCR 4, 9 and 11; with firmware and launch shape every PCR from 0 to 15."""
    from tallystick.core.files import read_file
    from tallystick.formats import uki as uki_format
    from tallystick.measure.uki import Boot, application_events, image_events

    whole = [firmware is not None, ram_mib is not None, vcpus is not None]
    if any(whole) != all(whole):
        raise Misuse("--firmware, --ram-mib and --vcpus go together", code="measure.shape-incomplete")
    if initdata is not None and firmware is None:
        raise Misuse(
            "--initdata is PCR 8: it needs --firmware, --ram-mib and --vcpus", code="measure.initdata"
        )
    if firmware is not None and boot is not BootPath.KERNEL:
        raise Misuse(
            "--boot disk: PCR 1 and 5 depend on the disk; all PCRs are predicted for --boot kernel",
            code="measure.boot",
        )
    image = image_events(uki_format.parse(read_file(file, "UKI", max_bytes=_MAX_IMAGE_BYTES)))
    if firmware is None or ram_mib is None or vcpus is None:
        alone = (*application_events(image, Boot(boot.value)), *image.options, *image.sections)
        _print(alone, {}, explain=explain, as_json=as_json)
        return
    init_data = None if initdata is None else _init_data(initdata)
    events = _whole_boot(image, firmware, ram_mib, vcpus, init_data)
    from tallystick.measure.registers import replay

    pcrs = {str(number): value.hex for number, value in replay(events).items()}
    _print(events, {"pcrs": pcrs}, explain=explain, as_json=as_json)


def _whole_boot(
    image: ImageEvents, firmware: Path, ram_mib: int, vcpus: int, init_data: Digest | None
) -> tuple[Event, ...]:
    from tallystick.core.files import read_file
    from tallystick.formats.firmware import MAX_IMAGE_BYTES
    from tallystick.measure import qemu
    from tallystick.measure.shapes import LaunchShape

    shape = LaunchShape.of(qemu.PLATFORM, {"ram_mib": ram_mib, "vcpus": vcpus, "vmm": qemu.VMM})
    machine = qemu.machine(shape)
    measured = qemu.MeasuredFirmware.of(read_file(firmware, "firmware", max_bytes=MAX_IMAGE_BYTES))
    return qemu.boot_events(image, measured, machine, init_data)


def _init_data(path: Path) -> Digest:
    """Return the digest of the init-data at ``path``, which the guest would refuse when it does not parse."""
    from tallystick.core.digests import Digest
    from tallystick.core.files import read_file
    from tallystick.handshake import initdata

    data = read_file(path, "init-data", max_bytes=_MAX_INIT_DATA_BYTES)
    initdata.parse(data)
    return Digest.of(data)


def _print(events: tuple[Event, ...], more: dict[str, Any], *, explain: bool, as_json: bool) -> None:
    from tallystick.measure.registers import replay

    registers = replay(events)
    document: dict[str, Any] = {f"pcr{number}": registers[number].hex for number in (4, 9, 11)} | more
    pcrs = more.get("pcrs", {str(number): registers[number].hex for number in (4, 9, 11)})
    lines = [f"PCR {number:>2}  {value}" for number, value in pcrs.items()]
    if explain:
        document["events"] = [
            {"register": event.register, "digest": str(event.digest), "what": event.what} for event in events
        ]
        lines = [f"PCR {event.register:>2}  {event.digest.hex}  {event.what}" for event in events] + [
            "",
            *lines,
        ]
    emit(document, "\n".join(lines), as_json=as_json)
