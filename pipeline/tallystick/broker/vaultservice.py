"""The HTTP API of HashiCorp Vault and OpenBao: one request, one answer, a token that goes to one address alone.

Source: HashiCorp Vault and OpenBao, "HTTP API", "Transit secrets engine (API)", "KV secrets engine - version 2 (API)".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tallystick.core.errors import Misuse, Unreachable

_SECONDS = (5, 20)  # to connect, and to answer
_MAX_ANSWER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Said:
    """What the service answered."""

    status: int
    data: Any  # the JSON document; None when it was none


class VaultService:
    """One service, one token."""

    __slots__ = ("_base", "_session")

    def __init__(self, url: str, token: bytes | None, *, ca: Path | None = None) -> None:
        """Prepare for the service that ``url`` is at. Nothing is sent yet.

        Raises:
            Misuse: plain HTTP to another machine, credentials or a query in the address, or no token.
        """
        import requests

        parts = urlsplit(url)
        local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1")
        if not (parts.scheme == "https" or local) or parts.query or parts.fragment or "@" in parts.netloc:
            raise Misuse(f"vault service: want https://HOST:PORT/v1/…, got {url[:120]}", code="vault.service")
        if not token:
            raise Misuse("vault service: its token is missing", code="vault.service")
        self._base = f"{parts.scheme}://{parts.netloc}/v1/"
        self._session = requests.Session()
        self._session.trust_env = False  # no credentials of ~/.netrc, no proxy for secrets
        self._session.verify = str(ca) if ca is not None else True
        self._session.headers["X-Vault-Token"] = token.decode("ascii", "replace")

    def ask(self, method: str, path: str, asked: Mapping[str, Any] | None = None) -> Said:
        """Return what the service answers; redirects are answers too, and are not followed.

        Raises:
            Unreachable: it does not answer, or with more than an answer has (``vault.sealer``).
        """
        import requests

        try:
            with self._session.request(
                method,
                self._base + path,
                json=asked,
                timeout=_SECONDS,
                stream=True,
                allow_redirects=False,  # the token is for this address alone
            ) as answer:
                data = answer.raw.read(_MAX_ANSWER_BYTES + 1, decode_content=True)
                status = answer.status_code
        except requests.RequestException as error:
            raise Unreachable(f"the vault service: {type(error).__name__}", code="vault.sealer") from None
        if len(data) > _MAX_ANSWER_BYTES:
            raise self.unusable(path, status)
        try:
            return Said(status, json.loads(data) if data else None)
        except ValueError:
            return Said(status, None)

    def unusable(self, path: str, status: int) -> Unreachable:
        """Return the error of an answer that is none; the caller raises it."""
        return Unreachable(
            f"the vault service: {path.split('/')[0]}: it answers {status}", code="vault.sealer"
        )
