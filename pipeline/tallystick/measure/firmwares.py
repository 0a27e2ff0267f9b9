"""The OVMF builds whose first measurements we can compute, and what each of them measures of itself.

A firmware that is not in the table is unsupported: PCR 0 depends on code that runs before it is measured, so
a digest of an unknown build would be plausible and worthless. Adding one takes boots (docs/decisions/0011).
"""

from __future__ import annotations

import re
import struct
import uuid
from dataclasses import dataclass

from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, Unsupported
from tallystick.formats.firmware import files

_WHAT = "firmware"
_MIB, _GIB = 1 << 20, 1 << 30
MIN_RAM_MIB, MAX_RAM_MIB, MAX_VCPUS = 128, 512 * 1024, 64
PLATFORM_PEI = uuid.UUID("222c386d-5abc-4fb4-b124-fbb82488acf4")  # OvmfPkg/PlatformPei/PlatformPei.inf

# QEMU 7.2, hw/i386/pc_q35.c, pc_q35_init: where RAM is split around the PCI hole.
_SPLIT_FROM, _SPLIT_AT = 0xB0000000, 0x80000000

# EFI_HOB_PLATFORM_INFO, edk2-stable202211, OvmfPkg/Include/Library/PlatformInitLib.h, #pragma pack(1).
_HOB_HEADER_BYTES = 24  # EFI_HOB_GUID_TYPE, still zero when the firmware measures it
_PLATFORM_INFO = struct.Struct("<HQBIBBBHQBIIBQQQIIQQQIIIII")
_Q35 = 0x29C0  # INTEL_Q35_MCH_DEVICE_ID
_ADDRESS_BITS = 40  # what QEMU's emulator reports for every CPU model; not taken from the host
_PCI_EXPRESS_BASE = 0xB0000000  # PcdPciExpressBaseAddress
_MMIO64_BYTES = 32 * _GIB  # PcdPciMmio64Size
_DEFAULT_MAX_CPUS = 64  # PcdCpuMaxLogicalProcessorNumber
_S3_BASE_BYTES, _AP_STACK_BYTES = 512 << 10, 0x8000  # SIZE_512KB and PcdCpuApStackSize


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareModel:
    """One known build."""

    name: str
    digest: Digest  # sha256 of the file
    crtm_version: bytes  # data of EV_S_CRTM_VERSION
    globals_after: bytes  # what other globals hold that lie right after the platform information


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The launch shape as far as this firmware's measurements depend on it."""

    ram_mib: int
    vcpus: int

    def __post_init__(self) -> None:
        _check_range("ram_mib", self.ram_mib, MIN_RAM_MIB, MAX_RAM_MIB)
        _check_range("vcpus", self.vcpus, 1, MAX_VCPUS)


_MODELS = (
    FirmwareModel(
        name="Debian ovmf 2022.11-6+deb12u2, usr/share/ovmf/OVMF.fd",
        digest=Digest.parse("sha256:7b456907dd0786d415999e801a1ac4637b8ed4d7cf5378cfc6edbe5e574dd773"),
        crtm_version=b"\0\0",  # PcdFirmwareVersionString is empty
        # QemuFwCfgPeiLib: mQemuFwCfgSupported and mQemuFwCfgDmaSupported, both TRUE
        globals_after=b"\1\1",
    ),
)


def known(image: bytes) -> FirmwareModel:
    """Return the model of the firmware file ``image``.

    Raises:
        Unsupported: not in the table.
    """
    digest = Digest.of(image)
    for model in _MODELS:
        if model.digest == digest:
            return model
    raise Unsupported(
        _WHAT,
        at="sha256",
        want="one of " + ", ".join(f"{model.digest.hex} ({model.name})" for model in _MODELS),
        got=digest.hex,
        code="firmware.unknown",
    )


def pei_volume_as_measured(pei: memoryview, model: FirmwareModel, machine: Machine) -> bytes:
    """Return PEIFV as it lies in memory when the firmware measures it.

    PEI modules run in place, and PlatformPei has filled its global ``mPlatformInfoHob`` by then, so the
    measured bytes depend on how much RAM and how many CPUs the host gave.

    Raises:
        Unsupported: the global is not where code that uses it says, or holds something before it is filled.
    """
    at = platform_info_offset(pei)
    filled = filled_platform_info(model, machine)
    if any(pei[at : at + len(filled)]):
        raise Unsupported(_WHAT, at=f"mPlatformInfoHob at offset {at}", want="zeros", got="other bytes")
    measured = bytearray(pei)
    measured[at : at + len(filled)] = filled
    return bytes(measured)


