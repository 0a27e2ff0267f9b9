"""Boots that are not the predicted one, in one thing each, and what an explanation of their evidence should say."""

from __future__ import annotations

import random
import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from measure.injections import Built, command_line, kernel, packing
from support_eventlog import header

from tallystick.core.digests import Digest
from tallystick.formats import eventlog
from tallystick.formats import uki as uki_format
from tallystick.measure import qemu, why_tpm
from tallystick.measure.firmwares import Machine
from tallystick.measure.records import Event
from tallystick.measure.registers import replay
from tallystick.measure.uki import Boot as Boot_
from tallystick.measure.uki import ImageEvents, application_events, image_events

EVENT_NUMBERS = {name: number for number, name in eventlog.EVENT_TYPES.items()}


@dataclass(frozen=True)
class Boot:
    """A boot that is not the predicted one: its events, and what the explanation should say."""

    what: str
    events: tuple[Event, ...]
    right: tuple[str, str, str] | None  # None: nobody can know
    logged: bool
    texts: Mapping[int, bytes] = field(
        default_factory=dict
    )  # number of an event -> its data, which it digests
    candidates: tuple[Digest, ...] = ()
    claimed: tuple[Event, ...] = ()  # what the log says instead of the events


def explained(built: Built, boot: Boot) -> tuple[list[tuple[str, str, str]], list[str], list[str]]:
    """Return the causes, the unexplained values, and every value that differs."""
    expected = expectation(built)
    log = None
    if boot.logged:
        data = header() + b"".join(
            _log_event(i, e, boot.texts) for i, e in enumerate(boot.claimed or boot.events) if e.register != 8
        )
        log = eventlog.parse(data)
    pcrs = {number: value.value for number, value in replay(boot.events).items()}
    seen = why_tpm.Seen(pcrs=pcrs, log=log, init_data=boot.candidates)
    causes, unexplained = why_tpm.explain(expected, seen)
    wanted = replay(expected.events())
    differ = [f"pcr{n:02}" for n in range(16) if n != 10 and wanted[n].value != pcrs[n]]
    return (
        [(c.where.value, c.kind, c.name) for c in causes],
        [name for one in unexplained for name in one.values],
        differ,
    )


def _log_event(number: int, event: Event, texts: Mapping[int, bytes]) -> bytes:
    kind = EVENT_NUMBERS.get(event.what.split(":")[0].split(" ")[0], 0x0D)
    data = texts.get(number, event.what.encode())
    out = struct.pack("<III", event.register, kind, 1) + struct.pack("<H", 0x0B) + event.digest.value
    return out + struct.pack("<I", len(data)) + data


@cache
def _firmware(data: bytes) -> qemu.MeasuredFirmware:
    return qemu.MeasuredFirmware.of(data)


@cache
def _image(data: bytes) -> ImageEvents:
    return image_events(uki_format.parse(data))


def expectation(built: Built) -> why_tpm.Expected:
    """Return what was predicted for ``built``."""
    machine = Machine(ram_mib=int(built.shape["ram_mib"]), vcpus=int(built.shape["vcpus"]))
    return why_tpm.Expected(
        image=_image(built.image),
        firmware=_firmware(built.firmware),
        machine=machine,
        init_data=built.init_data,
    )


def host_boots(built: Built, rng: random.Random) -> Boot:
    """One thing that a host did otherwise."""
    return rng.choice(_HOST_BOOTS)(built, rng)


def _with(built: Built, at: Callable[[Event], bool], *added: Event, after: bool = False) -> tuple[Event, ...]:
    events = expectation(built).events()
    place = next(i for i, event in enumerate(events) if at(event)) + after
    return (*events[:place], *added, *events[place:])


def boot_shape(built: Built, rng: random.Random) -> Boot:
    name = rng.choice(["ram_mib", "vcpus"])
    value = rng.choice([256, 768, 1024, 2048, 4096, 12288]) if name == "ram_mib" else rng.randrange(2, 64)
    expected = expectation(built)
    machine = replace(expected.machine, **{name: value})
    events = replace(expected, machine=machine).events()
    return Boot(f"{name} {value}", events, ("host", name, name), logged=rng.random() < 0.5)


def boot_rom(built: Built, rng: random.Random) -> Boot:
    digest = Digest.of(rng.randbytes(64))
    rom = Event(register=2, digest=digest, what="EV_EFI_BOOT_SERVICES_DRIVER")
    return Boot(
        "option ROM",
        _with(built, lambda e: e.register == 2, rom),
        ("host", "option-rom", "option-rom"),
        logged=True,
    )


def boot_rom_unseen(built: Built, rng: random.Random) -> Boot:
    return replace(boot_rom(built, rng), what="option ROM without a log", right=None, logged=False)


