"""What seals keys in the vault: a master key in a file, in a hardware token, or in another service.

A sealer takes a secret and what must be authenticated beside it, and gives fields for the key's file. The master
key of a token or a service never reaches this process.

Source: NIST SP 800-38D (AES-GCM); PKCS #11 v3.0 current mechanisms, section 2.12 (CKM_AES_GCM); HashiCorp Vault and
OpenBao, "Transit secrets engine (API)".
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tallystick.broker.vaultservice import VaultService
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Unreachable, Unsupported

if TYPE_CHECKING:
    from pathlib import Path

_NONCE_BYTES = 12
_TAG_BITS = 128
_KEY_URL = re.compile(r"/v1/((?:[A-Za-z0-9_.-]+/)*[A-Za-z0-9_.-]+)/keys/([A-Za-z0-9_.-]+)")

Fields = dict[str, str]


class Sealer(Protocol):
    """Seals secrets under one master key."""

    fields: tuple[str, ...]  # the names of what it adds to a key's file

    def seal(self, secret: bytes, beside: bytes) -> Fields:
        """Return ``secret`` sealed together with ``beside``."""
        ...

    def unseal(self, sealed: Mapping[str, Any], beside: bytes) -> bytes:
        """Return the secret.

        Raises:
            NotGenuine: sealed by another master key or beside something else (``vault.not-genuine``).
            Malformed: fields that are none of this sealer's.
            Unreachable: the token or the service does not answer (``vault.sealer``).
        """
        ...


class LocalSealer:
    """A 256-bit master key in this process's memory."""

    fields: tuple[str, ...] = ("nonce", "sealed")

    def __init__(self, master: bytes) -> None:
        self._aead = AESGCM(master)

    def seal(self, secret: bytes, beside: bytes) -> Fields:
        """Return the nonce and the ciphertext with its tag."""
        nonce = os.urandom(_NONCE_BYTES)
        return {"nonce": b64(nonce), "sealed": b64(self._aead.encrypt(nonce, secret, beside))}

    def unseal(self, sealed: Mapping[str, Any], beside: bytes) -> bytes:
        """Return the secret; errors as :meth:`Sealer.unseal`."""
        nonce, data = (unb64(sealed.get(name), name) for name in self.fields)
        try:
            return self._aead.decrypt(nonce, data, beside)
        except (InvalidTag, ValueError):
            raise not_genuine() from None


class TokenSealer:
    """An AES key in a PKCS#11 token; every secret goes through the token."""

    fields: tuple[str, ...] = ("nonce", "sealed")

    def __init__(self, uri: str, pin: bytes | None) -> None:
        """Log in to the token; errors as :func:`tallystick.signing.hardware.load`."""
        from tallystick.signing import hardware

        self._handle = hardware.load_aes(uri, pin)
        self._one_at_a_time = Lock()  # a PKCS#11 session is one thread's

    def seal(self, secret: bytes, beside: bytes) -> Fields:
        """Return the nonce and the ciphertext with its tag."""
        nonce = os.urandom(_NONCE_BYTES)
        return {"nonce": b64(nonce), "sealed": b64(self._run("encrypt", secret, nonce, beside))}

    def unseal(self, sealed: Mapping[str, Any], beside: bytes) -> bytes:
        """Return the secret; errors as :meth:`Sealer.unseal`."""
        nonce, data = (unb64(sealed.get(name), name) for name in self.fields)
        if len(nonce) != _NONCE_BYTES or len(data) < _TAG_BITS // 8:
            raise not_genuine()
        return self._run("decrypt", data, nonce, beside)

    def _run(self, what: str, data: bytes, nonce: bytes, beside: bytes) -> bytes:
        from pkcs11 import GCMParams, Mechanism
        from pkcs11 import exceptions as said

        parameters = GCMParams(nonce, beside, _TAG_BITS)
        try:
            with self._one_at_a_time:
                run = getattr(self._handle, what)
                return bytes(run(data, mechanism=Mechanism.AES_GCM, mechanism_param=parameters))
        except said.PKCS11Error as error:
            refused = (said.EncryptedDataInvalid, said.EncryptedDataLenRange, said.DataInvalid)
            # SoftHSM says no more than "general error" of a tag that does not hold
            if what == "decrypt" and isinstance(error, (*refused, said.GeneralError)):
                raise not_genuine() from None
            raise Unreachable(f"the token: {type(error).__name__}", code="vault.sealer") from None


