"""AMD SEV-SNP: the launch digest (MEASUREMENT) of a guest, from its firmware, kernel hashes and launch shape.

Source: AMD 56860 (SEV-SNP Firmware ABI) §8.17.2 PAGE_INFO, Table 67; AMD APM Vol. 2, Table B-4 (VMSA);
QEMU target/i386/sev.c for the order, the initial register state and the kernel-hashes table. Amazon EC2 and
Google Compute Engine start vCPUs from other registers; both are recorded in virtee/sev-snp-measure, whose
digests were measured on hardware.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from tallystick.core import guid
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Misuse, Unsupported
from tallystick.formats.ovmf import (
    PAGE_BYTES,
    SEV_ES_RESET_BLOCK,
    SEV_HASH_TABLE,
    SVSM_INFO,
    Firmware,
    SevRange,
    SevSection,
)

_DIGEST_BYTES = 48
_ZEROS = bytes(_DIGEST_BYTES)
_PAGE_INFO_TAIL = struct.Struct("<HBBIQ")  # of PAGE_INFO: its length, type, IMI, VMPL permissions, GPA
_VMSA_GPA = 0xFFFFFFFFF000  # AMD 56860: the VMSA is measured at GPA -1, cut to 52 bits and page-aligned
_BSP_EIP = 0xFFFFFFF0  # the x86 reset vector
MAX_VCPUS = 512


class Vmm(Enum):
    """Who starts the guest: the initial registers, and so the digest, depend on it."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


class _Page(Enum):
    """PAGE_TYPE of PAGE_INFO (AMD 56860, Table 68)."""

    NORMAL = 1
    VMSA = 2
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6


def _signature(family: int, model: int, stepping: int) -> int:
    """CPUID Fn0000_0001_EAX (AMD 25481)."""
    high, low = (family - 0xF, 0xF) if family > 0xF else (0, family)
    return high << 20 | (model >> 4) << 16 | low << 8 | (model & 0xF) << 4 | stepping


# QEMU's builtin_x86_defs (target/i386/cpu.c): family, model, stepping. The physical CPU does not matter.
_ZEN1, _ZEN2, _ZEN3 = _signature(23, 1, 2), _signature(23, 49, 0), _signature(25, 1, 1)
_ZEN4, _ZEN5 = _signature(25, 17, 0), _signature(26, 0, 0)
VCPU_TYPES = {
    **dict.fromkeys(("EPYC", "EPYC-v1", "EPYC-v2", "EPYC-IBPB", "EPYC-v3", "EPYC-v4", "EPYC-v5"), _ZEN1),
    **dict.fromkeys(("EPYC-Rome", *(f"EPYC-Rome-v{n}" for n in range(1, 6))), _ZEN2),
    **dict.fromkeys(("EPYC-Milan", *(f"EPYC-Milan-v{n}" for n in range(1, 4))), _ZEN3),
    **dict.fromkeys(("EPYC-Genoa", "EPYC-Genoa-v1", "EPYC-Genoa-v2"), _ZEN4),
    **dict.fromkeys(("EPYC-Turin", "EPYC-Turin-v1"), _ZEN5),
}


