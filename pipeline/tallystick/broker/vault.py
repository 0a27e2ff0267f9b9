"""The vault: one sealed document for each key, under one master key.

A key's identifier and its channel are authenticated together with its ciphertext, so a document that is renamed,
copied over another or edited opens for nobody, and a key can not change its channel (DESIGN.md, invariant 8).
A destroyed key leaves a sealed tombstone, so its name can not be given to another key either. A key never changes:
its rotation is another key, under the next tag, which says whose place it takes.

Source: RFC 8785 (the bytes that are authenticated).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, NewType

from tallystick.broker import vaultfile
from tallystick.broker.places import NEW, Place
from tallystick.broker.sealing import Sealer
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, NotGenuine, Refused
from tallystick.handshake.kbs import check_key

KEY_SCHEMA = "tallystick/wrapped-key/v1"
GENERATED_BYTES = 32  # AES-256, what an artifact's envelope takes
MAX_KEY_BYTES = 64 << 10  # a KBS resource may be a certificate chain or a configuration, not only a key
_CHANNEL = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_COUNTED = re.compile(r"(.*?)([0-9]{1,9})")

KeyId = NewType("KeyId", str)


class KeyState(Enum):
    """Whether a key's secret still exists."""

    LIVE = "live"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What may be shown of a key: everything but its secret. Its document has held."""

    key: KeyId
    channel: str
    state: KeyState
    origin: str  # "generated" | "imported"
    made_at: datetime
    replaces: str = ""  # the key that this one was made to follow


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


def next_key(key: KeyId) -> KeyId:
    """Return the key that follows ``key``: the same path with the number at its end raised by one.

    Raises:
        Malformed: its tag does not end in a number, so the next one must be named.
    """
    counted = _COUNTED.fullmatch(key)
    if counted is None:
        raise Malformed(
            "key", at="tag", want="a tag that ends in a number, or --to with the next one", got=key
        )
    return key_id(f"{counted[1]}{int(counted[2]) + 1}")


class Vault:
    """The keys in one place, sealed by one sealer; opens one key at a time."""

    __slots__ = ("_place", "_sealer")

    def __init__(self, place: Place, sealer: Sealer) -> None:
        self._place = place
        self._sealer = sealer

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        passphrase: str | None = None,
        master: Mapping[str, str] | None = None,
        kv: Mapping[str, str] | None = None,
        database: str | None = None,
    ) -> Vault:
        """Make an empty vault; arguments and errors as :func:`vaultfile.create`."""
        return cls(*vaultfile.create(folder, passphrase=passphrase, master=master, kv=kv, database=database))

    @classmethod
    def open(cls, folder: Path, *, passphrase: str | None = None) -> Vault:
        """Open the vault in ``folder``; errors as :func:`vaultfile.load`."""
        return cls(*vaultfile.load(folder, passphrase=passphrase))

    @property
    def sealer(self) -> Sealer:
        """What seals under the master key, for the broker's own data keys."""
        return self._sealer

    def generate(self, key: KeyId, *, channel: str, now: datetime) -> KeyRecord:
        """Make a random 256-bit key and return its record; the secret is never returned.

        Raises:
            Refused: the name is taken, by a live key or by a destroyed one (``key.exists``).
        """
        return self._add(key, channel, "generated", secrets.token_bytes(GENERATED_BYTES), now)

    def rotate(self, key: KeyId, to: KeyId, *, now: datetime, secret: bytes = b"") -> KeyRecord:
        """Make ``to``, a key of the same channel that takes the place of ``key``, and return its record.

        ``key`` stays as it is: a policy that names it still releases it, until it is destroyed.

        Args:
            secret: made elsewhere; empty makes a random one.

        Raises:
            Refused: ``key`` is no live key, or the name ``to`` is taken.
        """
        channel = self.material(key).record.channel
        if secret:
            self.check_secret(secret)
            return self._add(to, channel, "imported", secret, now, replaces=key)
        return self._add(to, channel, "generated", secrets.token_bytes(GENERATED_BYTES), now, replaces=key)

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
        found, version = self._live(key)
        gone = replace(
            found.record, state=KeyState.DESTROYED, made_at=now.astimezone(UTC).replace(microsecond=0)
        )
        self._place.write(_name(key), self._seal(gone, b""), after=version)
        return gone

    def material(self, key: KeyId) -> KeyMaterial:
        """Return ``key`` with its secret.

        Raises:
            Refused: there is no such key (``key.missing``), or it was destroyed (``key.destroyed``).
            NotGenuine: its file does not open under this master key and this name (``vault.not-genuine``).
        """
        return self._live(key)[0]

    def record(self, key: KeyId) -> KeyRecord | None:
        """Return what may be shown of ``key``, destroyed or not; None when there never was one."""
        kept = self._place.read(_name(key))
        return None if kept is None else self._unseal(kept.data, _name(key)).record

    def records(self) -> tuple[KeyRecord, ...]:
        """Return every key's record, sorted by name."""
        kept = ((name, self._place.read(name)) for name in self._place.names())
        found = [self._unseal(one.data, name).record for name, one in kept if one is not None]
        return tuple(sorted(found, key=lambda record: record.key))

    def _live(self, key: KeyId) -> tuple[KeyMaterial, int]:
        kept = self._place.read(_name(key))
        if kept is None:
            raise Refused(f"there is no key {key}", code="key.missing")
        found = self._unseal(kept.data, _name(key))
        if found.record.key != key:
            raise NotGenuine(
                f"key {key}: want key {key}, got the file of key {found.record.key}", code="vault.not-genuine"
            )
        if found.record.state is KeyState.DESTROYED:
            raise Refused(f"the key {key} was destroyed", code="key.destroyed")
        return found, kept.version

    def _add(
        self, key: KeyId, channel: str, origin: str, secret: bytes, now: datetime, *, replaces: str = ""
    ) -> KeyRecord:
        made_at = now.astimezone(UTC).replace(microsecond=0)
        record = KeyRecord(
            key=key,
            channel=channel_name(channel),
            state=KeyState.LIVE,
            origin=origin,
            made_at=made_at,
            replaces=replaces,
        )
        if (taken := self.record(key)) is not None:
            raise Refused(
                f"the name {key} is taken by a {taken.state.value} key of channel {taken.channel};"
                " a key keeps its channel for life, so take the next tag",
                code="key.exists",
            )
        self._place.write(_name(key), self._seal(record, secret), after=NEW)
        return record

    def _seal(self, record: KeyRecord, secret: bytes) -> bytes:
        head = _head(record)
        return jsondoc.canonical({**head, **self._sealer.seal(secret, jsondoc.canonical(head))})

    def _unseal(self, data: bytes, name: str) -> KeyMaterial:
        document = vaultfile.document(data, "key file", name, KEY_SCHEMA)
        sealed = {field: document.pop(field, None) for field in self._sealer.fields}
        try:
            secret = self._sealer.unseal(sealed, jsondoc.canonical(document))
        except NotGenuine as error:
            raise NotGenuine(f"key document {name}: {error.message}", code=error.code) from None
        return KeyMaterial(record=_record(document), secret=secret)


def _name(key: KeyId) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _head(record: KeyRecord) -> dict[str, str]:
    """What is authenticated beside the secret, and readable without the master key."""
    head = {
        "schema": KEY_SCHEMA,
        "key": record.key,
        "channel": record.channel,
        "state": record.state.value,
        "origin": record.origin,
        "made_at": record.made_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return {**head, "replaces": record.replaces} if record.replaces else head


def _record(head: dict[str, Any]) -> KeyRecord:
    return KeyRecord(
        key=key_id(head["key"]),
        channel=channel_name(head["channel"]),
        state=KeyState(head["state"]),
        origin=head["origin"],
        made_at=datetime.fromisoformat(head["made_at"]),
        replaces=head.get("replaces", ""),
    )
