"""Operations on keys: each one is a leaf in the log before it happens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import assert_never

from tallystick.broker.decisions import Kind, entry
from tallystick.broker.ledger import Ledger
from tallystick.broker.vault import KeyId, KeyRecord, KeyState, Vault, channel_name
from tallystick.core.errors import Malformed, Misuse, Refused


class Action(Enum):
    """What may be done to a key. There is no way to read one."""

    GENERATE = "generate"
    IMPORT = "import"
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KeyOperation:
    """One operation, as the operator asked for it. Its ``repr`` does not hold the secret."""

    action: Action
    key: KeyId
    channel: str = ""  # of a new key; a key that exists has its own, for life
    secret: bytes = b""  # of an imported key

    def __repr__(self) -> str:
        return f"KeyOperation({self.action.value} {self.key})"


def perform(operation: KeyOperation, vault: Vault, ledger: Ledger, *, now: datetime) -> tuple[str, KeyRecord]:
    """Do ``operation`` and return the identifier of its leaf, and the key's record.

    Raises:
        Refused: the name is taken, or there is no such live key.
        Malformed: no channel, or no secret to import.
        Unreachable: the log can not be written; then nothing was done.
    """
    channel = _check(operation, vault)
    made = entry(
        Kind.KEY,
        now=now,
        public={"action": operation.action.value, "key": operation.key, "channel": channel},
        details={},
    )
    ledger.submit([made], now=now).result()
    match operation.action:
        case Action.GENERATE:
            record = vault.generate(operation.key, channel=channel, now=now)
        case Action.IMPORT:
            record = vault.bring(operation.key, operation.secret, channel=channel, now=now)
        case Action.DESTROY:
            record = vault.destroy(operation.key, now=now)
        case _:
            assert_never(operation.action)
    return made.decision, record


def _check(operation: KeyOperation, vault: Vault) -> str:
    """Return the key's channel when the operation can be done, so that the log says nothing that is not."""
    found = vault.record(operation.key)
    if operation.action is Action.DESTROY:
        if found is None or found.state is KeyState.DESTROYED:
            raise Refused(f"there is no live key {operation.key}", code="key.missing")
        return found.channel
    if found is not None:
        raise Refused(
            f"the name {operation.key} is taken by a {found.state.value} key of channel {found.channel};"
            " a key keeps its channel for life, so take the next tag",
            code="key.exists",
        )
    if operation.action is Action.IMPORT:
        vault.check_secret(operation.secret)
    elif operation.secret:
        raise Misuse("a generated key takes no secret", code="key.secret")
    if not operation.channel:
        raise Malformed("key", at="channel", want="the channel that it belongs to for life", got="none")
    return channel_name(operation.channel)