class TransitSealer:
    """A key of Vault's or OpenBao's transit engine; every secret goes through the service, over TLS."""

    fields: tuple[str, ...] = ("sealed",)

    def __init__(self, key_url: str, token: bytes | None, *, ca: Path | None = None) -> None:
        """Prepare for the key at ``key_url``: ``https://host:8200/v1/transit/keys/NAME``. Nothing is sent yet.

        Raises:
            Misuse: another form of address (``vault.transit``), or as :class:`VaultService` says.
        """
        match = _KEY_URL.fullmatch(urlsplit(key_url).path)
        if match is None:
            want = "https://HOST:PORT/v1/MOUNT/keys/NAME"
            raise Misuse(f"transit key: want {want}, got {key_url[:120]}", code="vault.transit")
        self._mount, self._name = match[1], match[2]
        self._service = VaultService(key_url, token, ca=ca)

    def seal(self, secret: bytes, beside: bytes) -> Fields:
        """Return the service's own ciphertext, which names the version of its key."""
        asked = {"plaintext": b64(secret), "associated_data": b64(beside)}
        return {"sealed": self._ask("encrypt", asked, "ciphertext")}

    def unseal(self, sealed: Mapping[str, Any], beside: bytes) -> bytes:
        """Return the secret; errors as :meth:`Sealer.unseal`."""
        text = sealed.get("sealed")
        if not isinstance(text, str) or not re.fullmatch(r"vault:v[0-9]+:[A-Za-z0-9+/=]+", text):
            raise Malformed("vault", at="sealed", want="vault:vN:<base64>", got=type(text).__name__)
        asked = {"ciphertext": text, "associated_data": b64(beside)}
        return unb64(self._ask("decrypt", asked, "plaintext"), "plaintext")

    def _ask(self, what: str, asked: dict[str, str], wanted: str) -> str:
        path = f"{self._mount}/{what}/{self._name}"
        said = self._service.ask("POST", path, asked)
        if what == "decrypt" and said.status == 400:
            raise not_genuine()
        outer = said.data.get("data") if said.status == 200 and isinstance(said.data, dict) else None
        found = outer.get(wanted) if isinstance(outer, dict) else None
        if not isinstance(found, str):
            raise self._service.unusable(path, said.status)
        return found


def sealer_of(document: Mapping[str, Any], secret: bytes | None) -> Sealer:
    """Return the sealer that a vault's ``master`` field names beside the local ones.

    Args:
        secret: the token's PIN, or the service's token.

    Raises:
        Unsupported: none of them. Misuse, Unreachable: as each says.
    """
    from pathlib import Path

    kept, place = document.get("master"), document.get("key")
    if kept == "pkcs11" and isinstance(place, str):
        return TokenSealer(place, secret)
    if kept == "transit" and isinstance(place, str):
        ca = document.get("ca")
        return TransitSealer(place, secret, ca=Path(ca) if isinstance(ca, str) else None)
    raise Unsupported("vault", at="master", want="file, passphrase, pkcs11 or transit", got=str(kept))


def not_genuine() -> NotGenuine:
    """Return the error of what does not unseal; the caller raises it."""
    return NotGenuine("the file was edited, or belongs to another vault", code="vault.not-genuine")


def b64(data: bytes) -> str:
    """Return base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def unb64(value: object, name: str) -> bytes:
    """Return the bytes of a field; Malformed when it is none."""
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise Malformed("vault", at=name, want="base64", got=type(value).__name__)
