"""The HTTP face of a Sigstore, as far as sigstore-python asks: Fulcio's signingCert and Rekor v1's entries."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from signing.boxes import Box

from tallystick.core.errors import TallystickError


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@contextmanager
def serving(box: Box) -> Iterator[str]:
    """Serve the box's Sigstore on loopback and give its URL."""
    instance = box.instance

    class Face(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                answer = certify(body, token) if self.path == "/api/v2/signingCert" else submit(body)
            except TallystickError as error:
                self.reply(400, {"code": 3, "message": error.message})
                return
            self.reply(201, answer)

        def reply(self, code: int, document: dict[str, Any]) -> None:
            data = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def certify(body: dict[str, Any], token: str) -> dict[str, Any]:
        request = x509.load_pem_x509_csr(base64.b64decode(body["certificateSigningRequest"]))
        leaf = instance.authority.certify(request, token, now())
        chain = [one.public_bytes(Encoding.PEM).decode() for one in (leaf, *instance.authority.chain)]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def submit(body: dict[str, Any]) -> dict[str, Any]:
        entry = instance.log.submit(body, now())
        proof = entry["inclusionProof"]
        verification = {
            "signedEntryTimestamp": entry["inclusionPromise"]["signedEntryTimestamp"],
            "inclusionProof": {
                "checkpoint": proof["checkpoint"]["envelope"],
                "hashes": [base64.b64decode(step).hex() for step in proof["hashes"]],
                "logIndex": int(proof["logIndex"]),
                "rootHash": base64.b64decode(proof["rootHash"]).hex(),
                "treeSize": int(proof["treeSize"]),
            },
        }
        logged = {
            "body": entry["canonicalizedBody"],
            "integratedTime": int(entry["integratedTime"]),
            "logID": instance.log.log_id.hex(),
            "logIndex": int(entry["logIndex"]),
            "verification": verification,
        }
        return {"uuid": logged}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Face)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
