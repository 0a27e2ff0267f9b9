"""TCG event logs: every byte parsed, and replayed bank by bank.

Used for a TPM's ``binary_bios_measurements`` and for a confidential guest's CCEL, which has the same form.
Nothing in a log is true because the log says so: a quote over the replayed registers makes the *digests*
trustworthy, and an event's data only when its hash is the digest (:func:`data_is_digested`).

Source: TCG PC Client Platform Firmware Profile 1.06, 10 (event logging); UEFI 2.10, 38 (confidential computing).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats.cursor import Cursor

_WHAT = "event log"
MAX_LOG_BYTES = 16 << 20
_MAX_REGISTER = 23  # of a PC Client TPM; a CCEL counts MRs from 0 to 4
RTMRS = 4
_NO_REGISTER = 0xFFFFFFFF  # an EV_NO_ACTION that belongs to no PCR (PFP 1.06, 10.4.5.3)
_SPEC_ID = b"Spec ID Event03\0"
_STARTUP_LOCALITY = b"StartupLocality\0"
_MAX_ALGORITHMS = 16
EV_SEPARATOR, EV_NO_ACTION, EV_EVENT_TAG, EV_IPL = 0x04, 0x03, 0x06, 0x0D

# TPM_ALG_ID -> (bank, digest size in bytes). Source: TCG Algorithm Registry 1.34, table 3.
BANKS: dict[int, tuple[str, int]] = {
    0x0004: ("sha1", 20),
    0x000B: ("sha256", 32),
    0x000C: ("sha384", 48),
    0x000D: ("sha512", 64),
    0x0012: ("sm3_256", 32),
}
REPLAYED = frozenset(("sha1", "sha256", "sha384", "sha512"))

# Source: PFP 1.06, table 27.
EVENT_TYPES: dict[int, str] = {
    0x00000000: "EV_PREBOOT_CERT",
    0x00000001: "EV_POST_CODE",
    0x00000003: "EV_NO_ACTION",
    0x00000004: "EV_SEPARATOR",
    0x00000005: "EV_ACTION",
    0x00000006: "EV_EVENT_TAG",
    0x00000007: "EV_S_CRTM_CONTENTS",
    0x00000008: "EV_S_CRTM_VERSION",
    0x00000009: "EV_CPU_MICROCODE",
    0x0000000A: "EV_PLATFORM_CONFIG_FLAGS",
    0x0000000B: "EV_TABLE_OF_DEVICES",
    0x0000000C: "EV_COMPACT_HASH",
    0x0000000D: "EV_IPL",
    0x0000000E: "EV_IPL_PARTITION_DATA",
    0x0000000F: "EV_NONHOST_CODE",
    0x00000010: "EV_NONHOST_CONFIG",
    0x00000011: "EV_NONHOST_INFO",
    0x00000012: "EV_OMIT_BOOT_DEVICE_EVENTS",
    0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x80000002: "EV_EFI_VARIABLE_BOOT",
    0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    0x80000006: "EV_EFI_GPT_EVENT",
    0x80000007: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x80000009: "EV_EFI_HANDOFF_TABLES",
    0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000000B: "EV_EFI_HANDOFF_TABLES2",
    0x8000000C: "EV_EFI_VARIABLE_BOOT2",
    0x80000010: "EV_EFI_HCRTM_EVENT",
    0x800000E0: "EV_EFI_VARIABLE_AUTHORITY",
    0x800000E1: "EV_EFI_SPDM_FIRMWARE_BLOB",
    0x800000E2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """One entry. ``digests`` holds each bank of the log once, in the log's order."""

    offset: int  # of its first byte in the log
    register: int
    kind: int  # TCG event type
    digests: tuple[tuple[str, bytes], ...]  # (bank, value)
    data: bytes

    @property
    def kind_name(self) -> str:
        """The event type's name, or its number when it has none."""
        return EVENT_TYPES.get(self.kind, f"0x{self.kind:08x}")

    def digest(self, bank: str) -> bytes:
        """Return the digest that was extended into ``bank``."""
        return dict(self.digests)[bank]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLog:
    """A whole log. ``banks`` are those its header declares; a log of TPM 1.2 has ``sha1`` alone."""

    banks: tuple[str, ...]
    events: tuple[LogEvent, ...]  # without the header
    startup_locality: int  # 0, or what a StartupLocality event says: PCR 0 begins with it