def filled_platform_info(model: FirmwareModel, machine: Machine) -> bytes:
    """Return what lies at :func:`platform_info_offset` when the firmware measures PEIFV on ``machine``."""
    return _platform_info(machine) + model.globals_after


def platform_info_offset(pei: memoryview) -> int:
    """Return where in PEIFV the fields of ``mPlatformInfoHob`` begin.

    Found from the code, not from a constant: PlatformPei hands the whole structure to BuildGuidDataHob, which
    compiles to ``mov r8d, sizeof``, then ``lea rdx, [rip + distance]``.

    Raises:
        Unsupported: no PlatformPei, or not one such place in it.
    """
    size = _HOB_HEADER_BYTES + _PLATFORM_INFO.size
    pattern = re.compile(
        rb"\x41\xb8" + re.escape(size.to_bytes(4, "little")) + rb"\x48\x8d\x15(....)", re.DOTALL
    )
    places = []
    for file in files(pei):
        if file.guid != PLATFORM_PEI:
            continue
        for match in pattern.finditer(file.content):
            at = match.end() + int.from_bytes(match[1], "little", signed=True)
            if 0 <= at <= len(file.content) - size:
                places.append(file.offset + at + _HOB_HEADER_BYTES)
    if len(places) != 1:
        raise Unsupported(
            _WHAT, at="uses of mPlatformInfoHob in PlatformPei", want="one", got=f"{len(places)}"
        )
    return places[0]


def _platform_info(machine: Machine) -> bytes:
    """Return EFI_HOB_PLATFORM_INFO without its HOB header, as PlatformPei fills it on QEMU's q35.

    Source: edk2-stable202211, OvmfPkg/PlatformPei/{Platform,MemDetect}.c and
    OvmfPkg/Library/PlatformInitLib/{MemDetect,Platform}.c.
    """
    ram = machine.ram_mib * _MIB
    low = ram if ram < _SPLIT_FROM else _SPLIT_AT
    first_mmio64 = _aligned(4 * _GIB + (ram - low), _MMIO64_BYTES)  # PlatformGetFirstNonAddress
    window = 1 << (_ADDRESS_BITS - 3)  # PlatformDynamicMmioWindow
    s3_bytes = _S3_BASE_BYTES + machine.vcpus * _AP_STACK_BYTES  # PublishPeiMemory
    return _PLATFORM_INFO.pack(
        _Q35,  # HostBridgeDevId
        0,  # PcdConfidentialComputingGuestAttr
        0,  # SevEsIsEnabled
        0,  # BootMode: BOOT_WITH_FULL_CONFIGURATION
        1,  # S3Supported
        0,  # SmmSmramRequire
        0,  # Q35SmramAtDefaultSmbase
        0,  # Q35TsegMbytes
        first_mmio64 + _MMIO64_BYTES,  # FirstNonAddress
        _ADDRESS_BITS,  # PhysMemAddressWidth
        _SPLIT_AT if low <= _SPLIT_AT else _PCI_EXPRESS_BASE,  # Uc32Base
        0,  # Uc32Size
        0,  # PcdSetNxForStack
        0,  # PcdTdxSharedBitMask
        (1 << _ADDRESS_BITS) - window,  # PcdPciMmio64Base
        window,  # PcdPciMmio64Size
        0xC0000000,  # PcdPciMmio32Base: the PCI Express window's end
        0x3C000000,  # PcdPciMmio32Size: up to the I/O APIC
        0x6000,  # PcdPciIoBase
        0xA000,  # PcdPciIoSize
        0,  # PcdEmuVariableNvStoreReserved
        machine.vcpus,  # PcdCpuBootLogicalProcessorNumber
        machine.vcpus,  # PcdCpuMaxLogicalProcessorNumber: no CPU can be added later
        _DEFAULT_MAX_CPUS,  # DefaultMaxCpuNumber
        low - s3_bytes,  # S3AcpiReservedMemoryBase
        s3_bytes,  # S3AcpiReservedMemorySize
    )


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise Misuse(
            f"launch shape: {name}: want {least} to {most}, got {value}",
            code=f"shape.{name.replace('_', '-')}",
        )


def _aligned(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
