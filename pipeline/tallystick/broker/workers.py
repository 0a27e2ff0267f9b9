"""Several processes that serve one broker at one port: the kernel shares connections out, the store keeps them one.

Source: socket(7), SO_REUSEPORT.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from tallystick.core.errors import Unreachable

_AGAIN_SECONDS = 1.0  # before a worker that ended takes its place again

Work = Callable[[int, socket.socket, Callable[[], None]], None]  # number, where to listen, to call when ready
Listen = Callable[[], socket.socket]


class Workers:
    """The parent of ``count`` workers: it starts them, again where one ended, ends them, and serves nothing itself."""

    __slots__ = ("_children", "_count", "_ending", "_listen", "_work")

    def __init__(self, count: int, *, listen: Listen, work: Work) -> None:
        """Hold what each worker does with a socket of its own."""
        self._count = count
        self._listen = listen
        self._work = work
        self._children: dict[int, int] = {}  # process -> number
        self._ending = False

    def run(self, *, ready: Callable[[], None]) -> None:
        """Return when SIGTERM or SIGINT has come and every worker has answered what was open.

        Args:
            ready: called once all workers take requests.

        Raises:
            Unreachable: a worker did not start (``broker.not-started``).
        """
        handlers = {number: signal.signal(number, self._end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            if self._started() == self._count:
                ready()
            elif not self._ending:
                raise Unreachable("a worker of the broker did not start", code="broker.not-started")
            self._watch()
        finally:
            self._end()
            self._watch()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _started(self) -> int:
        """Start every worker and return how many are ready: each of them has said so, or has ended."""
        reading, writing = os.pipe()

        def ready() -> None:
            os.write(writing, b".")
            os.close(writing)

        for number in range(self._count):
            self._fork(number, ready)
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            return len(stream.read())

    def _fork(self, number: int, ready: Callable[[], None]) -> None:
        process = os.fork()
        if process:
            self._children[process] = number
            return
        status = 1
        try:
            for one in (signal.SIGTERM, signal.SIGINT):
                signal.signal(one, signal.SIG_DFL)
            listening = self._listen()
            self._work(number, listening, ready)
            status = 0
        finally:
            os._exit(status)

    def _watch(self) -> None:
        """Return when no worker is left; one that ended by itself is started again."""
        while self._children:
            process, _ = os.waitpid(-1, 0)
            number = self._children.pop(process, None)
            if number is not None and not self._ending:
                time.sleep(_AGAIN_SECONDS)
                self._fork(number, lambda: None)

    def _end(self, *_: object) -> None:
        self._ending = True
        for process in list(self._children):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