def parse(data: bytes) -> EventLog:
    """Return the log in ``data``.

    Only filling may follow the last event: bytes that are all zero, or all 0xff as a CCEL is filled.

    Raises:
        Malformed: a length leaves the log, a digest is missing, double or not declared, or bytes that are
            neither an event nor filling follow the last event.
    """
    if len(data) > MAX_LOG_BYTES:
        raise Malformed(_WHAT, at="size", want=f"at most {MAX_LOG_BYTES} bytes", got=f"{len(data)}")
    reader = Cursor(data, _WHAT)
    first = _legacy_event(reader)
    if first.kind != EV_NO_ACTION or not first.data.startswith(_SPEC_ID):
        return _legacy_log(reader, first)
    if any(first.digest("sha1")):
        raise reader.bad("the Spec ID event", want="a digest of zeros", got=first.digest("sha1").hex())
    sizes = _spec_id(first.data)
    events: list[LogEvent] = []
    filling = _filling(data)
    while reader.at < filling:
        events.append(_event(reader, sizes))
    return _log(tuple(bank for bank, _ in sizes.values()), events)


def is_log(data: bytes) -> bool:
    """Return whether ``data`` begins as a crypto-agile log does: with its Spec ID event."""
    return data[32:48] == _SPEC_ID


def replay(log: EventLog, bank: str) -> Mapping[int, bytes]:
    """Return the registers of ``bank`` that the log extends, by number.

    A register that is absent was never extended, and so holds its initial value.

    Raises:
        Unsupported: the log does not have that bank, or its hash is not one we compute.
    """
    if bank not in log.banks or bank not in REPLAYED:
        have = ", ".join(name for name in log.banks if name in REPLAYED)
        raise Unsupported(_WHAT, at="bank", want=f"one of {have}", got=bank)
    size = hashlib.new(bank, usedforsecurity=False).digest_size
    values = {0: bytes(size - 1) + bytes([log.startup_locality])} if log.startup_locality else {}
    for event in log.events:
        if event.kind == EV_NO_ACTION:
            continue
        value = values.get(event.register, bytes(size)) + event.digest(bank)
        values[event.register] = hashlib.new(bank, value, usedforsecurity=False).digest()
    return MappingProxyType(dict(sorted(values.items())))


def is_cc(log: EventLog) -> bool:
    """Return whether ``log`` is a confidential guest's (CCEL): SHA-384 alone, in measurement registers 1 to 4.

    A TPM's log always extends PCR 0; register 0 of a CCEL is the launch measurement, which nothing extends.
    """
    extended = {event.register for event in log.events if event.kind != EV_NO_ACTION}
    return log.banks == ("sha384",) and extended <= set(range(1, RTMRS + 1))


def replay_rtmrs(log: EventLog) -> tuple[bytes, ...]:
    """Return RTMR 0 to 3 of a TD as a CCEL leads to them: measurement register 1 is RTMR 0, and so on.

    Source: UEFI 2.10, 38.4.1 (Table 38.4, TDX); Intel TDX Virtual Firmware Design Guide, "TD measurement".

    Raises:
        Unsupported: the log has no SHA-384 bank.
    """
    found = replay(log, "sha384")
    return tuple(found.get(number, bytes(48)) for number in range(1, RTMRS + 1))


def data_is_digested(event: LogEvent, bank: str) -> bool:
    """Whether the digest of ``event`` in ``bank`` is the hash of its data, so that the data may be believed."""
    return hashlib.new(bank, event.data, usedforsecurity=False).digest() == event.digest(bank)


def describe(event: LogEvent) -> str:
    """Return the data of ``event`` for people: its text when it is one, a name or a prefix in hex otherwise."""
    data = event.data
    if event.kind in _VARIABLES and len(data) >= 32:
        length = int.from_bytes(data[16:24], "little")
        if length <= (len(data) - 32) // 2:
            return _printable(data[32 : 32 + 2 * length].decode("utf-16-le", "replace"))
    if event.kind == EV_EVENT_TAG:
        data = data[8:]
    text = data.rstrip(b"\0")
    if len(text) > 3 and all(0x20 <= byte < 0x7F for byte in text):
        return text.decode("ascii")
    if len(text) > 3 and not any(text[1::2]):
        return _printable(data.decode("utf-16-le", "replace"))
    return data[:32].hex() + (f"… ({len(data)} bytes)" if len(data) > 32 else "")


_VARIABLES = frozenset((0x80000001, 0x80000002, 0x8000000C, 0x800000E0))


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "." for letter in text.rstrip("\0"))


