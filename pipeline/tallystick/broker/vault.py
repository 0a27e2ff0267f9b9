"""The vault: one encrypted file for each key, under one master key.

A key's identifier and its channel are authenticated together with its ciphertext, so a file that is renamed,
copied over another or edited opens for nobody, and a key can not change its channel (DESIGN.md, invariant 8).
A destroyed key leaves a sealed tombstone, so its name can not be given to another key either.

Source: NIST SP 800-38D (AES-GCM); RFC 7914 (scrypt); RFC 8785 (the bytes that are authenticated).
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, NewType

import rfc8785
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tallystick.broker.sealing import LocalSealer, Sealer, b64, sealer_of, unb64
from tallystick.broker.secretfiles import locked, private_folder, read_secret, write_secret
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Refused, Unreachable, Unsupported
from tallystick.handshake.kbs import check_key

VAULT_SCHEMA = "tallystick/vault/v1"
KEY_SCHEMA = "tallystick/wrapped-key/v1"
GENERATED_BYTES = 32  # AES-256, what an artifact's envelope takes
MAX_KEY_BYTES = 64 << 10  # a KBS resource may be a certificate chain or a configuration, not only a key
_MASTER_BYTES = 32
_NONCE_BYTES = 12
_SALT_BYTES = 16
_MAX_FILE_BYTES = 2 * MAX_KEY_BYTES
_SCRYPT = {"n": 1 << 15, "r": 8, "p": 1}  # OWASP Password Storage: 32 MiB, about 0.1 s
_SCRYPT_MEMORY_BYTES = 64 << 20
_CHANNEL = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

KeyId = NewType("KeyId", str)


class KeyState(Enum):
    """Whether a key's secret still exists."""

    LIVE = "live"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What may be shown of a key: everything but its secret. Its file has held."""

    key: KeyId
    channel: str
    state: KeyState
    origin: str  # "generated" | "imported"
    made_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KeyMaterial:
    """A key's secret, on its way to be wrapped. Its ``repr`` does not hold it."""

    record: KeyRecord
    secret: bytes

    def __repr__(self) -> str:
        return f"KeyMaterial({self.record.key})"


def key_id(text: str) -> KeyId:
    """Return ``text`` as a key's identifier: ``repository/type/tag``.

    Raises:
        Malformed: it is no such path.
    """
    return KeyId(check_key(text))


def channel_name(text: str) -> str:
    """Return ``text`` when it can name a channel.

    Raises:
        Malformed: not lower-case letters, digits and ``-``.
    """
    if not _CHANNEL.fullmatch(text):
        raise Malformed(
            "channel", at="name", want="lower-case letters, digits and -", got=text, code="channel.malformed"
        )
    return text


