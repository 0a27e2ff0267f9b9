"""Registries for tests: Debian's, run for real, and a small one that can be told to misbehave."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import support_http

PROGRAM = shutil.which("docker-registry")


@contextmanager
def debian(folder: Path, tls: tuple[Path, Path] | None = None) -> Iterator[str]:
    """Run Debian's docker-registry over ``folder`` and give its host and port.

    Args:
        tls: certificate and key; without them it speaks HTTP.
    """
    secure = ""
    if tls is not None:
        secure = f", tls: {{certificate: '{tls[0]}', key: '{tls[1]}'}}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    config = folder / "registry.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/store}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '{host}'{secure}}}\n"
    )
    assert PROGRAM is not None
    process = subprocess.Popen(
        [PROGRAM, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", int(host.partition(":")[2])), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise AssertionError("docker-registry did not start")
        yield host
    finally:
        process.terminate()
        process.wait(10)


class Small:
    """A registry in memory with the referrers list, tokens when asked for, and faults when told."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.token: str | None = None  # when set, every request must carry it
        self.cut: int | None = None  # a blob's answer ends after so many bytes, once
        self.ranges: list[str] = []  # of the blob requests that asked for one
        self.lies: dict[str, bytes] = {}  # digest or tag -> what is sent instead
        self.deletes = True
        self.uploads: dict[str, bytearray] = {}
        self.patches: list[str] = []  # Content-Range of each chunk
        self.cut_upload: int | None = None  # a chunk breaks off after so many bytes, once
        self.forgets = False  # an upload that broke off is dropped, as docker-registry 2.8 does

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve until the block ends; gives host and port."""
        with support_http.serving(_handler(self)) as url:
            yield url.removeprefix("http://")


def _handler(state: Small) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _say(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _stopped(self) -> bool:
            if state.token is None or self.headers.get("Authorization") == f"Bearer {state.token}":
                return False
            host = self.headers["Host"]
            realm = f'Bearer realm="http://{host}/token",service="small",scope="repository:a/b:pull,push"'
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._say(401, WWW_Authenticate=realm)
            return True

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path == "/token":
                expected = "Basic dTpz"  # u:s
                good = self.headers.get("Authorization") == expected
                return self._say(
                    200 if good else 403, json.dumps({"token": state.token}).encode() if good else b""
                )
            if self._stopped():
                return None
            kind, name = path.split("/")[-2:]
            if kind == "uploads":
                if name not in state.uploads:
                    return self._say(404)
                return self._say(204, Range=f"0-{max(0, len(state.uploads[name]) - 1)}")
            if kind == "referrers":
                return self._say(200, json.dumps({"manifests": self._referrers(name)}).encode())
            held = state.blobs if kind == "blobs" else state.manifests
            data = state.lies.get(name, held.get(name))
            if data is None:
                return self._say(404)
            return self._blob(data) if kind == "blobs" else self._say(200, data)

        do_HEAD = do_GET

        def _blob(self, data: bytes) -> None:
            asked = self.headers.get("Range")
            if asked and self.command == "GET":
                state.ranges.append(asked)
                data = data[int(asked.removeprefix("bytes=").rstrip("-")) :]
            if state.cut is not None and self.command == "GET" and len(data) > state.cut:
                short, state.cut = data[: state.cut], None
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(short)
                self.close_connection = True
                return
            self._say(206 if asked else 200, data)

        def _referrers(self, subject: str) -> list[dict[str, object]]:
            found = []
            for name, data in state.manifests.items():
                document = json.loads(data)
                if name.startswith("sha256:") and document.get("subject", {}).get("digest") == subject:
                    found.append({"digest": name, "size": len(data), "mediaType": document["mediaType"]})
            return found

        def do_POST(self) -> None:
            if not self._stopped():
                name = f"upload-{len(state.uploads)}"
                state.uploads[name] = bytearray()
                self._say(202, Location=f"{urlsplit(self.path).path}{name}?state=x")

        def do_PATCH(self) -> None:
            name = urlsplit(self.path).path.split("/")[-1]
            held = state.uploads.get(name)
            size, asked = int(self.headers["Content-Length"]), self.headers["Content-Range"]
            if state.cut_upload is not None and held is not None:
                held += self.rfile.read(state.cut_upload)
                state.cut_upload = None
                if state.forgets:
                    del state.uploads[name]
                self.close_connection = True
                self.connection.close()
                return
            data = self.rfile.read(size)
            if held is None or asked != f"{len(held)}-{len(held) + size - 1}":
                self._say(404 if held is None else 416)
                return
            state.patches.append(asked)
            held += data
            self._say(202, Location=self.path, Range=f"0-{len(held) - 1}")

        def do_PUT(self) -> None:
            if self._stopped():
                return None
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if "/uploads/" in self.path:
                data = bytes(state.uploads.pop(urlsplit(self.path).path.split("/")[-1])) + data
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            parts = urlsplit(self.path)
            if "/blobs/" in parts.path:
                right = parse_qs(parts.query)["digest"] == [digest]
                if right:
                    state.blobs[digest] = data
                return self._say(201 if right else 400)
            state.manifests[parts.path.split("/")[-1]] = data
            state.manifests[digest] = data
            return self._say(201)

        def do_DELETE(self) -> None:
            if self._stopped():
                return
            if state.deletes:
                state.manifests.pop(self.path.split("/")[-1], None)
            self._say(202 if state.deletes else 405)

    return Handler