def boot_words(built: Built, rng: random.Random) -> Boot:
    text = f"console=ttyS0 init=/bin/sh x={rng.randrange(10**6)}\0".encode("utf-16-le")
    events = expectation(built).events()
    at = next(i for i, event in enumerate(events) if event.register == 9)
    options = replace(events[at], digest=Digest.of(text))
    given = Event(register=12, digest=Digest.of(text), what="EV_IPL: command line")
    return Boot(
        "command line from the host",
        (*events[:at], given, options, *events[at + 1 :]),
        ("host", "command-line", "command-line"),
        logged=True,
        texts={at: text},
    )


def boot_init_data(built: Built, rng: random.Random) -> Boot:
    expected = expectation(built)
    if built.init_data is None or rng.random() < 0.5:
        given = Digest.of(rng.randbytes(9))
        known = rng.random() < 0.5
        right = ("host", "init-data", "init-data") if known else None
        events = replace(expected, init_data=given).events()
        return Boot("other init-data", events, right, logged=True, candidates=(given,) if known else ())
    events = replace(expected, init_data=None).events()
    return Boot("no init-data", events, ("host", "init-data", "init-data"), logged=False)


def boot_variable(built: Built, rng: random.Random) -> Boot:
    name = rng.choice(["SecureBoot", "PK", "KEK", "db", "dbx"])
    events = list(expectation(built).events())
    at = next(i for i, e in enumerate(events) if e.register == 7 and e.what.endswith(name))
    data = (
        uuid.UUID(int=0).bytes_le
        + struct.pack("<QQ", len(name), 4)
        + name.encode("utf-16-le")
        + rng.randbytes(4)
    )
    events[at] = replace(events[at], digest=Digest.of(data))
    return Boot(
        f"variable {name}", tuple(events), ("host", "secure-boot", name), logged=True, texts={at: data}
    )


def boot_application(built: Built, rng: random.Random) -> Boot:
    added = Event(
        register=4, digest=Digest.of(rng.randbytes(9)), what="EV_EFI_BOOT_SERVICES_APPLICATION: another"
    )
    events = _with(built, lambda e: e.register == 4 and "Calling" in e.what, added)
    return Boot("another application", events, ("host", "application", "EFI application"), logged=True)


def boot_disk(built: Built, rng: random.Random) -> Boot:
    """The same image, from a boot option of the firmware instead of QEMU's -kernel."""
    expected, image = expectation(built), expectation(built).image
    events = [event for event in expected.events() if event.register != 4]
    own = application_events(image, Boot_.DISK)
    return Boot("from a disk", (*own, *events), ("host", "boot-path", "boot-path"), logged=True)


def boot_firmware(built: Built, rng: random.Random) -> Boot:
    events = list(expectation(built).events())
    at = next(i for i, e in enumerate(events) if "DXEFV" in e.what)
    events[at] = replace(events[at], digest=Digest.of(rng.randbytes(9)))
    return Boot("another firmware", tuple(events), ("host", "firmware", "firmware"), logged=True)


def boot_forged_log(built: Built, rng: random.Random) -> Boot:
    """A log that does not replay to what is quoted tells nothing."""
    made = boot_rom(built, rng)
    return replace(made, what="a log of another boot", right=None, claimed=expectation(built).events())


def boot_odd(built: Built, rng: random.Random) -> Boot:
    """A register that nobody's rule covers."""
    number = rng.choice([3, 6, 14, 15])
    added = Event(register=number, digest=Digest.of(rng.randbytes(9)), what="EV_POST_CODE")
    return Boot(f"PCR {number}", (*expectation(built).events(), added), None, logged=rng.random() < 0.5)


def boot_section(built: Built, rng: random.Random) -> Boot:
    """Another image than the released one, as a log shows it."""
    name, kind = rng.choice(
        [(".cmdline", "command-line"), (".initrd", "initrd"), (".linux", "kernel"), (".osrel", "section")]
    )
    changed = command_line(built, rng).after if name == ".cmdline" else built
    if name == ".initrd":
        changed = packing(built, rng).after
    elif name == ".linux":
        changed = kernel(built, rng).after
    elif name == ".osrel":
        data = built.sections[name] + b"# more\n"
        changed = replace(built, sections=dict(built.sections) | {name: data})
    return Boot(
        f"image with another {name}", expectation(changed).events(), ("image", kind, name), logged=True
    )


def boot_section_unseen(built: Built, rng: random.Random) -> Boot:
    return replace(boot_section(built, rng), what="another image without a log", right=None, logged=False)


_HOST_BOOTS = (
    boot_shape, boot_rom, boot_rom_unseen, boot_words, boot_init_data, boot_variable, boot_application, boot_disk,
    boot_firmware, boot_forged_log, boot_odd, boot_section, boot_section_unseen,
)  # fmt: skip
BOOTS = _HOST_BOOTS
