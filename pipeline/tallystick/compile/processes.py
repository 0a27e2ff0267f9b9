"""Work side by side, each piece in a process of its own: the slowest piece decides how long all of them take."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from tallystick.core.errors import Unreachable

T = TypeVar("T")
R = TypeVar("R")


def each(
    work: Callable[[T], R], items: Sequence[T], *, first: Callable[[T], bool] = lambda _: False
) -> tuple[R, ...]:
    """Return ``work`` of each item, in the order of ``items``; ``work`` is a function of a module.

    Args:
        first: which items take longest, and are begun before the others.

    Raises:
        Unreachable: a process was ended from outside (``compile.process``).
        TallystickError: what ``work`` raised, of the item that comes first in ``items``.
    """
    workers = min(len(items), processors())
    if workers < 2:
        return tuple(work(item) for item in items)
    order = sorted(range(len(items)), key=lambda number: not first(items[number]))
    # "spawn": a child inherits no lock, no thread and no signal handler
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_quiet)
    try:
        begun = {number: pool.submit(work, items[number]) for number in order}
        return tuple(begun[number].result() for number in range(len(items)))
    except BrokenProcessPool:
        message = "a process that proved a target was ended from outside (memory?); nothing was written"
        raise Unreachable(message, code="compile.process") from None
    finally:
        pool.shutdown(cancel_futures=True)


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quiet() -> None:
    """An interrupt ends a child without a word of its own."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
