"""The broker as a process, or as a thread of one: uvicorn with bounded request heads, and a clean end."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tallystick.broker import tls
from tallystick.broker.admin import admin_socket
from tallystick.broker.app import create_app
from tallystick.broker.config import BrokerConfig, Limits
from tallystick.broker.operator_page import OperatorPage
from tallystick.broker.secretfiles import locked
from tallystick.broker.service import Broker
from tallystick.broker.workers import Workers
from tallystick.core.errors import Misuse, Unreachable

BACKLOG = 1024
_START_SECONDS = 30.0
_MOST_HEAD_BYTES = 32 << 10


def listen(host: str, port: int, *, backlog: int = BACKLOG, shared: bool = False) -> socket.socket:
    """Return a socket that listens at ``host`` and ``port``; port 0 takes a free one.

    Args:
        backlog: 0 takes the port for sockets that will share it, and listens to nothing.
        shared: share a port that was taken so.

    Raises:
        Unreachable: the port is in use (``port.in-use``), or the address is not ours (``address.unusable``).
        Misuse: no such port number.
    """
    if not 0 <= port <= 65535:
        raise Misuse(f"--port: want 0 to 65535, got {port}", code="port.number")
    try:
        ((family, kind, protocol, _, address), *_) = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Unreachable(f"{host}: {error.strerror}", code="address.unusable") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
        if backlog:
            made.listen(backlog)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # now that nobody else has the port
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise Unreachable(
                f"port {port} of {host} is in use: stop what listens there, or take another with --port",
                code="port.in-use",
            ) from None
        raise Unreachable(f"{host}:{port}: {error.strerror}", code="address.unusable") from None
    return made


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Serve the broker in ``folder`` while no other process does: the socket for key operations is there.

    Raises:
        Unreachable: another one does (``broker.running``).
    """
    busy = Unreachable(f"a broker is running in {folder} already", code="broker.running")
    with locked(folder / "serving.lock", busy=busy):
        yield


def serve(
    broker: Broker,
    listening: socket.socket,
    *,
    ready: Callable[[str], None],
    page: OperatorPage | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is open and close the broker.

    Args:
        ready: called with the service's URL once it takes requests.
        page: what operators see, if they see one.
    """
    with alone(broker.config.home.folder):
        beside = partial(admin_socket, broker)
        _serve(broker, _server(broker, listening, ready, page, beside=beside), listening)


def serve_workers(
    config: BrokerConfig,
    reserved: socket.socket,
    count: int,
    *,
    make: Callable[[], Broker],
    ready: Callable[[str], None],
    page: OperatorPage | None = None,
) -> None:
    """Serve in ``count`` processes until SIGTERM or SIGINT; each opens the broker for itself.

    Args:
        reserved: has the port, and does not listen: the workers' own sockets do.
        make: opens the broker; done once here first, so that what is wrong is said once.
        ready: called with the service's URL once all of them take requests.

    Raises:
        Unreachable: a worker does not start, or another broker runs in this folder.
        TallystickError: as ``make`` says.
    """
    make().close()
    port = reserved.getsockname()[1]

    def work(number: int, listening: socket.socket, started: Callable[[], None]) -> None:
        broker = make()
        beside = partial(admin_socket, broker) if number == 0 else None
        _serve(broker, _server(broker, listening, lambda _: started(), page, beside=beside), listening)

    with alone(config.home.folder):
        workers = Workers(count, listen=lambda: listen(config.host, port, shared=True), work=work)
        workers.run(ready=lambda: ready(url_of(reserved, secure=config.tls is not None)))


def _serve(broker: Broker, server: _Server, listening: socket.socket) -> None:
    try:
        asyncio.run(server.serve(sockets=[listening]))
    finally:
        broker.close()


@contextmanager
def running(broker: Broker, listening: socket.socket, *, page: OperatorPage | None = None) -> Iterator[str]:
    """Serve in a thread of this process for as long as the block lasts, and give the service's URL.

    Raises:
        Unreachable: it does not start.
    """
    started = threading.Event()
    urls: list[str] = []

    def ready(url: str) -> None:
        urls.append(url)
        started.set()

    server = _server(broker, listening, ready, page, beside=partial(admin_socket, broker))

    def run() -> None:
        try:
            asyncio.run(server.serve(sockets=[listening]))
        finally:
            broker.close()
            started.set()

    thread = threading.Thread(target=run, name="broker-http", daemon=True)
    thread.start()
    try:
        started.wait(_START_SECONDS)
        if not urls:
            raise Unreachable("the broker did not start", code="broker.not-started")
        yield urls[0]
    finally:
        server.should_exit = True
        thread.join()


def _server(
    broker: Broker,
    listening: socket.socket,
    ready: Callable[[str], None],
    page: OperatorPage | None,
    *,
    beside: Callable[[], Any] | None = None,
) -> _Server:
    limits = broker.config.limits
    app = create_app(broker, beside=beside, page=page)
    config = uvicorn.Config(
        app,
        http=_guarded(limits),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=limits.idle_seconds,
        timeout_graceful_shutdown=limits.stop_seconds,
    )
    config.load()
    if broker.config.tls is not None:
        config.ssl = tls.context(broker.config.tls)
    return _Server(config, partial(ready, url_of(listening, secure=broker.config.tls is not None)))


def url_of(listening: socket.socket, *, secure: bool = False) -> str:
    """Return the URL of a service that listens there."""
    host, port = listening.getsockname()[:2]
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready, and whose end by a signal is an ordinary end."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        """End; a second signal does not wait for open requests."""
        self.force_exit = self.should_exit
        self.should_exit = True


def _guarded(limits: Limits) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with a bound on how large a request's head is and how long it takes.

    The parser keeps every header it is sent, and uvicorn's own time-out begins only behind a first response.
    """

    class Guarded(HttpToolsProtocol):
        _head_bytes = 0
        _head_timer: asyncio.TimerHandle | None = None

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.access_log = False  # it would print queries; the application has its own

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._begin_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end_head()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._head_timer is not None:
                self._head_bytes += len(data)
            super().data_received(data)
            if self._head_timer is not None and self._head_bytes > _MOST_HEAD_BYTES:
                self._end_head()
                self.send_400_response("The request's head is too large.")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._head_timer is None:
                self._begin_head()

        def on_headers_complete(self) -> None:
            self._end_head()
            super().on_headers_complete()

        def _begin_head(self) -> None:
            self._head_bytes = 0
            self._head_timer = self.loop.call_later(limits.header_seconds, self._too_slow)

        def _end_head(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _too_slow(self) -> None:
            self._head_timer = None
            with suppress(OSError):
                self.transport.close()

    return Guarded
