"""Why a TDX quote's registers are not the predicted ones: MRTD by search, RTMR1 and RTMR2 from a log that replays.

Source: UEFI 2.10, 38.4.1 (a CC event log counts measurement registers from 1, which is RTMR0); measure/tdx_boot.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tallystick.core.digests import Algorithm, Digest
from tallystick.formats import eventlog
from tallystick.formats.eventlog import EventLog
from tallystick.formats.ovmf import Firmware
from tallystick.measure import tdx
from tallystick.measure.causes import Cause, How, Unexplained, Where, left_over, merged
from tallystick.measure.records import Event

_BANK = "sha384"
_PREFIX = "quote.body."
_NO_LOG = "there is no event log, or it does not replay to them"
_NO_FIRMWARE = "no firmware that is at hand leads to it, in either page order"
_NO_RULE = "the log shows other events, and no rule says whose they are"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What was predicted, and the firmware files that may have been launched instead."""

    firmware: Digest
    files: Mapping[Digest, Firmware]  # the released one is among them
    page_order: str  # "one-pass" or "two-pass"
    events: tuple[Event, ...]  # of RTMR1 and RTMR2, in order


def explain(
    expected: Expected, differ: Mapping[str, bytes], log: EventLog | None
) -> tuple[tuple[Cause, ...], tuple[Unexplained, ...]]:
    """Return why the registers in ``differ`` (claim name -> what the quote shows) are not the predicted ones."""
    found: list[Cause] = []
    unexplained: list[Unexplained] = []
    name = f"{_PREFIX}mr_td"
    if name in differ:
        found += _launched(expected, differ[name], name)
        unexplained += left_over([name], found, _NO_FIRMWARE)
    replayed = _replayed(log)
    registers = [n for n in (1, 2) if f"{_PREFIX}rtmr_{n}" in differ]
    usable = {n for n in registers if replayed.get(n) == differ[f"{_PREFIX}rtmr_{n}"]}
    if log is not None and usable:
        found += _booted(expected, log, usable)
    rest = [f"{_PREFIX}rtmr_{n}" for n in range(1, 4) if f"{_PREFIX}rtmr_{n}" in differ]
    unexplained += left_over([n for n in rest if int(n[-1]) in usable], found, _NO_RULE)
    unexplained += left_over([n for n in rest if int(n[-1]) not in usable], found, _NO_LOG)
    return merged(found), tuple(unexplained)


def _launched(expected: Expected, seen: bytes, name: str) -> list[Cause]:
    """Return the firmware and page order whose MRTD is ``seen``, the released firmware first."""
    files = sorted(expected.files.items(), key=lambda pair: pair[0] != expected.firmware)
    for digest, file in files:
        mrtd = tdx.mrtd(file)
        for order, value in (("one-pass", mrtd.one_pass), ("two-pass", mrtd.two_pass)):
            if value.value == seen:
                changes = (
                    ("firmware", str(expected.firmware), str(digest)),
                    ("page_order", expected.page_order, order),
                )
                return [
                    _cause(Where.HOST, kind, kind, before, after, (name,), How.SEARCH)
                    for kind, before, after in changes
                    if before != after
                ]
    return []


def _booted(expected: Expected, log: EventLog, usable: set[int]) -> list[Cause]:
    """Return what the log's events of RTMR1 and RTMR2 say that the predicted ones do not."""
    changed: dict[str, tuple[str, str]] = {}
    for number in usable:
        want = [event for event in expected.events if event.register == number]
        got = _digests(log, number)
        if len(want) != len(got):
            continue
        changed |= {
            event.what: (event.digest.hex, value.hex())
            for event, value in zip(want, got, strict=True)
            if event.digest.value != value
        }
    moves = tuple(f"{_PREFIX}rtmr_{number}" for number in sorted(usable))
    own = any("UKI" in what for what in changed)
    found = []
    for what, (before, after) in changed.items():
        kind = next((kind for part, kind in _KINDS if part in what), "")
        if kind == "image" and len(changed) > 1:
            continue  # follows from the section that differs
        if kind:
            host = kind in ("command-line", "initrd") and not own and 1 not in _differing(expected, log)
            where = Where.HOST if host else Where.IMAGE
            named = (f"sha384:{before}", f"sha384:{after}")
            found.append(_cause(where, kind, _NAMES[kind], *named, moves, How.LOG))
    return found


_KINDS = (("UKI", "image"), (".linux", "kernel"), ("LoadOptions", "command-line"), ("initrd", "initrd"))
_NAMES = {"image": "uki", "kernel": ".linux", "command-line": ".cmdline", "initrd": ".initrd"}


def _differing(expected: Expected, log: EventLog) -> set[int]:
    """Return the registers whose events are not the predicted ones."""
    return {
        number
        for number in (1, 2)
        if [e.digest.value for e in expected.events if e.register == number] != _digests(log, number)
    }


def _digests(log: EventLog, rtmr: int) -> Sequence[bytes]:
    return [
        event.digest(_BANK)
        for event in log.events
        if event.register == rtmr + 1 and event.kind != eventlog.EV_NO_ACTION
    ]


def _replayed(log: EventLog | None) -> Mapping[int, bytes]:
    """Return RTMR number -> what the log leads to."""
    if log is None or _BANK not in log.banks:
        return {}
    zeros = bytes(Algorithm.SHA384.size_bytes)
    values = eventlog.replay(log, _BANK)
    return {number: values.get(number + 1, zeros) for number in range(4)}


def _cause(
    where: Where, kind: str, name: str, before: str, after: str, moves: tuple[str, ...], how: How
) -> Cause:
    return Cause(where=where, kind=kind, name=name, before=before, after=after, moves=moves, how=how)
