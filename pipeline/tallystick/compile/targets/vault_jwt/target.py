"""The ``vault-jwt`` target as the compiler sees it."""

from __future__ import annotations

from tallystick.compile.targets.common.backend import Composed
from tallystick.compile.targets.vault_jwt import choice, emit

BACKEND = Composed(
    name=emit.NAME,
    kind=choice.VaultJwt,
    schema=choice.SCHEMA,
    read=choice.read,
    lacks=emit.lacks,
    emit=emit.emit,
    prove_module="tallystick.compile.targets.vault_jwt.prove",
)
