"""The sockets of an embedded Sigstore's front: one thread a request, bounded bodies, bounded waits. For development."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from ssl import SSLContext

from tallystick.signing.embedded.front import MAX_BODY_BYTES, Answer, Front
from tallystick.tlog.serving import serving as http_serving

_WAIT_SECONDS = 30  # for a client that sends nothing


@contextmanager
def serving(
    front: Front, host: str, port: int, clock: Callable[[], datetime], tls: SSLContext | None = None
) -> Iterator[str]:
    """Answer at ``host`` and ``port`` (0: a free one) for as long as the block lasts, and give the URL.

    Raises:
        Unreachable: the port is in use (``port.in-use``), or the address is not ours (``address.unusable``).
    """
    one_at_a_time = threading.Lock()  # the CA's nonces and the logs' locks are this process's

    class Face(BaseHTTPRequestHandler):
        timeout = _WAIT_SECONDS
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing: what is certified and logged is in the logs."""

        def do_GET(self) -> None:
            self._answer("GET", b"")

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY_BYTES:
                self.close_connection = True
                self._send(Answer(status=413, body=b"{}"))
                return
            self._answer("POST", self.rfile.read(int(length)))

        def _answer(self, method: str, body: bytes) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            with one_at_a_time:
                answer = front.answer(method, self.path, headers, body, clock())
            self._send(answer)

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            for name, value in answer.headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

    with http_serving(Face, host, port, tls) as url:
        yield url
