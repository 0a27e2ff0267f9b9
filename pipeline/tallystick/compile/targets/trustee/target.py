"""The ``trustee`` target as the compiler sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from tallystick.compile.targets.base import Emitted, Lack, Proof
from tallystick.compile.targets.trustee import choice, emit
from tallystick.formats.yamldoc import Fields
from tallystick.policy.model import Target, Waiver
from tallystick.policy.normal import NormalForm


class Trustee:
    """confidential-containers/trustee: attestation service, RVPS and KBS."""

    name = emit.NAME
    schema = choice.SCHEMA

    def choice(self, fields: Fields, waivers: tuple[Waiver, ...]) -> Target:
        """Return the entry: version, session, and the keys that may sign."""
        return choice.read(fields, waivers)

    def lacks(self, form: NormalForm, entry: Target) -> Iterator[Lack]:
        """Yield what the verifier does not tell or the languages can not say."""
        yield from emit.lacks(form, choice.of(entry))

    def emit(self, form: NormalForm, entry: Target) -> Emitted:
        """Return two Rego policies, the RVPS messages, the residual and a README."""
        return emit.emit(form, choice.of(entry))

    def prove(self, files: Mapping[str, bytes], form: NormalForm, entry: Target, now: datetime) -> Proof:
        """Evaluate the policies in the engine that Trustee uses, as its two services do."""
        from tallystick.compile.targets.trustee.prove import prove

        return prove(files, form, choice.of(entry), now)


BACKEND = Trustee()
