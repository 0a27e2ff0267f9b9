"""Attesting again for as long as a key is held, in the foreground or beside the work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tallystick.attester.backoff import PATIENT, Backoff
from tallystick.core.errors import Misuse, Unreachable

_EARLY = 0.5  # of the interval: the other half is for a broker that does not answer at once
_MIN_SECONDS = 0.1


def keep(
    renew: Callable[[], object],
    *,
    every_seconds: float,
    wait: Callable[[float], bool],
    backoff: Backoff = PATIENT,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Do ``renew`` again and again, so that it succeeded within the last ``every_seconds``, until ``wait`` says stop.

    The interval counts from before the attestation that succeeded, since that is what the evidence is fresh as of.

    Args:
        wait: sleeps for so many seconds at most, and says whether to stop.

    Raises:
        Misuse: an interval that no attestation fits into (``attest.interval``).
        Unreachable: nothing answered until the interval was over.
        TallystickError: whatever else ``renew`` raised, at once: a refusal is not asked for twice.
    """
    if every_seconds < _MIN_SECONDS:
        raise Misuse(f"re-attestation: want at least {_MIN_SECONDS} s", code="attest.interval")
    held, failures = clock(), 0
    while True:
        now, end = clock(), held + every_seconds
        due = held + every_seconds * _EARLY if not failures else min(end, now + backoff.seconds(failures - 1))
        if wait(max(0.0, due - now)):
            return
        began = clock()
        try:
            renew()
        except Unreachable:
            if clock() >= end:
                raise
            failures += 1
        else:
            held, failures = began, 0


@contextmanager
def beside(renew: Callable[[], object], *, every_seconds: float) -> Iterator[Callable[[], None]]:
    """Keep renewing in a thread until the block ends; give what raises, from then on, why renewing ended."""
    stop, lost = threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            keep(renew, every_seconds=every_seconds, wait=stop.wait)
        except BaseException as error:  # told to whoever asks, in the thread that works
            lost.append(error)

    def check() -> None:
        if lost:
            raise lost[0]

    thread = threading.Thread(target=work, name="re-attestation", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        stop.set()
        thread.join()
