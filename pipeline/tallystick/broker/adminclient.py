"""An administrator's side of the network API: sign, send, read the answer."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tallystick.broker.adminapi import CHANNEL_PATH, KEYS_PATH
from tallystick.broker.adminauth import SCHEME, AdminKey
from tallystick.broker.keyops import KeyOperation, operation_document
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Refused, Unreachable
from tallystick.handshake.kbs import ErrorDocument, encode

_SECONDS = 30.0
_MAX_ANSWER_BYTES = 8 << 20


class AdminClient:
    """Requests to one broker, each signed anew."""

    def __init__(
        self, url: str, key: AdminKey, *, now: Callable[[], datetime], ca: Path | None = None
    ) -> None:
        """Prepare for the broker at ``url``; nothing is sent yet.

        Raises:
            Misuse: plain HTTP to another machine, or no address of a broker (``broker.url``).
            Unreachable: the file ``ca`` can not be read.
        """
        parts = urlsplit(url)
        local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
        if (
            not (parts.scheme == "https" or local)
            or not parts.hostname
            or parts.query
            or parts.path.strip("/")
        ):
            want = "https://HOST:PORT (http only to this machine)"
            raise Misuse(f"broker: want {want}, got {url[:120]}", code="broker.url")
        self._parts, self._key, self._now, self._tls = parts, key, now, None
        if parts.scheme == "https":
            try:
                self._tls = ssl.create_default_context(cafile=None if ca is None else str(ca))
            except (OSError, ssl.SSLError) as error:
                raise Unreachable(f"{ca}: {error}", code="tls.authority") from None

    def operate(self, operation: KeyOperation) -> dict[str, Any]:
        """Do one key operation and return the broker's answer.

        Raises:
            Refused, NotGenuine, Malformed: as the broker says. Unreachable: it does not answer.
        """
        return self._ask("POST", KEYS_PATH, encode(operation_document(operation)))

    def keys(self) -> list[dict[str, str]]:
        """Return the records of the keys in this administrator's channels; errors as :meth:`operate`."""
        found = self._ask("GET", KEYS_PATH, b"").get("keys")
        if not isinstance(found, list):
            raise Malformed("broker's answer", at="keys", want="a list", got=type(found).__name__)
        return found

    def read_channel(self) -> dict[str, Any]:
        """Have the broker read its channel now and return what is in force; errors as :meth:`operate`."""
        return self._ask("POST", CHANNEL_PATH, b"")

    def _ask(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        headers = {
            "Authorization": f"{SCHEME} {self._key.sign(method, path, body, now=self._now())}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Connection": "close",
        }
        connection = self._connect()
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            data = answer.read(_MAX_ANSWER_BYTES + 1)
        except (OSError, HTTPException) as error:
            said = f"{self._parts.netloc}: {type(error).__name__}: {error}"
            raise Unreachable(f"broker {said}", code="broker.unreachable") from None
        finally:
            connection.close()
        if answer.status != 200:
            raise _refusal(answer.status, data)
        found = jsondoc.loads(data, "broker's answer", max_bytes=_MAX_ANSWER_BYTES)
        if not isinstance(found, dict):
            raise Malformed("broker's answer", at="document", want="an object", got=type(found).__name__)
        return found

    def _connect(self) -> HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._tls is None:
            return HTTPConnection(host, port, timeout=_SECONDS)
        return HTTPSConnection(host, port, timeout=_SECONDS, context=self._tls)


def _refusal(status: int, data: bytes) -> Refused | NotGenuine | Malformed | Unreachable:
    """Return the error for an answer that is not a success."""
    try:
        said = ErrorDocument.parse(data)
    except Malformed:
        return Unreachable(f"the broker answers HTTP {status}", code="broker.refused")
    words, code = f"the broker refused: {said.detail}", said.code or "broker.refused"
    if status == 401:
        return NotGenuine(words, code=code, findings=said.findings)
    if status == 403:
        return Refused(words, code=code, findings=said.findings)
    if 400 <= status < 500:
        return Malformed(
            "broker", at="request", want="one it takes", got=f"HTTP {status}: {said.detail}", code=code
        )
    return Unreachable(words, code=code)
