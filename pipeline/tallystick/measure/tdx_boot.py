"""Intel TDX release tuples: QEMU boots a unified kernel image directly under a firmware that extends the RTMRs.

The rules are those of two boots that were compared: a TD's quote of a direct kernel boot (measure/tdx.py) says which
register takes which event; a TPM's log of a UKI started with ``-kernel`` says which events there are, in their order
(docs/decisions/0012-measured-boot-facts.md). What no boot of a UKI in a TD has confirmed yet is their sum.

RTMR0 holds what the host gives: the memory map, and ACPI tables that depend on QEMU's version and devices. It is waived
by name (docs/decisions/0085-rtmr0.md).

Source: edk2-stable202502 OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c (events and TdxMeasurementMapPcrToMrIndex); Linux 6.12
drivers/firmware/efi/libstub/efi-stub-helper.c, efi_measure_tagged_event.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Misuse, Unsupported
from tallystick.formats import firmware as volumes
from tallystick.formats import ovmf, pe
from tallystick.formats import uki as uki_format
from tallystick.formats.uki import Uki
from tallystick.measure import attestable, hostdata, tdx
from tallystick.measure.records import Event, Measurement, WaivedRegister
from tallystick.measure.registers import replay
from tallystick.measure.shapes import LaunchShape
from tallystick.measure.uki import command_line, known_sections

PLATFORM, EVIDENCE_KIND = "intel-tdx", "tdx-quote"
SHAPE_NAMES = ("page_order", "vmm")
PAGE_ORDERS = ("one-pass", "two-pass")
WAIVED = (
    WaivedRegister(
        name="quote.body.rtmr_0",
        decision="docs/decisions/0085-rtmr0.md",
        decided_by="the Tallystick developers",
        until=datetime(2028, 1, 1, tzinfo=UTC),
    ),
)
TD_TCG2 = uuid.UUID("f062221e-c607-44c2-b0b4-c3886331d351")  # TdTcg2Dxe.inf, FILE_GUID
_CC_MEASUREMENT_PROTOCOL = uuid.UUID("96751a3d-72f4-41a6-a794-ed5d0e67ae6b")  # UEFI 2.10, 38.4
_REGISTERS = 4


def measure(
    image: bytes,
    firmware: bytes,
    shapes: Sequence[LaunchShape],
    init_data: Digest | None,
    calculator: str,
) -> tuple[Measurement, ...]:
    """Return one tuple for each shape; MRTD is computed once in both page orders.

    Args:
        image: the unified kernel image.
        init_data: SHA-256 of the init-data, which the host gives as MRCONFIGID, zeros behind it.

    Raises:
        Unsupported: a firmware that is no TDVF or extends no register, an image without the guest driver, or one
            whose effect on a register is not known.
        Malformed: firmware or image breaks its format.
        Misuse: a shape with other names.
    """
    orders = [page_order(shape) for shape in shapes]
    uki = uki_format.parse(image)
    attestable.check_uki(uki, PLATFORM)
    check_firmware(firmware)
    mrtd = tdx.mrtd(ovmf.parse(firmware))
    by_order = {"one-pass": mrtd.one_pass, "two-pass": mrtd.two_pass}
    events = boot_events(uki)
    registers = replay(events, _REGISTERS, Algorithm.SHA384)
    config = b"" if init_data is None else init_data.value
    fixed = {"quote.body.mr_config_id": hostdata.fitted(config, hostdata.MRCONFIGID_BYTES).hex()}
    fixed |= {f"quote.body.rtmr_{number}": registers[number].hex for number in range(1, _REGISTERS)}
    measured, firmware_digest = Digest.of(image), Digest.of(firmware)
    return tuple(
        Measurement(
            platform=PLATFORM,
            evidence_kind=EVIDENCE_KIND,
            image=measured,
            firmware=firmware_digest,
            shape=shape.values,
            values=tuple(sorted((fixed | {"quote.body.mr_td": by_order[order].hex}).items())),
            waived=WAIVED,
            events=events,
            calculator=calculator,
        )
        for shape, order in zip(shapes, orders, strict=True)
    )


def page_order(shape: LaunchShape) -> str:
    """Return the page order of ``shape``.

    Raises:
        Misuse: a name is missing or unknown. Unsupported: another VMM or order.
    """
    values = dict(shape.values)
    if sorted(values) != sorted(SHAPE_NAMES):
        raise Misuse(
            f"launch shape of {PLATFORM}: want {', '.join(SHAPE_NAMES)}, got {', '.join(sorted(values))}",
            code="shape.names",
        )
    for name, known in (("vmm", ("qemu",)), ("page_order", PAGE_ORDERS)):
        if values[name] not in known:
            raise Unsupported("launch shape", at=name, want=" or ".join(known), got=str(values[name]))
    return str(values["page_order"])


def check_firmware(firmware: bytes) -> None:
    """Check that ``firmware`` extends the registers: metadata alone says how it is loaded, not what it does.

    AmdSevX64 has TDVF metadata and no such driver: a TD under it would show zeros whatever kernel it started.

    Raises:
        Unsupported: it has no TdTcg2Dxe (``measure.firmware-extends-nothing``). Malformed: no firmware image.
    """
    if TD_TCG2 not in volumes.modules(firmware):
        raise Unsupported(
            "firmware",
            at="DXE volume",
            want=f"TdTcg2Dxe ({TD_TCG2}), which extends the runtime registers",
            got="no such driver",
            code="measure.firmware-extends-nothing",
        )


def boot_events(uki: Uki) -> tuple[Event, ...]:
    """Return what is extended into RTMR1 and RTMR2, in order, when no command line is given from outside.

    Raises:
        Unsupported: a stub or a section whose effect is not known.
    """
    order = known_sections(uki)
    if any(_CC_MEASUREMENT_PROTOCOL.bytes_le in content for content in _stub(uki)):
        raise Unsupported(
            "UKI",
            at="stub",
            want="one that measures into a TPM alone",
            got="one that also extends runtime registers, in an order that is not known",
            code="uki.stub-version",
        )
    events = [
        _event(1, pe.authenticode(uki.image, Algorithm.SHA384), "the UKI, Authenticode"),
        _action("Calling EFI Application from Boot Option"),
        _event(1, Digest.of(bytes(4), Algorithm.SHA384), "EV_SEPARATOR"),
        _event(
            1, pe.authenticode(pe.parse(uki.sections[".linux"]), Algorithm.SHA384), ".linux, Authenticode"
        ),
        _action("Exit Boot Services Invocation"),
        _action("Exit Boot Services Returned with Success"),
        _event(
            2,
            Digest.of((command_line(uki) + "\0").encode("utf-16-le"), Algorithm.SHA384),
            "EV_EVENT_TAG: LOADED_IMAGE::LoadOptions, .cmdline as UTF-16 with NUL",
        ),
    ]
    if ".initrd" in order:
        initrd = Digest.of(uki.sections[".initrd"], Algorithm.SHA384)  # type: ignore[arg-type]  # a view
        events.append(_event(2, initrd, "EV_EVENT_TAG: Linux initrd"))
    return tuple(events)


def _stub(uki: Uki) -> list[bytes]:
    """Return the stub's own code and data; the kernel knows the protocol, and what it does with it is known."""
    return [bytes(content) for name, content in uki.sections.items() if name not in (".linux", ".initrd")]


def _action(text: str) -> Event:
    return _event(1, Digest.of(text.encode(), Algorithm.SHA384), f"EV_EFI_ACTION: {text}")


def _event(register: int, digest: Digest, what: str) -> Event:
    return Event(register=register, digest=digest, what=what)