def _legacy_event(reader: Cursor) -> LogEvent:
    """Read one TCG_PCR_EVENT: the form of TPM 1.2, and of the header of every later log."""
    offset = reader.at
    register, kind = reader.little("pcrIndex", 4), reader.little("eventType", 4)
    digest = reader.take("digest", 20)
    data = reader.take("event", reader.little("eventDataSize", 4))
    _check_register(reader, register, kind)
    return LogEvent(offset=offset, register=register, kind=kind, digests=(("sha1", digest),), data=data)


def _legacy_log(reader: Cursor, first: LogEvent) -> EventLog:
    events = [first]
    while reader.left:
        events.append(_legacy_event(reader))
    return _log(("sha1",), events)


def _spec_id(data: bytes) -> dict[int, tuple[str, int]]:
    """Return the algorithms that a TCG_EfiSpecIDEvent declares: id -> (bank, digest size)."""
    reader = Cursor(data, "event log Spec ID event")
    reader.take("signature", 16)
    reader.take("platformClass", 4)
    reader.take("specVersionMinor, specVersionMajor, specErrata", 3)
    if (width := reader.little("uintnSize", 1)) not in (1, 2):
        raise reader.bad("uintnSize", want="1 or 2", got=f"{width}")
    count = reader.little("numberOfAlgorithms", 4)
    if not 1 <= count <= _MAX_ALGORITHMS:
        raise reader.bad("numberOfAlgorithms", want=f"1 to {_MAX_ALGORITHMS}", got=f"{count}")
    sizes: dict[int, tuple[str, int]] = {}
    for _ in range(count):
        algorithm, size = reader.little("algorithmId", 2), reader.little("digestSize", 2)
        bank, known = BANKS.get(algorithm, (f"0x{algorithm:04x}", size))
        if size != known or not 1 <= size <= 64:
            raise reader.bad("digestSize", want=f"{known} for {bank}", got=f"{size}")
        if algorithm in sizes:
            raise reader.bad("algorithmId", want="each algorithm once", got=bank)
        sizes[algorithm] = (bank, size)
    reader.take("vendorInfo", reader.little("vendorInfoSize", 1))
    reader.end()
    return sizes


def _event(reader: Cursor, sizes: Mapping[int, tuple[str, int]]) -> LogEvent:
    """Read one TCG_PCR_EVENT2, which has one digest of each declared algorithm."""
    offset = reader.at
    register, kind = reader.little("pcrIndex", 4), reader.little("eventType", 4)
    _check_register(reader, register, kind)
    count = reader.little("digests.count", 4)
    if count != len(sizes):
        raise reader.bad("digests.count", want=f"{len(sizes)}", got=f"{count}")
    digests: dict[str, bytes] = {}
    for _ in range(count):
        algorithm = reader.little("algorithmId", 2)
        bank, size = sizes.get(algorithm, ("", 0))
        if not bank or bank in digests:
            raise reader.bad("algorithmId", want="each declared algorithm once", got=f"0x{algorithm:04x}")
        digests[bank] = reader.take(f"the {bank} digest", size)
    data = reader.take("event", reader.little("eventSize", 4))
    return LogEvent(offset=offset, register=register, kind=kind, digests=tuple(digests.items()), data=data)


def _check_register(reader: Cursor, register: int, kind: int) -> None:
    if register > _MAX_REGISTER and not (kind == EV_NO_ACTION and register == _NO_REGISTER):
        raise reader.bad("pcrIndex", want=f"at most {_MAX_REGISTER}", got=f"{register}")


def _filling(data: bytes) -> int:
    """Return where the filling at the end of ``data`` may begin.

    Zeros are also part of events: an event that ends in zeros reaches past this offset, and then ends the log.
    """
    last = data[-1:]
    return len(data.rstrip(last)) if last in (b"\0", b"\xff") else len(data)


def _log(banks: tuple[str, ...], events: list[LogEvent]) -> EventLog:
    """Return the log, with the locality that its StartupLocality event says."""
    locality, extended = None, False
    for event in events:
        if event.kind != EV_NO_ACTION:
            extended = extended or event.register == 0
        elif event.data.startswith(_STARTUP_LOCALITY):
            at = f"StartupLocality at offset {event.offset}"
            if locality is not None or extended or event.register != 0:
                raise Malformed(_WHAT, at=at, want="one, in register 0, before it is extended", got="another")
            if len(event.data) != 17 or event.data[16] not in (0, 3, 4):
                raise Malformed(_WHAT, at=at, want="locality 0, 3 or 4", got=event.data[16:].hex())
            locality = event.data[16]
    return EventLog(banks=banks, events=tuple(events), startup_locality=locality or 0)
