"""How a measurement came to be, step by step: page ranges, sections, events. The same form for every platform.

Nothing here is a second way to the value: each function walks the calculator's own input, and its last value is checked
against the calculator's by the tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from tallystick.core.digests import Algorithm, Digest
from tallystick.formats.eif import Eif, Kind
from tallystick.formats.ovmf import PAGE_BYTES, Firmware
from tallystick.formats.sgx import measured_parts
from tallystick.measure import cca, snp, tdx
from tallystick.measure.records import Event
from tallystick.measure.registers import extend, initial

_TDVF_KINDS = ("BFV", "CFV", "TD_HOB", "TempMem", "PermMem", "Payload", "PayloadParam")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of an explanation."""

    what: str
    where: str  # an address, an offset in a file, or a register
    count: int | None = None  # pages or bytes; the name of the unit is in ``what``
    digest: str = ""  # of what this step measures, in hex; "" where contents do not count
    value: str = ""  # the register after the step, in hex; "" where the measurement is one hash over all


def of_snp(steps: Iterable[snp.Step]) -> tuple[Step, ...]:
    """Return the page ranges of a launch digest."""
    return tuple(
        Step(what=f"{one.what} (pages)", where=f"{one.gpa:#x}", count=one.pages, value=one.digest)
        for one in steps
    )


def of_mrtd(firmware: Firmware) -> tuple[Step, ...]:
    """Return the sections of an MRTD in order. The page order decides how ADD and EXTEND of a section alternate."""
    made = []
    for section in firmware.tdx_sections():
        name = _TDVF_KINDS[section.kind] if section.kind < len(_TDVF_KINDS) else f"type {section.kind}"
        pages = section.memory_bytes // PAGE_BYTES
        if section.augmented:
            made.append(
                Step(what=f"{name}: PAGE.AUG, not measured (pages)", where=f"{section.gpa:#x}", count=pages)
            )
            continue
        digest = ""
        how = "MEM.PAGE.ADD alone: addresses are measured, contents are not"
        if section.extended:
            how = "MEM.PAGE.ADD and 16 MR.EXTEND a page"
            digest = hashlib.sha384(tdx.contents(firmware, section)).hexdigest()
        made.append(
            Step(what=f"{name}: {how} (pages)", where=f"{section.gpa:#x}", count=pages, digest=digest)
        )
    return tuple(made)


def of_events(events: Iterable[Event], algorithm: Algorithm, register: str) -> tuple[Step, ...]:
    """Return each extend, with the register after it.

    Args:
        register: what registers are called: ``RTMR``.
    """
    values: dict[int, Digest] = {}
    made = []
    for event in events:
        before = values.get(event.register, initial(algorithm))
        values[event.register] = extend(before, event.digest)
        made.append(
            Step(
                what=event.what,
                where=f"{register}{event.register}",
                digest=event.digest.hex,
                value=values[event.register].hex,
            )
        )
    return tuple(made)


def of_sgxs(stream: bytes | memoryview) -> Iterator[Step]:
    """Give the runs of equal blocks of an SGXS stream, in order, with the hash of the stream up to there."""
    hasher, at = hashlib.sha256(), 0
    for (tag, security), parts in groupby(measured_parts(stream), key=_block_kind):
        first, count = at, 0
        start = None
        for part in parts:
            hasher.update(part)
            if start is None:
                start = int.from_bytes(part[12:20] if tag == "ECREATE" else part[8:16], "little")
            at, count = at + len(part), count + 1
        yield Step(
            what=f"{tag}{security} {'of' if tag == 'ECREATE' else 'at'} {start or 0:#x} (blocks)",
            where=f"measured bytes {first:#x}",
            count=count,
            value=hasher.copy().hexdigest(),
        )


def _block_kind(part: memoryview) -> tuple[str, str]:
    tag = bytes(part[:8]).rstrip(b"\0").decode("ascii")
    if tag != "EADD":
        return tag, ""
    flags = int.from_bytes(part[16:24], "little")  # SECINFO.FLAGS
    rights = "".join(letter if flags >> bit & 1 else "-" for bit, letter in enumerate("rwx"))
    return tag, f" {rights} {'TCS' if flags >> 8 & 0xFF == 1 else 'REG'}"


def of_eif(image: Eif) -> tuple[Step, ...]:
    """Return the sections of an enclave image, and the registers that each is measured into."""
    ramdisks = 0
    made: list[Step] = []
    for section in image.sections:
        registers = "not measured"
        match section.kind:
            case Kind.KERNEL | Kind.CMDLINE:
                registers = "PCR0, PCR1"
            case Kind.RAMDISK:
                registers = "PCR0, PCR2" if ramdisks else "PCR0, PCR1"
                ramdisks += 1
            case Kind.SIGNATURE:
                registers = "PCR8: its certificate"
            case Kind.METADATA:
                pass
        made.append(
            Step(
                what=f"{section.kind.name.lower()}: {registers} (bytes)",
                where=f"section {len(made)}",
                count=len(section.data),
                digest=hashlib.sha384(section.data).hexdigest(),
            )
        )
    made.append(
        Step(what="each PCR is SHA-384 of 48 zero bytes and the SHA-384 of its sections", where="PCRs")
    )
    return tuple(made)


def of_realm(realm: cca.RealmParams, steps: Iterable[cca.Step]) -> Iterator[Step]:
    """Give REALM_CREATE and each step after it, with the RIM after it."""
    yield Step(what="RMI_REALM_CREATE", where="parameters", value=cca.rim(realm).hex())
    value = cca.rim(realm)
    for step in steps:
        value = cca.extended(realm, value, step)
        match step:
            case cca.InitRipas(base=base, top=top):
                what, where = f"RMI_RTT_INIT_RIPAS to {top:#x}", f"{base:#x}"
            case cca.DataCreate(ipa=ipa, measured=measured):
                what, where = "RMI_DATA_CREATE" + ("" if measured else ", not measured"), f"{ipa:#x}"
            case cca.RecCreate(pc=pc):
                what, where = "RMI_REC_CREATE", f"pc {pc:#x}"
        yield Step(what=what, where=where, value=value.hex())