def vcpu_signature(name: str) -> int:
    """Return the CPUID signature of QEMU's vCPU type ``name``.

    Raises:
        Unsupported: not a type that SEV-SNP guests run on.
    """
    if name not in VCPU_TYPES:
        raise Unsupported("vCPU type", at="name", want="one of " + ", ".join(VCPU_TYPES), got=name)
    return VCPU_TYPES[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpShape:
    """The host-side inputs of an SNP launch digest."""

    vcpus: int
    vcpu_signature: int  # goes to RDX of every VMSA under QEMU; EC2 and GCE set 0x600 whatever it is
    guest_features: int  # SEV_FEATURES: bit 0 SNP active; hosts with Linux 6.10 or newer also set bit 5
    vmm: Vmm = Vmm.QEMU

    def __post_init__(self) -> None:
        if not 1 <= self.vcpus <= MAX_VCPUS:
            raise Malformed("launch shape", at="vcpus", want=f"1 to {MAX_VCPUS}", got=str(self.vcpus))
        if not 0 <= self.vcpu_signature < 1 << 32:
            raise Malformed("launch shape", at="vcpu signature", want="32 bits", got=hex(self.vcpu_signature))
        if not 0 <= self.guest_features < 1 << 64:
            raise Malformed("launch shape", at="guest features", want="64 bits", got=hex(self.guest_features))
        if not self.guest_features & 1:
            raise Malformed(
                "launch shape", at="guest features", want="bit 0 (SNP) set", got=hex(self.guest_features)
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelHashes:
    """SHA-256 of what QEMU boots directly (`-kernel -initrd -append`, `kernel-hashes=on`)."""

    kernel: bytes
    initrd: bytes  # of the empty string when there is none
    cmdline: bytes  # of the text and its terminating NUL

    @classmethod
    def of(cls, kernel: bytes, initrd: bytes, cmdline: str) -> KernelHashes:
        """Return the hashes of the given bytes."""
        digests = (hashlib.sha256(part).digest() for part in (kernel, initrd, cmdline.encode() + b"\0"))
        return cls(**dict(zip(("kernel", "initrd", "cmdline"), digests, strict=True)))

    def table(self) -> bytes:
        """Return QEMU's padded hash table (target/i386/sev.c, PaddedSevHashTable)."""
        entries = b"".join(
            guid.data(name) + struct.pack("<H", 50) + value
            for name, value in (
                ("97d02dd8-bd20-4c94-aa78-e7714d36ab2a", self.cmdline),
                ("44baf731-3a2f-4bd7-9af1-41e29169781d", self.initrd),
                ("4de79437-abd2-427f-b835-d5b172d2045b", self.kernel),
            )
        )
        header = guid.data("9438d606-4f22-4cc9-b479-a793d411fd21") + struct.pack("<H", 18 + len(entries))
        return (header + entries).ljust(176, b"\0")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchImage:
    """What of a firmware the digest depends on: enough to predict without the file itself."""

    firmware: bytes  # the digest after all firmware pages
    ranges: tuple[SevRange, ...]
    hash_table_gpa: int  # 0: the firmware has no place for kernel hashes
    ap_eip: int  # where the second and later vCPUs start


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of an explanation: what was measured where, and the digest after it."""

    what: str
    gpa: int
    pages: int
    digest: str


class _Launch:
    """A launch digest under way (the guest context of AMD 56860 §8.17.2)."""

    def __init__(self, digest: bytes = _ZEROS) -> None:
        self.digest = digest
        self.steps: list[Step] = []

    def page(self, kind: _Page, gpa: int, contents: bytes = _ZEROS) -> None:
        """Measure one page: PAGE_INFO is 0x70 bytes, and its hash is the next digest."""
        info = self.digest + contents + _PAGE_INFO_TAIL.pack(0x70, kind.value, 0, 0, gpa)
        self.digest = hashlib.sha384(info).digest()

    def pages(self, kind: _Page, gpa: int, size_bytes: int, what: str) -> None:
        """Measure ``size_bytes`` of pages whose contents do not count."""
        for offset in range(0, size_bytes, PAGE_BYTES):
            self.page(kind, gpa + offset)
        self.note(what, gpa, size_bytes // PAGE_BYTES)

    def bytes(self, gpa: int, data: bytes | memoryview, what: str) -> None:
        """Measure ``data`` as normal pages."""
        view = memoryview(data)
        sha384, tail, normal, digest = hashlib.sha384, _PAGE_INFO_TAIL.pack, _Page.NORMAL.value, self.digest
        for offset in range(0, len(view), PAGE_BYTES):  # page() written out: firmware has a thousand pages
            contents = sha384(view[offset : offset + PAGE_BYTES]).digest()
            digest = sha384(digest + contents + tail(0x70, normal, 0, 0, gpa + offset)).digest()
        self.digest = digest
        self.note(what, gpa, len(view) // PAGE_BYTES)

    def note(self, what: str, gpa: int, pages: int) -> None:
        """Write down the last step."""
        self.steps.append(Step(what=what, gpa=gpa, pages=pages, digest=self.digest.hex()))


def launch_image(firmware: Firmware) -> LaunchImage:
    """Return what the digest needs of ``firmware``; its pages are hashed once, here.

    Raises:
        Unsupported: the firmware says nothing about SEV: a digest of it would be plausible and meaningless.
    """
    ranges = firmware.sev_ranges()
    launch = _Launch()
    launch.bytes(firmware.gpa, firmware.data, "firmware")
    table = firmware.number(SEV_HASH_TABLE, "SEV_HASH_TABLE_RV") if SEV_HASH_TABLE in firmware.table else 0
    return LaunchImage(
        firmware=launch.digest,
        ranges=ranges,
        hash_table_gpa=table,
        ap_eip=firmware.number(SEV_ES_RESET_BLOCK, "SEV_ES_RESET_BLOCK"),
    )


def launch_digest(image: LaunchImage, shape: SnpShape, hashes: KernelHashes | None = None) -> Digest:
    """Return the MEASUREMENT that a report of this guest carries."""
    return next(launch_digests(image, [shape], hashes))


def launch_digests(
    image: LaunchImage, shapes: Iterable[SnpShape], hashes: KernelHashes | None = None
) -> Iterator[Digest]:
    """Return the MEASUREMENT of every shape, in order, sharing all work that shapes have in common.

    The firmware is a prefix of every digest, the metadata pages depend on the VMM alone, and n vCPUs are a
    prefix of n + 1: a matrix costs little more than its largest entry.

    Raises:
        Unsupported: kernel hashes are given and the firmware has no section for them.
    """
    before_vcpus: dict[Vmm, bytes] = {}
    chains: dict[tuple[Vmm, int, int], list[bytes]] = {}
    for shape in shapes:
        if shape.vmm not in before_vcpus:
            launch = _Launch(image.firmware)
            _measure_ranges(launch, image, shape.vmm, hashes)
            before_vcpus[shape.vmm] = launch.digest
        signature = shape.vcpu_signature if shape.vmm is Vmm.QEMU else 0
        chain = chains.setdefault((shape.vmm, signature, shape.guest_features), [before_vcpus[shape.vmm]])
        _extend_chain(chain, shape, image.ap_eip)
        yield Digest(Algorithm.SHA384, chain[shape.vcpus])


def digest_chain(
    image: LaunchImage, shape: SnpShape, hashes: KernelHashes | None = None
) -> tuple[bytes, ...]:
    """Return the MEASUREMENT with 1, 2, … vCPUs up to the shape's: all that is a prefix of it.

    Raises:
        Unsupported: as :func:`launch_digests`.
    """
    launch = _Launch(image.firmware)
    _measure_ranges(launch, image, shape.vmm, hashes)
    chain = [launch.digest]
    _extend_chain(chain, shape, image.ap_eip)
    return tuple(chain[1:])


def explain(
    firmware: Firmware, shape: SnpShape, hashes: KernelHashes | None = None
) -> tuple[Digest, tuple[Step, ...]]:
    """Return the MEASUREMENT and every step that led to it."""
    image = launch_image(firmware)
    launch = _Launch()
    launch.bytes(firmware.gpa, firmware.data, "firmware")
    _measure_ranges(launch, image, shape.vmm, hashes)
    for number in range(shape.vcpus):
        eip = _BSP_EIP if number == 0 else image.ap_eip
        launch.page(_Page.VMSA, _VMSA_GPA, hashlib.sha384(_vmsa(eip, shape)).digest())
        launch.note(f"VMSA of vCPU {number} (starts at {eip:#x})", _VMSA_GPA, 1)
    return Digest(Algorithm.SHA384, launch.digest), tuple(launch.steps)


def svsm_launch_digest(
    firmware: Firmware, svsm: Firmware, *, variables_bytes: int, vcpus: int, vcpu_signature: int
) -> Digest:
    """Return the MEASUREMENT of a guest under COCONUT-SVSM on QEMU; see :func:`explain_svsm`."""
    return explain_svsm(
        firmware, svsm, variables_bytes=variables_bytes, vcpus=vcpus, vcpu_signature=vcpu_signature
    )[0]


def explain_svsm(
    firmware: Firmware, svsm: Firmware, *, variables_bytes: int, vcpus: int, vcpu_signature: int
) -> tuple[Digest, tuple[Step, ...]]:
    """Return the MEASUREMENT of a guest under COCONUT-SVSM on QEMU, and every step that led to it.

    The SVSM lies directly below the firmware and its variable store; its metadata, not the firmware's, says what
    else is measured, and every vCPU starts in it.

    Args:
        variables_bytes: size of the OVMF_VARS file.

    Raises:
        Malformed: the variable store does not leave room for the SVSM.
    """
    shape = SnpShape(vcpus=vcpus, vcpu_signature=vcpu_signature, guest_features=1)
    svsm_gpa = firmware.gpa - variables_bytes - len(svsm.data)
    if variables_bytes < 0 or svsm_gpa < 0:
        raise Malformed(
            "launch shape", at="variables size", want="room for the SVSM below it", got=str(variables_bytes)
        )
    launch = _Launch()
    launch.bytes(firmware.gpa, firmware.data, "firmware")
    launch.bytes(svsm_gpa, svsm.data, "SVSM")
    image = LaunchImage(firmware=launch.digest, ranges=svsm.sev_ranges(), hash_table_gpa=0, ap_eip=0)
    _measure_ranges(launch, image, Vmm.QEMU, None)
    eip = svsm.number(SVSM_INFO, "SVSM_INFO") + svsm_gpa
    page = hashlib.sha384(_vmsa_svsm(eip, shape)).digest()
    for number in range(vcpus):
        launch.page(_Page.VMSA, _VMSA_GPA, page)
        launch.note(f"VMSA of vCPU {number} (starts at {eip:#x})", _VMSA_GPA, 1)
    return Digest(Algorithm.SHA384, launch.digest), tuple(launch.steps)


def _measure_ranges(launch: _Launch, image: LaunchImage, vmm: Vmm, hashes: KernelHashes | None) -> None:
    """Measure the metadata sections in table order; EC2 measures the CPUID page last."""
    has_hashes = (
        any(r.kind is SevSection.SNP_KERNEL_HASHES for r in image.ranges) and image.hash_table_gpa != 0
    )
    if hashes is not None and not has_hashes:
        raise Unsupported(
            "firmware", at="SEV metadata", want="a kernel-hashes section, since a kernel is given", got="none"
        )
    late: list[SevRange] = []
    for section in image.ranges:
        match section.kind:
            case SevSection.SNP_SEC_MEM:
                kind = _Page.UNMEASURED if vmm is Vmm.GCE else _Page.ZERO
                launch.pages(kind, section.gpa, section.size_bytes, "SEC memory")
            case SevSection.SVSM_CAA:
                launch.pages(_Page.ZERO, section.gpa, section.size_bytes, "SVSM calling area")
            case SevSection.SNP_SECRETS:
                launch.pages(_Page.SECRETS, section.gpa, PAGE_BYTES, "secrets page")
            case SevSection.CPUID if vmm is Vmm.EC2:
                late.append(section)
            case SevSection.CPUID:
                launch.pages(_Page.CPUID, section.gpa, PAGE_BYTES, "CPUID page")
            case SevSection.SNP_KERNEL_HASHES if hashes is None:
                launch.pages(_Page.ZERO, section.gpa, section.size_bytes, "kernel hashes (none given)")
            case SevSection.SNP_KERNEL_HASHES:
                launch.bytes(
                    section.gpa, _hashes_page(section, image.hash_table_gpa, hashes), "kernel hashes"
                )
    for section in late:
        launch.pages(_Page.CPUID, section.gpa, PAGE_BYTES, "CPUID page")


def _hashes_page(section: SevRange, table_gpa: int, hashes: KernelHashes | None) -> bytes:
    if hashes is None:
        raise Misuse("kernel hashes are needed for their page")
    table = hashes.table()
    offset = table_gpa % PAGE_BYTES
    if section.size_bytes != PAGE_BYTES or offset + len(table) > PAGE_BYTES:
        raise Malformed(
            "firmware SEV metadata",
            at="kernel-hashes section",
            want="one page that holds the table",
            got=f"{offset:#x}",
        )
    return (bytes(offset) + table).ljust(PAGE_BYTES, b"\0")


def _extend_chain(chain: list[bytes], shape: SnpShape, ap_eip: int) -> None:
    """Grow ``chain`` (digest after n vCPUs at index n) to the shape's vCPUs."""
    launch = _Launch(chain[-1])
    if len(chain) == 1:
        launch.page(_Page.VMSA, _VMSA_GPA, hashlib.sha384(_vmsa(_BSP_EIP, shape)).digest())
        chain.append(launch.digest)
    if len(chain) <= shape.vcpus:
        later = hashlib.sha384(_vmsa(ap_eip, shape)).digest()
        while len(chain) <= shape.vcpus:
            launch.page(_Page.VMSA, _VMSA_GPA, later)
            chain.append(launch.digest)


# The save area: name -> (offset, size in bytes) (AMD APM Vol. 2, Table B-4).
# Segments are selector u16, attributes u16, limit u32, base u64.
_SEGMENTS = {"es": 0x00, "cs": 0x10, "ss": 0x20, "ds": 0x30, "fs": 0x40, "gs": 0x50}
_SEGMENTS |= {"gdtr": 0x60, "ldtr": 0x70, "idtr": 0x80, "tr": 0x90}
_REGISTERS = {
    "efer": (0x0D0, 8),
    "cr4": (0x148, 8),
    "cr0": (0x158, 8),
    "dr7": (0x160, 8),
    "dr6": (0x168, 8),
    "rflags": (0x170, 8),
    "rip": (0x178, 8),
    "g_pat": (0x268, 8),
    "rdx": (0x310, 8),
    "sev_features": (0x3B0, 8),
    "xcr0": (0x3E8, 8),
    "mxcsr": (0x408, 4),
    "x87_fcw": (0x410, 2),
}
_COMMON = {
    "efer": 0x1000,  # KVM: EFER_SVME
    "cr4": 0x40,  # KVM: X86_CR4_MCE
    "dr7": 0x400,
    "dr6": 0xFFFF0FF0,
    "rflags": 0x2,
    "xcr0": 0x1,
}
_PAT = 0x7040600070406  # PAT MSR at reset (AMD APM Vol. 2, A.3)


def _save_area(segments: dict[str, tuple[int, int, int, int]], registers: dict[str, int]) -> bytes:
    page = bytearray(PAGE_BYTES)
    for name, (selector, attributes, limit, base) in segments.items():
        struct.pack_into("<HHIQ", page, _SEGMENTS[name], selector, attributes, limit, base)
    for name, value in registers.items():
        offset, size = _REGISTERS[name]
        page[offset : offset + size] = value.to_bytes(size, "little")
    return bytes(page)


def _vmsa(eip: int, shape: SnpShape) -> bytes:
    """Return the VMSA page of a vCPU that starts in real mode at ``eip``."""
    data = (0, 0x93, 0xFFFF, 0)
    code_flags, stack_flags, task_flags = 0x9B, 0x93, 0x8B
    state = {"g_pat": _PAT, "rdx": shape.vcpu_signature, "mxcsr": 0x1F80, "x87_fcw": 0x37F}
    if shape.vmm is Vmm.EC2:
        code_flags, stack_flags, task_flags = (0x9A if eip == _BSP_EIP else 0x9B), 0x92, 0x83
        state = {"g_pat": _PAT, "rdx": 0x600}
    elif shape.vmm is Vmm.GCE:
        state = {"g_pat": 0x00070106, "rdx": 0x600}
    segments = dict.fromkeys(("es", "ds", "fs", "gs"), data) | {
        "cs": (0xF000, code_flags, 0xFFFF, eip & 0xFFFF0000),
        "ss": (0, stack_flags, 0xFFFF, 0),
        "gdtr": (0, 0, 0xFFFF, 0),
        "idtr": (0, 0, 0xFFFF, 0),
        "ldtr": (0, 0x82, 0xFFFF, 0),
        "tr": (0, task_flags, 0xFFFF, 0),
    }
    fixed = _COMMON | {"cr0": 0x10, "rip": eip & 0xFFFF, "sev_features": shape.guest_features}
    return _save_area(segments, fixed | state)


def _vmsa_svsm(eip: int, shape: SnpShape) -> bytes:
    """Return the VMSA page of a vCPU that starts in COCONUT-SVSM, in 32-bit protected mode.

    The FPU control word stays 0, which is what hardware with this SVSM measures.
    """
    flat = (16, 0xC93, 0xFFFFFFFF, 0)
    segments = dict.fromkeys(("es", "ss", "ds", "fs"), flat) | {
        "cs": (8, 0xC9B, 0xFFFFFFFF, 0),
        "gs": (0, 0x93, 0xFFFF, 0),
        "gdtr": (0, 0, 0xFFFF, 0),
        "idtr": (0, 0, 0xFFFF, 0),
        "ldtr": (0, 0x82, 0xFFFF, 0),
        "tr": (0, 0x8B, 0xFFFF, 0),
    }
    state = {
        "cr0": 0x11,
        "rip": eip,
        "g_pat": _PAT,
        "rdx": shape.vcpu_signature,
        "sev_features": 1,
        "mxcsr": 0x1F80,
    }
    return _save_area(segments, _COMMON | state)
