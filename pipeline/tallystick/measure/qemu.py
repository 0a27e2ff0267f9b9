"""Every PCR of ``qemu -bios OVMF.fd -kernel uki.efi`` with a TPM, predicted from files and the launch shape.

The events stand in the order in which a boot extends them, so that a test can replay them into a TPM. What
does not change any register, and what does: docs/decisions/0012-measured-boot-facts.md.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Misuse, Unsupported
from tallystick.formats import firmware as firmware_format
from tallystick.formats import uki as uki_format
from tallystick.formats.firmware import Firmware
from tallystick.measure.firmwares import FirmwareModel, Machine, known, pei_volume_as_measured
from tallystick.measure.nitro_tpm import GLOBAL_VARIABLE, SECURITY_DATABASE, variable_data
from tallystick.measure.records import Event, Measurement, WaivedRegister
from tallystick.measure.registers import extend, initial, replay
from tallystick.measure.shapes import LaunchShape
from tallystick.measure.uki import CALLING, SEPARATOR, ImageEvents, image_events

PLATFORM, EVIDENCE_KIND, VMM = "qemu-vtpm", "tpm-quote", "qemu"
INIT_DATA_PCR, IMA_PCR = 8, 10
SHAPE_NAMES = ("ram_mib", "vcpus", "vmm")

# PCR 10 also takes whatever the running guest's IMA policy measures, so no boot determines it alone.
WAIVED = (
    WaivedRegister(
        name="pcr10",
        decision="docs/decisions/0010-pcr-10.md",
        decided_by="the Tallystick developers",
        until=datetime(2028, 1, 1, tzinfo=UTC),
    ),
)

# EFI_LOAD_OPTION of the firmware's own menu, the only boot option of a machine that is started with -kernel:
# ACTIVE | CATEGORY_APP | HIDDEN, "UiApp", FvFile(462caa21-7614-4503-836e-8ab6f4662331) in DXEFV.
_UI_APP_PATH = bytes.fromhex(
    "04071400c9bdb87cebf8344faaea3ee4af6516a10406140021aa2c4614760345836e8ab6f46623317fff0400"
)
_UI_APP = struct.pack("<IH", 0x109, len(_UI_APP_PATH)) + "UiApp\0".encode("utf-16-le") + _UI_APP_PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredFirmware:
    """A known firmware, unpacked once for any number of launch shapes."""

    model: FirmwareModel
    volumes: Firmware
    dxe_digest: Digest

    @classmethod
    def of(cls, image: bytes) -> MeasuredFirmware:
        """Return the firmware file ``image``, ready to be measured.

        Raises:
            Malformed, Unsupported: not a firmware image, or one that is not known.
        """
        model = known(image)
        volumes = firmware_format.parse(image)
        dxe = Digest(Algorithm.SHA256, hashlib.sha256(volumes.dxe).digest())
        return cls(model=model, volumes=volumes, dxe_digest=dxe)


def machine(shape: LaunchShape) -> Machine:
    """Return what ``shape`` says of the machine.

    Raises:
        Misuse: a name is missing or unknown, or a number is not one this platform can have.
        Unsupported: another VMM.
    """
    values: Mapping[str, int | str] = dict(shape.values)
    if sorted(values) != sorted(SHAPE_NAMES):
        raise Misuse(
            f"launch shape of {PLATFORM}: want {', '.join(SHAPE_NAMES)}, got {', '.join(sorted(values))}",
            code="shape.names",
        )
    if values["vmm"] != VMM:
        raise Unsupported("launch shape", at="vmm", want=VMM, got=str(values["vmm"]))
    ram, vcpus = values["ram_mib"], values["vcpus"]
    if type(ram) is not int or type(vcpus) is not int:
        raise Misuse(f"launch shape of {PLATFORM}: ram_mib and vcpus are whole numbers", code="shape.type")
    return Machine(ram_mib=ram, vcpus=vcpus)


def boot_events(
    image: ImageEvents, firmware: MeasuredFirmware, machine: Machine, init_data: Digest | None
) -> tuple[Event, ...]:
    """Return every event of a boot, in its order.

    Args:
        init_data: SHA-256 of the init-data document that the guest extends before it asks for keys.
    """
    before = (
        *_firmware_events(firmware, machine),
        *_secure_boot_events(),
        image.loaded,
        *_boot_option_events(),
        CALLING,
        *(Event(register=number, digest=SEPARATOR, what="EV_SEPARATOR") for number in range(7)),
        *image.sections,
        image.kernel,
        *image.options,
        _event(5, b"Exit Boot Services Invocation", "EV_EFI_ACTION: Exit Boot Services Invocation"),
        _event(
            5,
            b"Exit Boot Services Returned with Success",
            "EV_EFI_ACTION: Exit Boot Services Returned with Success",
        ),
    )
    events = (*before, _boot_aggregate(before))
    return events if init_data is None else (*events, init_data_event(init_data))


def init_data_event(digest: Digest) -> Event:
    """Return the extend by which the guest binds its init-data: ``PCR 8 = SHA-256(0^32 || digest)``."""
    return Event(register=INIT_DATA_PCR, digest=digest, what="init-data: SHA-256 of the document")


def pcr_claims(events: tuple[Event, ...]) -> tuple[tuple[str, str], ...]:
    """Return the registers after ``events`` as claims: ``pcr00`` and so on, sorted."""
    return tuple((f"pcr{number:02}", value.hex) for number, value in sorted(replay(events).items()))


def measure(
    image: bytes,
    firmware: bytes,
    shapes: Sequence[LaunchShape],
    init_data: Digest | None,
    calculator: str,
) -> tuple[Measurement, ...]:
    """Return one tuple for each shape of the unified kernel image ``image`` under ``firmware``.

    Raises:
        Misuse: a shape with other names. Malformed, Unsupported: as :func:`machine`, and for what is not known.
    """
    for shape in shapes:
        machine(shape)
    events = image_events(uki_format.parse(image))
    measured, digest = MeasuredFirmware.of(firmware), Digest.of(image)
    return tuple(measurement(events, digest, measured, shape, init_data, calculator) for shape in shapes)


def measurement(
    image: ImageEvents,
    image_digest: Digest,
    firmware: MeasuredFirmware,
    shape: LaunchShape,
    init_data: Digest | None,
    calculator: str,
) -> Measurement:
    """Return the release tuple of one image on one shape. PCR 10 is not in it: it is waived by name."""
    events = boot_events(image, firmware, machine(shape), init_data)
    waived = {register.name for register in WAIVED}
    return Measurement(
        platform=PLATFORM,
        evidence_kind=EVIDENCE_KIND,
        image=image_digest,
        firmware=firmware.model.digest,
        shape=shape.values,
        values=tuple((name, value) for name, value in pcr_claims(events) if name not in waived),
        waived=WAIVED,
        events=events,
        calculator=calculator,
    )


def _firmware_events(firmware: MeasuredFirmware, machine: Machine) -> tuple[Event, ...]:
    pei = pei_volume_as_measured(firmware.volumes.pei, firmware.model, machine)
    return (
        _event(0, firmware.model.crtm_version, "EV_S_CRTM_VERSION"),
        _event(
            0,
            pei,
            "EV_EFI_PLATFORM_FIRMWARE_BLOB: PEIFV as it runs"
            f" (ram_mib {machine.ram_mib}, vcpus {machine.vcpus})",
        ),
        Event(register=0, digest=firmware.dxe_digest, what="EV_EFI_PLATFORM_FIRMWARE_BLOB: DXEFV"),
    )


def _secure_boot_events() -> tuple[Event, ...]:
    """Return PCR 7 of a firmware without Secure Boot; its separator comes before any application."""
    variables = (
        (GLOBAL_VARIABLE, "SecureBoot", b"\0"),
        (GLOBAL_VARIABLE, "PK", b""),
        (GLOBAL_VARIABLE, "KEK", b""),
        (SECURITY_DATABASE, "db", b""),
        (SECURITY_DATABASE, "dbx", b""),
    )
    return (
        *(
            _event(7, variable_data(*variable), f"EV_EFI_VARIABLE_DRIVER_CONFIG: {variable[1]}")
            for variable in variables
        ),
        Event(register=7, digest=SEPARATOR, what="EV_SEPARATOR"),
    )


def _boot_option_events() -> tuple[Event, ...]:
    """Return PCR 1. Only the variables' data is hashed here, unlike in PCR 7."""
    return (
        _event(1, b"\0\0", "EV_EFI_VARIABLE_BOOT: BootOrder"),
        _event(1, _UI_APP, "EV_EFI_VARIABLE_BOOT: Boot0000, UiApp"),
    )


def _boot_aggregate(events: tuple[Event, ...]) -> Event:
    """Return what Linux's IMA extends first: the template ``ima-sig`` over PCR 0 to 9.

    Source: Linux 6.12, security/integrity/ima/ima_crypto.c, ima_calc_boot_aggregate_tfm; ima_template.c.
    """
    registers = dict.fromkeys(range(10), initial())
    for event in events:
        if event.register in registers:
            registers[event.register] = extend(registers[event.register], event.digest)
    aggregate = Digest.of(b"".join(registers[number].value for number in range(10)))
    digest, name = b"sha256:\0" + aggregate.value, b"boot_aggregate\0"
    entry = b"".join(struct.pack("<I", len(field)) + field for field in (digest, name, b""))
    return _event(IMA_PCR, entry, "IMA: boot_aggregate over PCR 0 to 9")


def _event(register: int, data: bytes, what: str) -> Event:
    return Event(register=register, digest=Digest.of(data), what=what)