class Vault:
    """The keys under one folder, sealed by one sealer; opens one key's file at a time."""

    __slots__ = ("_folder", "_sealer")

    def __init__(self, folder: Path, sealer: Sealer) -> None:
        self._folder = folder
        self._sealer = sealer

    @classmethod
    def create(
        cls, folder: Path, *, passphrase: str | None = None, master: Mapping[str, str] | None = None
    ) -> Vault:
        """Make an empty vault in ``folder``; its master key is random, in a 0600 file.

        With a ``passphrase`` the file holds it encrypted under scrypt of the passphrase.

        Args:
            master: where the master key is instead: ``{"master": "pkcs11", "key": URI}`` or
                ``{"master": "transit", "key": URL, "ca": file}``. The passphrase is then the PIN or the token.

        Raises:
            Misuse: there is a vault already (``vault.exists``), or the passphrase is empty.
            TallystickError: as the token or the service says; a secret must come back before the vault is made.
        """
        if (folder / "vault.json").exists():
            raise Misuse(f"{folder} is a vault already", code="vault.exists")
        if master is not None:
            document: dict[str, Any] = {"schema": VAULT_SCHEMA, **master}
            sealer = sealer_of(document, _encoded(passphrase))
            _try(sealer)
            private_folder(folder / "keys")
            write_secret(folder / "vault.json", rfc8785.dumps(document))
            return cls(folder, sealer)
        private_folder(folder / "keys")
        key = secrets.token_bytes(_MASTER_BYTES)
        if passphrase is None:
            document = {"schema": VAULT_SCHEMA, "master": "file"}
            write_secret(folder / "master.key", key)
        else:
            document = {"schema": VAULT_SCHEMA, "master": "passphrase", **_lock(key, passphrase)}
        write_secret(folder / "vault.json", rfc8785.dumps(document))
        return cls(folder, LocalSealer(key))

    @classmethod
    def open(cls, folder: Path, *, passphrase: str | None = None) -> Vault:
        """Open the vault in ``folder``.

        Raises:
            Misuse: there is none, or it wants a passphrase and got none, or the other way round.
            Malformed: ``vault.json`` is not what this program writes.
            Unsupported: another schema or way to keep the master key.
            NotGenuine: a file that others can read, or a wrong passphrase.
        """
        document = _document(folder / "vault.json", "vault", VAULT_SCHEMA)
        kept = document.get("master")
        if kept == "file":
            if passphrase is not None:
                raise Misuse(f"the vault in {folder} has no passphrase", code="vault.passphrase")
            master = read_secret(folder / "master.key", "vault master key", max_bytes=_MASTER_BYTES)
        elif kept == "passphrase":
            if passphrase is None:
                raise Misuse(f"the vault in {folder} wants a passphrase", code="vault.passphrase")
            master = _unlock(document, passphrase)
        else:
            return cls(folder, sealer_of(document, _encoded(passphrase)))
        if len(master) != _MASTER_BYTES:
            raise Malformed("vault", at="master.key", want=f"{_MASTER_BYTES} bytes", got=f"{len(master)}")
        return cls(folder, LocalSealer(master))

    def generate(self, key: KeyId, *, channel: str, now: datetime) -> KeyRecord:
        """Make a random 256-bit key and return its record; the secret is never returned.

        Raises:
            Refused: the name is taken, by a live key or by a destroyed one (``key.exists``).
        """
        return self._add(key, channel, "generated", secrets.token_bytes(GENERATED_BYTES), now)

    def bring(self, key: KeyId, secret: bytes, *, channel: str, now: datetime) -> KeyRecord:
        """Keep ``secret``, made elsewhere, as ``key`` and return its record.

        Raises:
            Malformed: empty, or longer than ``MAX_KEY_BYTES``.
            Refused: the name is taken (``key.exists``).
        """
        self.check_secret(secret)
        return self._add(key, channel, "imported", secret, now)

    def check_secret(self, secret: bytes) -> None:
        """Check that ``secret`` is something this vault keeps.

        Raises:
            Malformed: empty, or longer than ``MAX_KEY_BYTES``.
        """
        if not 0 < len(secret) <= MAX_KEY_BYTES:
            raise Malformed("key", at="secret", want=f"1 to {MAX_KEY_BYTES} bytes", got=f"{len(secret)}")

    def destroy(self, key: KeyId, *, now: datetime) -> KeyRecord:
        """Replace ``key``'s secret by a tombstone and return its record. There is no way back.

        Raises:
            Refused: there is no such key, or it is destroyed already.
        """
        with locked(self._folder / "lock"):
            found = self.material(key).record
            gone = KeyRecord(
                key=key,
                channel=found.channel,
                state=KeyState.DESTROYED,
                origin=found.origin,
                made_at=now.astimezone(UTC).replace(microsecond=0),
            )
            write_secret(self._path(key), self._seal(gone, b""))
        return gone

    def material(self, key: KeyId) -> KeyMaterial:
        """Return ``key`` with its secret.

        Raises:
            Refused: there is no such key (``key.missing``), or it was destroyed (``key.destroyed``).
            NotGenuine: its file does not open under this master key and this name (``vault.not-genuine``).
        """
        path = self._path(key)
        if not path.exists():
            raise Refused(f"there is no key {key}", code="key.missing")
        found = self._unseal(path)
        if found.record.key != key:
            raise NotGenuine(
                f"{path}: want key {key}, got the file of key {found.record.key}", code="vault.not-genuine"
            )
        if found.record.state is KeyState.DESTROYED:
            raise Refused(f"the key {key} was destroyed", code="key.destroyed")
        return found

    def record(self, key: KeyId) -> KeyRecord | None:
        """Return what may be shown of ``key``, destroyed or not; None when there never was one."""
        path = self._path(key)
        return self._unseal(path).record if path.exists() else None

    def records(self) -> tuple[KeyRecord, ...]:
        """Return every key's record, sorted by name."""
        found = [self._unseal(path).record for path in (self._folder / "keys").glob("*.json")]
        return tuple(sorted(found, key=lambda record: record.key))

    def _path(self, key: KeyId) -> Path:
        return self._folder / "keys" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"

    def _add(self, key: KeyId, channel: str, origin: str, secret: bytes, now: datetime) -> KeyRecord:
        made_at = now.astimezone(UTC).replace(microsecond=0)
        record = KeyRecord(
            key=key, channel=channel_name(channel), state=KeyState.LIVE, origin=origin, made_at=made_at
        )
        with locked(self._folder / "lock"):
            taken = self.record(key)
            if taken is not None:
                raise Refused(
                    f"the name {key} is taken by a {taken.state.value} key of channel {taken.channel};"
                    " a key keeps its channel for life, so take the next tag",
                    code="key.exists",
                )
            write_secret(self._path(key), self._seal(record, secret))
        return record

    def _seal(self, record: KeyRecord, secret: bytes) -> bytes:
        head = _head(record)
        return rfc8785.dumps({**head, **self._sealer.seal(secret, rfc8785.dumps(head))})

    def _unseal(self, path: Path) -> KeyMaterial:
        document = _document(path, "key file", KEY_SCHEMA)
        sealed = {name: document.pop(name, None) for name in self._sealer.fields}
        try:
            secret = self._sealer.unseal(sealed, rfc8785.dumps(document))
        except NotGenuine as error:
            raise NotGenuine(f"{path}: {error.message}", code=error.code) from None
        return KeyMaterial(record=_record(document), secret=secret)


