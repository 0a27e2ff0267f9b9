"""The broker's clock: the one place of this package that reads the time, and it never runs back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Lock

from tallystick.core.errors import Refused

# A time daemon corrects by stepping a little; a clock that was set back is hours or years away.
STEP = timedelta(seconds=2)


def system_time() -> datetime:
    """Return the system's time, in UTC and whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)  # noqa: TID251


class Clock:
    """Time that is never below ``mark``, the latest time that was ever acted on (DESIGN.md, invariant 9)."""

    __slots__ = ("_lock", "_mark", "_read")

    def __init__(self, mark: datetime, *, read: Callable[[], datetime] = system_time) -> None:
        self._mark = mark
        self._read = read
        self._lock = Lock()

    def now(self) -> datetime:
        """Return the time; within ``STEP`` behind the mark, the mark.

        Raises:
            Refused: the clock stands further behind the mark (``clock.behind``).
        """
        read = self._read()
        with self._lock:
            if read < self._mark - STEP:
                raise Refused(
                    f"the clock says {read.isoformat()} and has been at {self._mark.isoformat()}:"
                    " nothing is decided until it has caught up",
                    code="clock.behind",
                )
            self._mark = max(self._mark, read)
            return self._mark

    def saw(self, mark: datetime) -> None:
        """Raise the mark to a time that another process has acted on."""
        with self._lock:
            self._mark = max(self._mark, mark)
