"""A backend made of the four functions that a target's modules have."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar, cast

from tallystick.compile.targets.base import Emitted, Lack, Proof
from tallystick.formats.yamldoc import Fields
from tallystick.policy.model import Target, Waiver
from tallystick.policy.normal import NormalForm

T = TypeVar("T", bound=Target)


class Composed(Generic[T]):
    """One target: :class:`tallystick.compile.targets.base.Backend` from its modules.

    Args:
        kind: the record of its entry in a policy.
        read: that record from the policy's fields.
        prove_module: where ``prove(files, form, choice, now)`` is; loaded when something is proved.
    """

    def __init__(
        self,
        *,
        name: str,
        kind: type[T],
        schema: Mapping[str, Any],
        read: Callable[[Fields, tuple[Waiver, ...]], T],
        lacks: Callable[[NormalForm, T], Iterator[Lack]],
        emit: Callable[[NormalForm, T], Emitted],
        prove_module: str,
    ) -> None:
        self.name, self.schema = name, schema
        self._kind, self._read, self._lacks, self._emit = kind, read, lacks, emit
        self._prove_module = prove_module

    def choice(self, fields: Fields, waivers: tuple[Waiver, ...]) -> Target:
        """Return this target's entry of a policy."""
        return self._read(fields, waivers)

    def lacks(self, form: NormalForm, choice: Target) -> Iterator[Lack]:
        """Yield every requirement that this target can not express, each once."""
        seen: set[str] = set()
        for lack in self._lacks(form, self._of(choice)):
            if lack.requirement not in seen:
                seen.add(lack.requirement)
                yield lack

    def emit(self, form: NormalForm, choice: Target) -> Emitted:
        """Return the files."""
        return self._emit(form, self._of(choice))

    def prove(self, files: Mapping[str, bytes], form: NormalForm, choice: Target, now: datetime) -> Proof:
        """Evaluate the emitted files."""
        module = importlib.import_module(self._prove_module)
        return cast(Proof, module.prove(files, form, self._of(choice), now))

    def _of(self, choice: Target) -> T:
        if not isinstance(choice, self._kind):
            raise ValueError(f"the {self.name} target takes a policy's {self.name} entry")
        return choice
