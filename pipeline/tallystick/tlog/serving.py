"""A handler of HTTP requests, served in threads for as long as a block lasts. For the log's own small services."""

from __future__ import annotations

import errno
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tallystick.core.errors import Unreachable


class _Server(ThreadingHTTPServer):
    """A client that hangs up, or does not get through TLS, is nothing to write home about."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serving(
    handler: type[BaseHTTPRequestHandler], host: str, port: int, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Serve at ``host`` and ``port`` (0: a free one), and give the URL.

    Args:
        tls: with it, HTTPS and nothing else. The handshake is the request's thread's, which waits only so long.

    Raises:
        Unreachable: the port is in use (``port.in-use``), or the address is not ours (``address.unusable``).
    """
    try:
        server = _Server((host, port), handler)
    except OSError as error:
        code = "port.in-use" if error.errno == errno.EADDRINUSE else "address.unusable"
        raise Unreachable(f"{host}:{port}: {error.strerror}", code=code) from None
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{'http' if tls is None else 'https'}://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
