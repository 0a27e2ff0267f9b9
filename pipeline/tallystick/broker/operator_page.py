"""The operators' page at the broker's address: read-only, and only for whoever has the operator's token.

It shows what the policies want and what refused machines reported, so a stranger gets nothing of it, not even whether
there is a page worth having: without the token every answer is the same 401.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from tallystick.broker.secretfiles import read_secret
from tallystick.core.errors import Misuse

PATH = "/operator"
_LEAST_TOKEN = 20  # characters: guessing has to be hopeless at the rate that one address may ask
_MOST_TOKEN_BYTES = 4096
_CHALLENGE = 'Basic realm="tallystick operator", charset="UTF-8"'

Draw = Callable[[], tuple[bytes, str]]  # -> (the page, the content policy that goes with it)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorPage:
    """The page and who may see it."""

    draw: Draw
    token: str = field(repr=False)
    _one: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    async def answer(self, request: Request) -> Response:
        """Return the page, or a challenge for the token."""
        if not self._may(request.headers.get("authorization", "")):
            return PlainTextResponse(
                "operators alone\n", 401, headers={**_HEADERS, "www-authenticate": _CHALLENGE}
            )
        page, policy = await asyncio.to_thread(self._draw)
        headers = {**_HEADERS, "content-security-policy": f"{policy}; frame-ancestors 'none'"}
        return Response(page, headers=headers, media_type="text/html; charset=utf-8")

    def _draw(self) -> tuple[bytes, str]:
        with self._one:  # a page costs more than a key
            return self.draw()

    def _may(self, header: str) -> bool:
        """Say whether a header carries the token: as a bearer, or as the password of anybody."""
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "basic":
            try:
                value = base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
            except (binascii.Error, UnicodeDecodeError, ValueError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(value.encode("utf-8", "surrogatepass"), self.token.encode("utf-8"))


_HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def of_file(path: Path, draw: Draw, *, host: str, secure: bool) -> OperatorPage:
    """Return the page for whoever has the token in the 0600 file ``path``.

    Args:
        host: the address that is listened at.
        secure: whether the service speaks TLS.

    Raises:
        Misuse: a token that could be guessed (``page.token``), or one that would cross a network in the clear
            (``page.plain``).
    """
    token = read_secret(path, "page token", max_bytes=_MOST_TOKEN_BYTES).decode("utf-8", "replace").strip()
    if len(token) < _LEAST_TOKEN:
        raise Misuse(f"{path}: want a token of {_LEAST_TOKEN} characters or more", code="page.token")
    if not secure and not _loopback(host):
        raise Misuse(
            f"the page at {host} needs --tls-certificate: its token is a password", code="page.plain"
        )
    return OperatorPage(draw=draw, token=token)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
