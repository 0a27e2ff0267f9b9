"""Intel TDX: MRTD from a TDVF firmware, and the runtime registers RTMR0-3 of a direct kernel boot.

Source: Intel TDX Module ABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND (MRTD), TDG.MR.RTMR.EXTEND (RTMR); Intel TDX Virtual
Firmware Design Guide, section 8 (which event goes to which register); edk2 OvmfPkg PlatformInitLib for the TD HOB.
RTMR0 and RTMR1 depend on how the virtual machine is shaped, so their host-side inputs are arguments.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats.ovmf import PAGE_BYTES, Firmware, TdxSection
from tallystick.formats.pe import authenticode, parse

_EXTEND = struct.Struct("<16sQ104x")
_CHUNK_BYTES = 256  # TDH.MR.EXTEND measures a page 256 bytes at a time
_LOW_MEMORY_LIMIT = 0xB0000000  # QEMU q35: with this much RAM or more, the part above 2 GiB moves to 4 GiB
_LOW_MEMORY_SPLIT = 0x80000000
_FOUR_GIB = 1 << 32
_EFI_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_EFI_DATABASE = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
_MAX_MEMORY_BYTES = 1 << 46


@dataclass(frozen=True, slots=True, kw_only=True)
class Mrtd:
    """MRTD in the two orders that virtual machine monitors add and extend pages in.

    ``one_pass``: each page is extended right after it is added (upstream KVM). ``two_pass``: all pages of a section
    are added before any is extended (Ubuntu's QEMU 8.2 and others). Which one a machine shows says who started it.
    """

    one_pass: Digest
    two_pass: Digest


def mrtd(firmware: Firmware) -> Mrtd:
    """Return the MRTD of a TD started from ``firmware``, in both page orders.

    Raises:
        Unsupported: the firmware is no TDVF: it has no metadata that says what is measured.
    """
    one, two = hashlib.sha384(), hashlib.sha384()
    for section in firmware.tdx_sections():
        if section.augmented:
            continue
        extends: list[bytes] = []
        view = contents(firmware, section)
        for offset in range(0, section.memory_bytes, PAGE_BYTES):
            add = _block(b"MEM.PAGE.ADD", section.gpa + offset)
            one.update(add)
            two.update(add)
            if section.extended:
                extends.append(_extend_blocks(section.gpa + offset, view, offset))
                one.update(extends[-1])
        for page in extends:  # the second order: after every page of the section was added
            two.update(page)
    return Mrtd(
        one_pass=Digest(Algorithm.SHA384, one.digest()), two_pass=Digest(Algorithm.SHA384, two.digest())
    )


def contents(firmware: Firmware, section: TdxSection) -> memoryview:
    """Return the section's bytes in memory: what the file gives, and zeros after it."""
    view = memoryview(firmware.data)[section.data_offset : section.data_offset + section.raw_bytes]
    if not section.extended or section.raw_bytes == section.memory_bytes:
        return view
    return memoryview(bytes(view).ljust(section.memory_bytes, b"\0"))


def _block(name: bytes, gpa: int) -> bytes:
    """Return the 128-byte block that TDH.MEM.PAGE.ADD and TDH.MR.EXTEND measure before any contents."""
    return _EXTEND.pack(name, gpa)


def _extend_blocks(gpa: int, contents: memoryview, offset: int) -> bytes:
    """Return what TDH.MR.EXTEND measures of one page: each chunk behind its block."""
    parts: list[bytes | memoryview] = []
    for chunk in range(0, PAGE_BYTES, _CHUNK_BYTES):
        parts.append(_EXTEND.pack(b"MR.EXTEND", gpa + chunk))
        parts.append(contents[offset + chunk : offset + chunk + _CHUNK_BYTES])
    return b"".join(parts)


def replay(events: Iterable[bytes]) -> Digest:
    """Return the register after extending it by each SHA-384 digest in turn (TDG.MR.RTMR.EXTEND)."""
    register = bytes(Algorithm.SHA384.size_bytes)
    for event in events:
        if len(event) != Algorithm.SHA384.size_bytes:
            raise Malformed("RTMR event", at="digest", want="48 bytes", got=f"{len(event)}")
        register = hashlib.sha384(register + event).digest()
    return Digest(Algorithm.SHA384, register)


def _sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


_SEPARATOR = _sha384(bytes(4))
_CALLING_APPLICATION = _sha384(b"Calling EFI Application from Boot Option")
_EXIT_INVOKED = _sha384(b"Exit Boot Services Invocation")
_EXIT_DONE = _sha384(b"Exit Boot Services Returned with Success")


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The host-side inputs of RTMR0 that no image determines: Reference Values of the platform."""

    td_hob: bytes  # SHA-384 of the TD HOB list; see td_hob() for the layout QEMU gives it
    configuration_volume: bytes  # SHA-384 of the firmware's CFV
    acpi_loader: bytes  # SHA-384 of etc/table-loader, etc/acpi/rsdp and etc/acpi/tables as QEMU makes them
    acpi_rsdp: bytes
    acpi_tables: bytes
    boot_option: bytes  # SHA-384 of Boot0000's data


# EFI_LOAD_OPTION of the boot option that OVMF makes for itself: ACTIVE | CATEGORY_APP | HIDDEN, "UiApp", and the path
# FvFile(462caa21-7614-4503-836e-8ab6f4662331) in the firmware volume DXEFV.
_UI_APP_PATH = bytes.fromhex(
    "04071400c9bdb87cebf8344faaea3ee4af6516a10406140021aa2c4614760345836e8ab6f46623317fff0400"
)
_UI_APP = struct.pack("<IH", 0x109, len(_UI_APP_PATH)) + "UiApp\0".encode("utf-16-le") + _UI_APP_PATH
_TD_HOB, _TEMPORARY_MEMORY, _CONFIGURATION = 2, 3, 1  # TDVF section types


def platform(
    firmware: Firmware, *, memory_bytes: int, acpi_loader: bytes, acpi_rsdp: bytes, acpi_tables: bytes
) -> Platform:
    """Return RTMR0's inputs for ``firmware`` on a machine with this much memory and these ACPI tables.

    The ACPI digests depend on QEMU's version and the devices: take them from an event log of that platform.

    Raises:
        Unsupported: a firmware without a TD HOB or a configuration volume.
    """
    sections = firmware.tdx_sections()
    hob = next((s for s in sections if s.kind == _TD_HOB), None)
    volume = next((s for s in sections if s.kind == _CONFIGURATION), None)
    if hob is None or volume is None:
        raise Unsupported("firmware", at="TDVF metadata", want="a TD_HOB and a CFV section", got="none")
    accepted = [(s.gpa, s.memory_bytes) for s in sections if s.kind in (_TD_HOB, _TEMPORARY_MEMORY)]
    contents = firmware.data[volume.data_offset : volume.data_offset + volume.raw_bytes]
    return Platform(
        td_hob=td_hob(memory_bytes, accepted, hob.gpa),
        configuration_volume=_sha384(contents),
        acpi_loader=acpi_loader,
        acpi_rsdp=acpi_rsdp,
        acpi_tables=acpi_tables,
        boot_option=_sha384(_UI_APP),
    )


def rtmr0_events(platform: Platform) -> tuple[bytes, ...]:
    """Return the digests extended into RTMR0 by OVMF before edk2-stable202505 in a direct boot, in order."""
    variables = (
        _variable(_EFI_GLOBAL, "SecureBoot"),
        _variable(_EFI_GLOBAL, "PK"),
        _variable(_EFI_GLOBAL, "KEK"),
        _variable(_EFI_DATABASE, "db"),
        _variable(_EFI_DATABASE, "dbx"),
    )
    acpi = (platform.acpi_loader, platform.acpi_rsdp, platform.acpi_tables)
    boot_order = _sha384(b"\0\0")
    return (
        platform.td_hob,
        platform.configuration_volume,
        *variables,
        _SEPARATOR,
        *acpi,
        boot_order,
        platform.boot_option,
    )


def _variable(vendor: str, name: str) -> bytes:
    """SHA-384 of a UEFI_VARIABLE_DATA whose variable is empty (TCG PC Client PFP, 10.2.6)."""
    return _sha384(uuid.UUID(vendor).bytes_le + struct.pack("<QQ", len(name), 0) + name.encode("utf-16-le"))


_EVENT_NAMES = {  # of a direct kernel boot, in order
    0: (
        "TD HOB", "CFV", "SecureBoot", "PK", "KEK", "db", "dbx", "EV_SEPARATOR",
        "etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables", "BootOrder", "Boot0000",
    ),
    1: (
        "kernel, Authenticode", "Calling EFI Application from Boot Option", "EV_SEPARATOR",
        "Exit Boot Services Invocation", "Exit Boot Services Returned with Success",
    ),
    2: ("LOADED_IMAGE::LoadOptions", "Linux initrd"),
    3: (),
}  # fmt: skip


def event_names(register: int, count: int) -> tuple[str, ...]:
    """Return what the first ``count`` events of RTMR ``register`` are, in a direct kernel boot."""
    return _EVENT_NAMES[register][:count]


def rtmr1_events(kernel_authenticode: bytes) -> tuple[bytes, ...]:
    """Return the digests extended into RTMR1 when the firmware starts a kernel, in order.

    Args:
        kernel_authenticode: SHA-384 of the PE image as loaded, after QEMU's patches (patched_kernel).
    """
    return (kernel_authenticode, _CALLING_APPLICATION, _SEPARATOR, _EXIT_INVOKED, _EXIT_DONE)


def rtmr2_events(cmdline: str, initrd: bytes | None) -> tuple[bytes, ...]:
    """Return the digests that the kernel's EFI stub extends into RTMR2: its command line, then its initrd.

    OVMF appends `` initrd=initrd`` to the command line of a direct boot that has an initrd.
    """
    text = cmdline + " initrd=initrd" if initrd is not None else cmdline
    events = [_sha384((text + "\0").encode("utf-16-le"))]
    return tuple(events if initrd is None else [*events, _sha384(initrd)])


def rtmr3_event(kind: int, name: str, payload: bytes) -> bytes:
    """Return the digest of a runtime event as dstack writes it: ``u32 type ':' name ':' payload``."""
    return _sha384(struct.pack("<I", kind) + b":" + name.encode() + b":" + payload)


def kernel_authenticode(kernel: bytes, *, initrd_bytes: int, memory_bytes: int) -> bytes:
    """Return the SHA-384 that OVMF measures for a kernel that QEMU boots directly."""
    patched = patched_kernel(kernel, initrd_bytes=initrd_bytes, memory_bytes=memory_bytes)
    return authenticode(parse(patched), Algorithm.SHA384).value


def patched_kernel(kernel: bytes, *, initrd_bytes: int, memory_bytes: int) -> bytes:
    """Return the kernel after QEMU has written its setup header (hw/i386/x86.c, x86_load_linux).

    Source: Linux Documentation/arch/x86/boot.rst, the setup header's fields and offsets.

    Args:
        initrd_bytes: size of the initrd; 0 when there is none.

    Raises:
        Malformed: not a Linux kernel with a setup header.
        Unsupported: a boot protocol before 2.06, or an initrd that does not fit.
    """
    if len(kernel) < 0x264 or kernel[0x202:0x206] != b"HdrS":
        raise Malformed("kernel", at="setup header at 0x202", want="HdrS", got=kernel[0x202:0x206].hex())
    protocol = int.from_bytes(kernel[0x206:0x208], "little")
    if protocol < 0x206:
        raise Unsupported("kernel", at="boot protocol at 0x206", want="2.06 or later", got=f"{protocol:#x}")
    patched = bytearray(kernel)
    real_mode, cmdline = 0x10000, 0x20000
    patched[0x210] = 0xB0  # type_of_loader: QEMU
    patched[0x211] |= 0x80  # loadflags: CAN_USE_HEAP
    struct.pack_into("<H", patched, 0x224, cmdline - real_mode - 0x200)  # heap_end_ptr
    struct.pack_into("<I", patched, 0x228, cmdline)  # cmd_line_ptr
    if initrd_bytes:
        above_4g = protocol >= 0x20C and kernel[0x236] & 0b10
        limit = 0xFFFFFFFF if above_4g else int.from_bytes(kernel[0x22C:0x230], "little")
        below = _LOW_MEMORY_SPLIT if memory_bytes >= _LOW_MEMORY_LIMIT else memory_bytes
        acpi_bytes = 0x20000 + 0x8000
        limit = min(limit, below - acpi_bytes - 1)
        if initrd_bytes > limit:
            raise Unsupported("kernel", at="initrd", want=f"at most {limit} bytes", got=f"{initrd_bytes}")
        struct.pack_into("<II", patched, 0x218, (limit - initrd_bytes) & ~0xFFF, initrd_bytes)
    return bytes(patched)


def td_hob(memory_bytes: int, accepted: Iterable[tuple[int, int]], hob_address: int) -> bytes:
    """Return the SHA-384 of the TD HOB list that QEMU hands to the firmware.

    Source: QEMU target/i386/kvm/tdx.c and hw/i386/tdvf-hob.c; UEFI PI 1.7 volume 3 for the HOBs.

    Args:
        memory_bytes: RAM of the TD.
        accepted: (address, size) of the TDVF's TD_HOB and TempMem sections, which the firmware finds accepted.
        hob_address: where the TD_HOB section lies.

    Raises:
        Malformed: sizes that no machine has.
    """
    if not PAGE_BYTES <= memory_bytes <= _MAX_MEMORY_BYTES:
        raise Malformed("launch shape", at="memory", want="4 KiB to 64 TiB", got=str(memory_bytes))
    ranges = _split(memory_bytes, accepted)
    hobs = bytearray(struct.pack("<HHIII5Q", 1, 56, 0, 9, 0, *[0] * 5))  # EFI_HOB_HANDOFF_INFO_TABLE

    def resource(kind: int, start: int, size: int) -> None:  # EFI_HOB_RESOURCE_DESCRIPTOR
        hobs.extend(struct.pack("<HHI16sIIQQ", 3, 48, 0, bytes(16), kind, 7, start, size))

    for is_accepted, start, end in ranges[:-1]:
        resource(0 if is_accepted else 7, start, end - start)  # system memory, or unaccepted memory
    _, start, end = ranges[-1]
    if memory_bytes >= _LOW_MEMORY_LIMIT:
        if start < _LOW_MEMORY_SPLIT:
            resource(7, start, _LOW_MEMORY_SPLIT - start)
        if end > _LOW_MEMORY_SPLIT:
            resource(7, _FOUR_GIB, end - _LOW_MEMORY_SPLIT)
    else:
        resource(7, start, end - start)
    struct.pack_into("<Q", hobs, 48, hob_address + len(hobs) + 8)  # EfiEndOfHobList, after the end HOB
    return _sha384(bytes(hobs))


def _split(memory_bytes: int, accepted: Iterable[tuple[int, int]]) -> list[tuple[bool, int, int]]:
    """Cut accepted ranges out of RAM; return (accepted, start, end) in address order."""
    ranges = [(False, 0, memory_bytes)]
    for start, size in accepted:
        end = start + size
        cut: list[tuple[bool, int, int]] = [(True, start, end)]
        for is_accepted, low, high in ranges:
            if is_accepted or high <= start or low >= end:
                cut.append((is_accepted, low, high))
                continue
            if low < start:
                cut.append((False, low, start))
            if high > end:
                cut.append((False, end, high))
        ranges = sorted(cut, key=lambda r: r[1])
    return ranges
