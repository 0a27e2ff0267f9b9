"""Trying again: ever longer pauses, spread at random so that machines that failed together do not ask together."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tallystick.core.errors import Unreachable

_T = TypeVar("_T")
_SPREAD = random.SystemRandom()
_MAX_DOUBLINGS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to pause after each failure: doubled each time up to a most, and between half of that and all."""

    first_seconds: float
    most_seconds: float

    def seconds(self, failures: int, spread: Callable[[], float] = _SPREAD.random) -> float:
        """Return the pause after ``failures`` (from 0) earlier ones.

        Args:
            spread: gives a number from 0 to 1.
        """
        whole = min(self.most_seconds, self.first_seconds * 2.0 ** min(failures, _MAX_DOUBLINGS))
        return whole * (1 + spread()) / 2


PATIENT = Backoff(first_seconds=0.5, most_seconds=60.0)


def until(
    work: Callable[[], _T],
    seconds: float,
    *,
    backoff: Backoff = PATIENT,
    pause: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> _T:
    """Return what ``work`` returns, done again while something outside can not be reached, for ``seconds`` at most.

    Only that is tried again. A refusal is an answer: to ask again would ask the same.

    Raises:
        Unreachable: ``work`` still raised it when the time was over.
        TallystickError: whatever else ``work`` raised, at once.
    """
    end, failures = clock() + seconds, 0
    while True:
        try:
            return work()
        except Unreachable:
            left = end - clock()
            if left <= 0:
                raise
            pause(min(left, backoff.seconds(failures)))
            failures += 1
