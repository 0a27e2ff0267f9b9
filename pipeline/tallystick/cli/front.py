"""What stands in front of a workload: it says whether the machine's appraisal passes, and lets nothing by until then.

One server, three things: ``/readyz`` for whoever routes traffic here, the machine's evidence bound to the server's own
TLS key and the asker's nonce, and everything else, handed to the workload only while the appraisal passes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tallystick.attester.client import Prove, bound
from tallystick.core.errors import TallystickError
from tallystick.handshake import binding, cmw, kbs
from tallystick.handshake.fields import b64, unb64url
from tallystick.handshake.teekey import TeePublicKey

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from ssl import SSLContext

READY_PATH, HEALTH_PATH = "/readyz", "/healthz"
NOT_YET = "attest.not-yet"  # no appraisal has come back so far
_NONCE_BYTES = (16, 64)
_UPSTREAM_SECONDS = 300.0
_CHUNK_BYTES = 64 << 10
_MOST_BODY_BYTES = 64 << 20
_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-authorization"}


@dataclass(slots=True)
class Gate:
    """Whether traffic may pass, and why not. One thread appraises, others ask."""

    code: str = NOT_YET
    message: str = "no appraisal has come back yet"
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def passed(self) -> None:
        """Let traffic by."""
        with self._lock:
            self.code = self.message = ""

    def failed(self, error: TallystickError) -> None:
        """Hold traffic from here on, for ``error``."""
        with self._lock:
            self.code, self.message = error.code, error.message

    def verdict(self) -> tuple[int, dict[str, object]]:
        """Return the status and the document that say it."""
        with self._lock:
            said = {"code": self.code, "message": self.message} if self.code else {}
            return 503 if self.code else 200, {"ready": not self.code, **said}


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """Gives this machine's evidence to whoever asks, bound to the server's TLS key. One at a time."""

    tee: str
    prove: Prove
    public: TeePublicKey  # of the TLS certificate
    init_data: str | None
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def evidence(self, nonce: bytes) -> bytes:
        """Return the wrapped evidence that is bound to ``nonce`` and to the TLS key."""
        challenge = kbs.Challenge(nonce=b64(nonce), hash_algorithm=binding.choose_hash(self.tee, ()))
        with self._turn:
            message = bound(challenge, self.public, self.prove, init_data=self.init_data)
        return cmw.wrap(self.tee, kbs.encode(message.document()))


def server(
    address: tuple[str, int],
    gate: Gate,
    *,
    witness: Witness | None = None,
    upstream: tuple[str, int] | None = None,
    tls: SSLContext | None = None,
) -> ThreadingHTTPServer:
    """Return a server at ``address`` that is yet to be started.

    Args:
        witness: gives the evidence; None gives none.
        upstream: host and port of the workload; None hands nothing on.
        tls: None speaks plain HTTP, as a readiness probe inside a pod does.
    """
    from http.server import ThreadingHTTPServer

    class Front(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def get_request(self) -> tuple[object, object]:  # type: ignore[override]
            connection, client = super().get_request()
            connection.settimeout(_UPSTREAM_SECONDS)
            if tls is not None:  # the handshake itself comes in the request's own thread
                connection = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            return connection, client

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that goes away, or speaks no TLS, is nobody's error."""

    return Front(address, _handler(gate, witness, upstream))


def _handler(
    gate: Gate, witness: Witness | None, upstream: tuple[str, int] | None
) -> type[BaseHTTPRequestHandler]:
    from http.server import BaseHTTPRequestHandler

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version, sys_version = "tally", ""

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name.startswith("do_"):
                return self._answer
            raise AttributeError(name)

        def _answer(self) -> None:
            path, _, query = self.path.partition("?")
            if path == HEALTH_PATH:
                self._said(200, {"alive": True})
            elif path == READY_PATH:
                self._said(*gate.verdict())
            elif path == cmw.PATH and witness is not None:
                self._evidence(witness, query)
            elif upstream is None:
                self._said(404, {"code": "path.unknown"})
            elif gate.verdict()[0] != 200:
                self._said(*gate.verdict())
            else:
                self._handed_on(upstream)

        def _evidence(self, found: Witness, query: str) -> None:
            try:
                nonce = unb64url(query.removeprefix("nonce="))
            except ValueError:
                nonce = b""
            if not _NONCE_BYTES[0] <= len(nonce) <= _NONCE_BYTES[1]:
                want = f"?nonce= with {_NONCE_BYTES[0]} to {_NONCE_BYTES[1]} bytes in base64url"
                self._said(400, {"code": "peer.nonce", "message": want})
                return
            try:
                self._sent(200, found.evidence(nonce), cmw.MEDIA_TYPE)
            except TallystickError as error:
                self._said(503, {"code": error.code, "message": error.message})

        def _handed_on(self, to: tuple[str, int]) -> None:
            import http.client

            size = self.headers.get("Content-Length", "0")
            if "Transfer-Encoding" in self.headers or not size.isdecimal() or int(size) > _MOST_BODY_BYTES:
                self.close_connection = True
                self._said(411, {"code": "body.length", "message": "want a body of a stated length"})
                return
            connection = http.client.HTTPConnection(*to, timeout=_UPSTREAM_SECONDS)
            try:
                kept = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
                connection.request(self.command, self.path, self.rfile.read(int(size)), kept)
                self._passed_back(connection.getresponse())
            except (OSError, http.client.HTTPException) as error:
                self.close_connection = True
                self._said(502, {"code": "upstream.unreachable", "message": type(error).__name__})
            finally:
                connection.close()

        def _passed_back(self, answer: HTTPResponse) -> None:
            """Send the workload's answer on as it comes; the connection's end is the body's."""
            self.close_connection = True
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            while part := answer.read1(_CHUNK_BYTES):
                self.wfile.write(part)
                self.wfile.flush()

        def _said(self, status: int, document: dict[str, object]) -> None:
            self._sent(status, json.dumps(document).encode() + b"\n", "application/json")

        def _sent(self, status: int, body: bytes, media_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: what was asked is the client's business."""

    return Handler
