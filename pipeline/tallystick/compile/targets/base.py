"""What a target is: a language that a key broker reads, what it can not say, and how its output is proved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from tallystick.formats.yamldoc import Fields
from tallystick.policy.model import Target, Waiver
from tallystick.policy.normal import NormalForm


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """A requirement that a target can not express, and why."""

    requirement: str  # the name a waiver uses: "attestation-key-root"
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Emitted:
    """What a target wrote: files, the age it enforces, and what it takes for granted of its deployment."""

    target: str
    files: Mapping[str, bytes]  # by file name
    max_age_seconds: int  # oldest evidence that gets a key; never above the policy's
    not_after: datetime  # nothing is permitted after this
    assumes: tuple[str, ...]  # configuration that the policy's language can not check


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What evaluating the emitted bytes showed."""

    target: str
    released: int  # tuples of the verified channel
    accepted: int  # distinct evidence that got a key
    evaluated: int  # pieces of evidence that were tried
    engines: tuple[str, ...]  # what evaluated them

    @property
    def words(self) -> str:
        """The line that ``tally compile`` prints."""
        engines = ", ".join(self.engines)
        return (
            f"{self.target}: released {self.released} · accepted {self.accepted}"
            f"  ({self.evaluated} pieces of evidence, {engines})"
        )


class Backend(Protocol):
    """One target. Its module has one of these, called ``BACKEND``; ``registry.py`` names the module."""

    name: str
    schema: Mapping[str, Any]  # JSON Schema of its own fields in a policy: {"properties": …, "required": […]}

    def choice(self, fields: Fields, waivers: tuple[Waiver, ...]) -> Target:
        """Return this target's entry of a policy: take every field of its own; the caller refuses the rest.

        Raises:
            Malformed: a field that is missing or of the wrong form.
        """

    def lacks(self, form: NormalForm, choice: Target) -> Iterator[Lack]:
        """Yield every requirement of ``form`` that this target can not express."""

    def emit(self, form: NormalForm, choice: Target) -> Emitted:
        """Return the files. Pure: equal forms and choices give equal bytes.

        Raises:
            Inexpressible: the set does not fit the target's limits; the error says how many would.
        """

    def prove(self, files: Mapping[str, bytes], form: NormalForm, choice: Target, now: datetime) -> Proof:
        """Evaluate the emitted ``files`` against ``form``, which was made from the verified channel.

        Raises:
            Unproven: they accept something else than the released tuples; with evidence that shows it.
        """
