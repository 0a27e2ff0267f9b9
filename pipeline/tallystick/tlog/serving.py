"""A handler of HTTP requests, served in threads for as long as a block lasts. For the log's own small services."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tallystick.core.errors import Unreachable


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], host: str, port: int) -> Iterator[str]:
    """Serve at ``host`` and ``port`` (0: a free one), and give the URL.

    Raises:
        Unreachable: the port is in use (``port.in-use``), or the address is not ours (``address.unusable``).
    """
    try:
        server = ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        code = "port.in-use" if error.errno == errno.EADDRINUSE else "address.unusable"
        raise Unreachable(f"{host}:{port}: {error.strerror}", code=code) from None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
