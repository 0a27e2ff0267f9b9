"""Sealed documents in Vault's or OpenBao's key-value engine, version 2.

What is written there is sealed already: who reads the engine reads no key. Every write names the version that it
replaces, so that two brokers never overwrite each other, and the versions before it are destroyed, so that a destroyed
key is gone.

Source: HashiCorp Vault and OpenBao, "KV secrets engine - version 2 (API)": data, destroy, metadata (LIST).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tallystick.broker.places import NEW, Kept, raced
from tallystick.broker.vaultservice import Said, VaultService
from tallystick.core.errors import Misuse, NotGenuine

_URL = re.compile(r"/v1/([A-Za-z0-9_.-]+)/data/((?:[A-Za-z0-9_.-]+/)*[A-Za-z0-9_.-]+)")
_NAME = re.compile(r"[0-9a-f]{64}")
_FIELD = "document"


class KvPlace:
    """The documents below one path of a key-value engine."""

    __slots__ = ("_mount", "_path", "_service")

    def __init__(self, url: str, token: bytes | None, *, ca: Path | None = None) -> None:
        """Prepare for ``https://HOST:PORT/v1/MOUNT/data/PATH``. Nothing is sent yet.

        Raises:
            Misuse: another form of address, or as :class:`VaultService` says.
        """
        match = _URL.fullmatch(urlsplit(url).path)
        if match is None or any(part in (".", "..") for part in match[0].split("/")):
            want = "https://HOST:PORT/v1/MOUNT/data/PATH"
            raise Misuse(f"key-value engine: want {want}, got {url[:120]}", code="vault.kv")
        self._mount, self._path = match[1], match[2]
        self._service = VaultService(url, token, ca=ca)

    def read(self, name: str) -> Kept | None:
        """Return the document, as :meth:`Place.read`.

        Raises:
            Unreachable: the engine does not answer.
            NotGenuine: what it answers is no document of ours.
        """
        said = self._service.ask("GET", self._at("data", name))
        if said.status == 404 and _inner(said, "metadata") is None:
            return None
        if said.status != 200:
            raise self._service.unusable(self._mount, said.status)
        document, version = _inner(said, "data"), (_inner(said, "metadata") or {}).get("version")
        text = document.get(_FIELD) if document is not None else None
        if not isinstance(text, str) or not isinstance(version, int) or version <= NEW:
            raise NotGenuine(f"key-value engine: {name} is no sealed key", code="vault.not-genuine")
        return Kept(text.encode("utf-8", "surrogatepass"), version)

    def write(self, name: str, data: bytes, *, after: int) -> None:
        """Keep ``data``, as :meth:`Place.write`, and destroy the versions before it.

        Raises:
            Refused: another version is there (``key.raced``).
            Unreachable: the engine does not answer; or it kept the new version and not destroyed the old ones.
        """
        asked = {"options": {"cas": after}, "data": {_FIELD: data.decode()}}
        said = self._service.ask("POST", self._at("data", name), asked)
        if said.status == 400 and "check-and-set" in str(said.data):
            raise raced()
        if said.status != 200:
            raise self._service.unusable(self._mount, said.status)
        if after > NEW:
            gone = {"versions": list(range(1, after + 1))}
            said = self._service.ask("POST", self._at("destroy", name), gone)
            if said.status not in (200, 204):
                raise self._service.unusable(self._mount, said.status)

    def names(self) -> tuple[str, ...]:
        """Return the names of all documents, sorted."""
        said = self._service.ask("GET", f"{self._mount}/metadata/{self._path}?list=true")
        if said.status == 404:
            return ()
        keys = (said.data or {}).get("data", {}).get("keys") if isinstance(said.data, dict) else None
        if said.status != 200 or not isinstance(keys, list):
            raise self._service.unusable(self._mount, said.status)
        return tuple(sorted(key for key in keys if isinstance(key, str) and _NAME.fullmatch(key)))

    def _at(self, what: str, name: str) -> str:
        return f"{self._mount}/{what}/{self._path}/{name}"


def _inner(said: Said, name: str) -> dict[str, Any] | None:
    """Return an object of the answer's ``data``; a deleted version answers 404 and has its metadata."""
    outer = said.data.get("data") if isinstance(said.data, dict) else None
    found = outer.get(name) if isinstance(outer, dict) else None
    return found if isinstance(found, dict) else None
