"""The ``trustee`` target as the compiler sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from tallystick.compile.targets.base import Emitted, Lack, Proof
from tallystick.compile.targets.trustee import emit
from tallystick.policy.model import Target
from tallystick.policy.normal import NormalForm


class Trustee:
    """confidential-containers/trustee: attestation service, RVPS and KBS."""

    name = emit.NAME

    def lacks(self, form: NormalForm, choice: Target) -> Iterator[Lack]:
        """Yield what the verifier does not tell or the languages can not say."""
        yield from emit.lacks(form, emit.choice_of(choice))

    def emit(self, form: NormalForm, choice: Target) -> Emitted:
        """Return two Rego policies, the RVPS messages, the residual and a README."""
        return emit.emit(form, emit.choice_of(choice))

    def prove(self, files: Mapping[str, bytes], form: NormalForm, choice: Target, now: datetime) -> Proof:
        """Evaluate the policies in the engine that Trustee uses, as its two services do."""
        from tallystick.compile.targets.trustee.prove import prove

        return prove(files, form, emit.choice_of(choice), now)
