"""Operations on keys: each one is a leaf in the log before it happens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import assert_never

from tallystick.broker.decisions import Kind, entry
from tallystick.broker.ledger import Ledger
from tallystick.broker.vault import (
    MAX_KEY_BYTES,
    KeyId,
    KeyRecord,
    KeyState,
    Vault,
    channel_name,
    key_id,
    next_key,
)
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Misuse, Refused, Unsupported
from tallystick.formats import canonical_base64
from tallystick.handshake.fields import Fields

_WHAT = "key operation"
LOCAL = "local"  # on the broker's own machine, as its own user


class Action(Enum):
    """What may be done to a key. There is no way to read one."""

    GENERATE = "generate"
    IMPORT = "import"
    ROTATE = "rotate"
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KeyOperation:
    """One operation, as the operator asked for it. Its ``repr`` does not hold the secret."""

    action: Action
    key: KeyId
    channel: str = ""  # of a new key; a key that exists has its own, for life
    secret: bytes = b""  # of an imported key, or of one that takes another's place
    to: str = ""  # of a rotation: the next key; empty takes the next number
    by: str = LOCAL  # who asked

    def __repr__(self) -> str:
        return f"KeyOperation({self.action.value} {self.key})"


def parse_operation(data: bytes, *, by: str = LOCAL) -> KeyOperation:
    """Return the operation in a request's body, as ``by`` asked for it.

    Raises:
        Malformed: no such document. Unsupported: another action.
    """
    fields = Fields(jsondoc.loads(data, _WHAT, max_bytes=2 * MAX_KEY_BYTES), _WHAT)
    named = fields.text("action")
    action = next((one for one in Action if one.value == named), None)
    if action is None:
        raise Unsupported(_WHAT, at="action", want=", ".join(one.value for one in Action), got=named)
    return KeyOperation(
        action=action,
        key=key_id(fields.text("key")),
        channel=fields.text("channel") if fields.has("channel") else "",
        secret=fields.base64("secret", max_bytes=MAX_KEY_BYTES) if fields.has("secret") else b"",
        to=fields.text("to") if fields.has("to") else "",
        by=by,
    )


def operation_document(operation: KeyOperation) -> dict[str, str]:
    """Return ``operation`` as a request's body says it. It holds the secret."""
    return {
        "action": operation.action.value,
        "key": operation.key,
        "channel": operation.channel,
        "secret": canonical_base64.encode(operation.secret),
        "to": operation.to,
    }


def shown(record: KeyRecord) -> dict[str, str]:
    """Return a key's record as it is shown."""
    said = {
        "key": record.key,
        "channel": record.channel,
        "state": record.state.value,
        "origin": record.origin,
        "made_at": record.made_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return {**said, "replaces": record.replaces} if record.replaces else said


def perform(operation: KeyOperation, vault: Vault, ledger: Ledger, *, now: datetime) -> tuple[str, KeyRecord]:
    """Do ``operation`` and return the identifier of its leaf, and the key's record.

    Raises:
        Refused: the name is taken, there is no such live key, or the channel is not the asker's.
        Malformed: no channel, no secret to import, or no name for the next key.
        Unreachable: the log can not be written; then nothing was done.
    """
    channel, to = _check(operation, vault)
    public = {"action": operation.action.value, "key": operation.key, "channel": channel, "by": operation.by}
    if to is not None:
        public["to"] = to
    made = entry(Kind.KEY, now=now, public=public, details={})
    ledger.submit([made], now=now).result()
    match operation.action:
        case Action.GENERATE:
            record = vault.generate(operation.key, channel=channel, now=now)
        case Action.IMPORT:
            record = vault.bring(operation.key, operation.secret, channel=channel, now=now)
        case Action.ROTATE:
            record = vault.rotate(operation.key, to or operation.key, secret=operation.secret, now=now)
        case Action.DESTROY:
            record = vault.destroy(operation.key, now=now)
        case _:
            assert_never(operation.action)
    return made.decision, record


def channel_of(operation: KeyOperation, vault: Vault) -> str:
    """Return the channel that ``operation`` is about: that of the key that exists, else the one it names."""
    found = vault.record(operation.key)
    return operation.channel if found is None else found.channel


def _check(operation: KeyOperation, vault: Vault) -> tuple[str, KeyId | None]:
    """Return the key's channel, and the next key, when the operation can be done: the log says nothing that is not."""
    found = vault.record(operation.key)
    match operation.action:
        case Action.DESTROY | Action.ROTATE:
            if found is None or found.state is KeyState.DESTROYED:
                raise Refused(f"there is no live key {operation.key}", code="key.missing")
            if operation.action is Action.DESTROY:
                return found.channel, None
            to = key_id(operation.to) if operation.to else next_key(operation.key)
            _check_free(to, vault)
            if operation.secret:
                vault.check_secret(operation.secret)
            return found.channel, to
        case Action.IMPORT:
            _check_free(operation.key, vault)
            vault.check_secret(operation.secret)
        case Action.GENERATE:
            _check_free(operation.key, vault)
            if operation.secret:
                raise Misuse("a generated key takes no secret", code="key.secret")
        case _:
            assert_never(operation.action)
    if not operation.channel:
        raise Malformed("key", at="channel", want="the channel that it belongs to for life", got="none")
    return channel_name(operation.channel), None


def _check_free(key: KeyId, vault: Vault) -> None:
    found = vault.record(key)
    if found is not None:
        raise Refused(
            f"the name {key} is taken by a {found.state.value} key of channel {found.channel};"
            " a key keeps its channel for life, so take the next tag",
            code="key.exists",
        )
