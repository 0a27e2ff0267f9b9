"""Why a TPM's registers are not the predicted ones: from the event log where it replays to them, or by search.

A register whose log does not replay to it, and that no shape leads to, stays unexplained.

Sources: docs/decisions/0012-measured-boot-facts.md (what a host's change moves); TCG PC Client Platform Firmware
Profile 1.06, 3.3.4 and table 27; systemd v252, src/boot/efi/stub.c (PCR 11 to 13).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from tallystick.core.digests import Algorithm, Digest
from tallystick.formats import eventlog
from tallystick.formats.eventlog import EventLog, LogEvent
from tallystick.measure import firmwares, qemu
from tallystick.measure.causes import Cause, How, Unexplained, Where, merged, short
from tallystick.measure.firmwares import MAX_RAM_MIB, MAX_VCPUS, MIN_RAM_MIB, Machine
from tallystick.measure.qemu import INIT_DATA_PCR, WAIVED, MeasuredFirmware
from tallystick.measure.records import Event
from tallystick.measure.registers import extend, initial, replay
from tallystick.measure.uki import ImageEvents

_BANK = "sha256"
_DRIVER, _APPLICATION = 0x80000004, 0x80000003
_BOOT_VARIABLES = frozenset((0x80000002, 0x8000000C))
_CONFIGURATION = frozenset((0x80000001, 0x800000E0))
_GPT = 0x80000006
# Sections that some systemd-stub measures by name (systemd main, src/fundamental/uki.h).
_SECTIONS = (
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".dtbauto", ".uname", ".sbat", ".pcrpkey",
    ".profile", ".hwids", ".efifw",
)  # fmt: skip
_NAMES = {hashlib.sha256(name.encode() + b"\0").digest(): name for name in _SECTIONS}
_KINDS = {".linux": "kernel", ".initrd": "initrd", ".cmdline": "command-line"}
_NO_LOG = "there is no event log"
_NOT_REPLAYED = "the event log does not replay to them"
_NO_RULE = "the log shows other events, and no rule says whose they are"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What was predicted: a released image under a firmware, on a machine, with init-data."""

    image: ImageEvents
    firmware: MeasuredFirmware
    machine: Machine
    init_data: Digest | None

    def events(self) -> tuple[Event, ...]:
        """Return every event of the predicted boot."""
        return qemu.boot_events(self.image, self.firmware, self.machine, self.init_data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What evidence shows."""

    pcrs: Mapping[int, bytes]
    log: EventLog | None
    init_data: tuple[Digest, ...] = ()  # documents that the guest may have been given


def explain(expected: Expected, seen: Seen) -> tuple[tuple[Cause, ...], tuple[Unexplained, ...]]:
    """Return why the registers of ``seen`` are not those of ``expected``, and which of them stay unexplained."""
    events = expected.events()
    waived = {register.name for register in WAIVED}
    differ = {
        number
        for number, value in replay(events).items()
        if _name(number) not in waived and seen.pcrs.get(number) not in (None, value.value)
    }
    logged = _replayed(seen)
    found: list[Cause] = []
    if INIT_DATA_PCR in differ:
        found += _init_data(expected, seen)
    usable = {number for number in differ if logged.get(number) == seen.pcrs[number]} - {INIT_DATA_PCR}
    if seen.log is not None:
        walk = _Walk(expected, events, seen.log, differ)
        found += [cause for number in sorted(usable) for cause in walk.causes(number)]
    if 0 in differ - usable:
        found += _searched(expected, seen.pcrs[0])
    causes = merged(found)
    moved = {name for cause in causes for name in cause.moves}
    reason = _NO_LOG if seen.log is None else _NOT_REPLAYED
    rest = {number for number in differ if _name(number) not in moved}
    groups = ((rest - usable, reason), (rest & usable, _NO_RULE))
    unexplained = tuple(
        Unexplained(values=tuple(_name(n) for n in sorted(numbers)), reason=why)
        for numbers, why in groups
        if numbers
    )
    return causes, unexplained


class _Walk:
    """The log's events beside the predicted ones, register by register."""

    def __init__(self, expected: Expected, events: Sequence[Event], log: EventLog, differ: set[int]) -> None:
        self._expected, self._differ = expected, differ
        self._want = {n: [e for e in events if e.register == n] for n in range(16)}
        self._got: dict[int, list[LogEvent]] = {n: [] for n in range(24)}
        for event in log.events:
            if event.kind != eventlog.EV_NO_ACTION and event.register in self._got:
                self._got[event.register].append(event)
        self._sections = self._changed_sections()

    def causes(self, number: int) -> Iterator[Cause]:
        """Give what moves register ``number``."""
        want, got = self._want[number], self._got[number]
        digests = [event.digest.value for event in want], [event.digest(_BANK) for event in got]
        for kind, a, b, c, d in SequenceMatcher(None, *digests, autojunk=False).get_opcodes():
            if kind != "equal":
                yield from self._of(number, want[a:b], got[c:d])

    def _of(self, number: int, want: Sequence[Event], got: Sequence[LogEvent]) -> Iterator[Cause]:
        kinds = {event.kind for event in got}
        if number == 0:
            yield from self._firmware(want, got)
        elif number in (1, 5) and kinds and kinds <= _BOOT_VARIABLES:
            for event in got:
                yield self._host(
                    "boot-option", eventlog.describe(event), "", event.digest(_BANK).hex(), number
                )
        elif number == 5 and kinds == {_GPT}:
            yield self._host("disk", "partition table", "", got[0].digest(_BANK).hex(), number)
        elif number == 2 and kinds == {_DRIVER} and not want:
            for event in got:
                yield self._host(
                    "option-rom", "option-rom", "", f"sha256:{event.digest(_BANK).hex()}", number
                )
        elif number == 4:
            yield from self._applications(want, got)
        elif number == 7 and kinds and kinds <= _CONFIGURATION:
            for event in got:
                name = eventlog.describe(event)
                yield self._host("secure-boot", name, "", f"sha256:{event.digest(_BANK).hex()}", number)
        elif number == 9:
            yield from self._options(want)
        elif number == 11:
            yield from self._sections
        elif number in (12, 13) and not want:
            yield from (self._handed(number, event) for event in got)

    def _firmware(self, want: Sequence[Event], got: Sequence[LogEvent]) -> Iterator[Cause]:
        """PEIFV alone follows RAM and CPUs; anything else in register 0 is the firmware's own."""
        if [event for event in want if "PEIFV" not in event.what] or len(want) != len(got):
            before = str(self._expected.firmware.model.digest)
            yield self._host("firmware", "firmware", before, "another build", 0)
            return
        wanted = got[0].digest(_BANK)
        for machine, digest in _pei_digests(self._expected):
            if digest == wanted:
                yield from _shape_causes(self._expected.machine, machine, How.LOG)
                return

    def _applications(self, want: Sequence[Event], got: Sequence[LogEvent]) -> Iterator[Cause]:
        """Register 4: the image and its kernel. A changed section is named from register 11, and moves this too."""
        if self._sections:
            yield from self._sections
        elif not want and {event.kind for event in got} == {_APPLICATION}:
            own = {event.digest.value for event in self._want[4]}
            for event in got:
                if event.digest(_BANK) in own:  # the same image, started at another place of the boot
                    yield self._host("boot-path", "boot-path", "kernel", "boot option", 4)
                else:
                    digest = f"sha256:{event.digest(_BANK).hex()}"
                    yield self._host("application", "EFI application", "", digest, 4)
        elif [event.what for event in want] == [self._expected.image.loaded.what] and len(got) == 1:
            before, after = str(want[0].digest), f"sha256:{got[0].digest(_BANK).hex()}"
            yield self._image("stub", "uki outside the sections of PCR 11", before, after, 4)

    def _options(self, want: Sequence[Event]) -> Iterator[Cause]:
        """Register 9: the command line and the initrd, the image's own or handed over by the host."""
        own = {cause.name: cause for cause in self._sections}
        for event in want:
            section = ".cmdline" if "LoadOptions" in event.what else ".initrd"
            if section in own:
                yield own[section]
            elif section == ".cmdline" and not self._want[12] and self._got[12]:
                yield from (self._handed(12, one) for one in self._got[12] if one.kind == eventlog.EV_IPL)

    def _handed(self, number: int, event: LogEvent) -> Cause:
        """What the stub was handed from outside; its text where the digest is that of the text."""
        told = eventlog.data_is_digested(event, _BANK)
        after = eventlog.describe(event) if told else f"sha256:{event.digest(_BANK).hex()}"
        kind = "extension" if number == 13 else "command-line" if told else "parameters"
        moves = [number, *([9] if kind == "command-line" else [])]
        return self._host(kind, kind, "", after, *moves)

    def _changed_sections(self) -> list[Cause]:
        """Return a cause for each section whose content in register 11 is another one."""
        want = _contents([event.digest.value for event in self._want[11]])
        got = _contents([event.digest(_BANK) for event in self._got[11]])
        if want is None or got is None or 11 not in self._differ:
            return []
        found = []
        for name in [*want, *(name for name in got if name not in want)]:
            if want.get(name) != got.get(name):
                before, after = (f"sha256:{one[name].hex()}" if name in one else "" for one in (want, got))
                moves = (11, 4, 9) if name in (".cmdline", ".initrd") else (11, 4)
                found.append(self._image(_KINDS.get(name, "section"), name, before, after, *moves))
        return found

    def _host(self, kind: str, name: str, before: str, after: str, *moves: int) -> Cause:
        return self._cause(Where.HOST, kind, name, before, after, moves)

    def _image(self, kind: str, name: str, before: str, after: str, *moves: int) -> Cause:
        return self._cause(Where.IMAGE, kind, name, before, after, moves)

    def _cause(
        self, where: Where, kind: str, name: str, before: str, after: str, moves: Sequence[int]
    ) -> Cause:
        names = tuple(_name(n) for n in sorted(moves) if n in self._differ)
        return Cause(where=where, kind=kind, name=name, before=before, after=after, moves=names, how=How.LOG)


def machines(known: Machine) -> Iterator[Machine]:
    """Give the shape matrix, nearest first: other vCPU counts, then other RAM sizes, then both."""
    sizes = sorted(
        {
            *range(MIN_RAM_MIB, 4096, 128),
            *range(4096, 65537, 1024),
            *(p << s for p in (1, 3) for s in range(7, 20)),
        }
    )
    sizes = [size for size in sizes if MIN_RAM_MIB <= size <= MAX_RAM_MIB and size != known.ram_mib]
    counts = [count for count in range(1, MAX_VCPUS + 1) if count != known.vcpus]
    yield known
    yield from (Machine(ram_mib=known.ram_mib, vcpus=count) for count in counts)
    yield from (Machine(ram_mib=size, vcpus=known.vcpus) for size in sizes)
    yield from (Machine(ram_mib=size, vcpus=count) for size in sizes for count in counts)


def _pei_digests(expected: Expected) -> Iterator[tuple[Machine, bytes]]:
    """Give the SHA-256 of PEIFV on every machine; what comes before the machine's fields is hashed once."""
    pei, model = expected.firmware.volumes.pei, expected.firmware.model
    before = hashlib.sha256(pei[: firmwares.platform_info_offset(pei)])
    at = firmwares.platform_info_offset(pei)
    for machine in machines(expected.machine):
        filled = firmwares.filled_platform_info(model, machine)
        hasher = before.copy()
        hasher.update(filled)
        hasher.update(pei[at + len(filled) :])
        yield machine, hasher.digest()


def _searched(expected: Expected, seen: bytes) -> tuple[Cause, ...]:
    """Return the shape whose register 0 is ``seen``, as causes; nothing when no shape of the matrix has it."""
    others = [event for event in expected.events() if event.register == 0]
    for machine, digest in _pei_digests(expected):
        value = initial()
        for event in others:
            value = extend(value, Digest(Algorithm.SHA256, digest) if "PEIFV" in event.what else event.digest)
        if value.value == seen:
            return tuple(_shape_causes(expected.machine, machine, How.SEARCH))
    return ()


def _shape_causes(before: Machine, after: Machine, how: How) -> Iterator[Cause]:
    for name in ("ram_mib", "vcpus"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield Cause(
                where=Where.HOST, kind=name, name=name, before=str(old), after=str(new), moves=("pcr00",), how=how
            )  # fmt: skip


def _init_data(expected: Expected, seen: Seen) -> tuple[Cause, ...]:
    """Register 8 holds one document's digest: none, or one that is at hand."""
    for candidate in (None, *seen.init_data):
        value = initial() if candidate is None else extend(initial(), candidate)
        if value.value == seen.pcrs[INIT_DATA_PCR]:
            before, after = short(expected.init_data), short(candidate)
            return (
                Cause(
                    where=Where.HOST, kind="init-data", name="init-data", before=before, after=after,
                    moves=(_name(INIT_DATA_PCR),), how=How.SEARCH,
                ),
            )  # fmt: skip
    return ()


def _replayed(seen: Seen) -> Mapping[int, bytes]:
    if seen.log is None or _BANK not in seen.log.banks:
        return {}
    return {n: bytes(32) for n in range(16)} | dict(eventlog.replay(seen.log, _BANK))


def _contents(digests: Sequence[bytes]) -> dict[str, bytes] | None:
    """Return section -> digest of its content from the pairs of register 11; None when they are no such pairs."""
    names = [_NAMES.get(digest) for digest in digests[::2]]
    if len(digests) % 2 or None in names or len(set(names)) != len(names):
        return None
    return {name: content for name, content in zip(names, digests[1::2], strict=True) if name}


def _name(number: int) -> str:
    return f"pcr{number:02}"
