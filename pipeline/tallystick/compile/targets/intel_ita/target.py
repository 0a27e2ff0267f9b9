"""The ``intel-ita`` target as the compiler sees it."""

from __future__ import annotations

from tallystick.compile.targets.common.backend import Composed
from tallystick.compile.targets.intel_ita import choice, emit

BACKEND = Composed(
    name=emit.NAME,
    kind=choice.IntelIta,
    schema=choice.SCHEMA,
    read=choice.read,
    lacks=emit.lacks,
    emit=emit.emit,
    prove_module="tallystick.compile.targets.intel_ita.prove",
)