def _head(record: KeyRecord) -> dict[str, str]:
    """What is authenticated beside the secret, and readable without the master key."""
    return {
        "schema": KEY_SCHEMA,
        "key": record.key,
        "channel": record.channel,
        "state": record.state.value,
        "origin": record.origin,
        "made_at": record.made_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _record(head: dict[str, Any]) -> KeyRecord:
    return KeyRecord(
        key=key_id(head["key"]),
        channel=channel_name(head["channel"]),
        state=KeyState(head["state"]),
        origin=head["origin"],
        made_at=datetime.fromisoformat(head["made_at"]),
    )


def _encoded(passphrase: str | None) -> bytes | None:
    return None if passphrase is None else passphrase.encode()


def _try(sealer: Sealer) -> None:
    """Seal and unseal something, so that a vault is never made whose keys would be lost.

    Raises:
        Unreachable: something else came back (``vault.sealer``).
    """
    probe = secrets.token_bytes(GENERATED_BYTES)
    if sealer.unseal(sealer.seal(probe, b"probe"), b"probe") != probe:
        raise Unreachable("the master key does not give back what it sealed", code="vault.sealer")


def _lock(master: bytes, passphrase: str) -> dict[str, Any]:
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    head: dict[str, Any] = {"kdf": "scrypt", **_SCRYPT, "salt": b64(salt)}
    sealed = AESGCM(_stretch(passphrase, salt)).encrypt(nonce, master, rfc8785.dumps(head))
    return {**head, "nonce": b64(nonce), "sealed": b64(sealed)}


def _unlock(document: dict[str, Any], passphrase: str) -> bytes:
    head: dict[str, Any] = {name: document.get(name) for name in ("kdf", *_SCRYPT, "salt")}
    if {name: head[name] for name in ("kdf", *_SCRYPT)} != {"kdf": "scrypt", **_SCRYPT}:
        raise Unsupported("vault", at="kdf", want=f"scrypt with {_SCRYPT}", got=str(head))
    salt = unb64(head["salt"], "salt")
    nonce, sealed = (unb64(document.get(name), name) for name in ("nonce", "sealed"))
    try:
        return AESGCM(_stretch(passphrase, salt)).decrypt(nonce, sealed, rfc8785.dumps(head))
    except (InvalidTag, ValueError):
        raise NotGenuine("the vault does not open with this passphrase", code="vault.passphrase") from None


def _stretch(passphrase: str, salt: bytes) -> bytes:
    if not passphrase:
        raise Misuse("the vault's passphrase is empty", code="vault.passphrase")
    return hashlib.scrypt(
        passphrase.encode(), salt=salt, dklen=_MASTER_BYTES, maxmem=_SCRYPT_MEMORY_BYTES, **_SCRYPT
    )


def _document(path: Path, what: str, schema: str) -> dict[str, Any]:
    if not path.parent.is_dir():
        raise Misuse(
            f"{what}: there is no folder {path.parent}; run `tally broker init`", code="file.missing"
        )
    document = jsondoc.loads(read_secret(path, what, max_bytes=_MAX_FILE_BYTES), what)
    if not isinstance(document, dict):
        raise Malformed(what, at=str(path), want="an object", got=type(document).__name__)
    if document.get("schema") != schema:
        raise Unsupported(what, at="schema", want=schema, got=str(document.get("schema")))
    return document
