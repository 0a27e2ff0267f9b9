"""From a normal form to proved files: every target expresses it, says what it leaves out, and is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tallystick.compile.errors import Inexpressible, Unproven
from tallystick.compile.targets.base import Emitted, Proof
from tallystick.compile.targets.registry import backend
from tallystick.core.errors import Misuse, Refused
from tallystick.core.findings import Finding
from tallystick.policy.model import Policy, Target
from tallystick.policy.normal import NormalForm


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """One target's files, and what was shown of them."""

    emitted: Emitted
    proof: Proof


def chosen(policy: Policy, names: Sequence[str]) -> tuple[Target, ...]:
    """Return the policy's targets called ``names``, or all of them when there are no names.

    Raises:
        Misuse: the policy is not for a target (``target.not-in-policy``).
    """
    for name in names:
        backend(name)
        if policy.target(name) is None:
            own = ", ".join(target.name for target in policy.targets)
            raise Misuse(f"the policy is for {own}, not for {name}", code="target.not-in-policy")
    return tuple(target for target in policy.targets if not names or target.name in names)


def produce(form: NormalForm, targets: Sequence[Target], now: datetime) -> tuple[Compiled, ...]:
    """Return each target's files, proved. Either all of them come back, or none.

    Raises:
        Inexpressible: a requirement that a target can not express and the policy does not waive for it.
        Refused: a waiver for a target that has no need of it.
        Unproven: what was emitted is not what was released.
    """
    for target in targets:
        express(form, target)
    made = [(target, backend(target.name).emit(form, target)) for target in targets]
    return tuple(
        Compiled(emitted=emitted, proof=prove(form, target, emitted, now)) for target, emitted in made
    )


def express(form: NormalForm, target: Target) -> None:
    """Check that ``target`` can say everything that ``form`` asks, but for what is waived for it by name.

    Raises:
        Inexpressible, Refused: as :func:`produce`.
    """
    lacks = {lack.requirement: lack for lack in backend(target.name).lacks(form, target)}
    waived = {waiver.requirement for waiver in target.waivers}
    missing = [
        Finding(
            "target.inexpressible", f"{target.name}: {name}", "this checked", "no way to say it", lack.why
        )
        for name, lack in sorted(lacks.items())
        if name not in waived
    ]
    if missing:
        names = ", ".join(name for name in sorted(lacks) if name not in waived)
        raise Inexpressible(f"{target.name} can not express: {names}", findings=missing)
    unneeded = [
        Finding("target.waiver.unneeded", f"{target.name}: waiver of {waiver.requirement} ({waiver.place})",
                "a requirement that the target can not express", "one that it does express, or does not know")
        for waiver in target.waivers
        if waiver.requirement not in lacks
    ]  # fmt: skip
    if unneeded:
        raise Refused(f"{target.name}: a waiver that waives nothing", findings=unneeded)


def prove(form: NormalForm, target: Target, emitted: Emitted, now: datetime) -> Proof:
    """Return the proof of ``emitted``, which also promises no more than was asked.

    Raises:
        Unproven: see :class:`tallystick.compile.targets.base.Backend`.
    """
    if emitted.max_age_seconds > form.max_age_seconds or emitted.not_after > form.not_after:
        where = f"{target.name}: age and end"
        finding = Finding(
            "prove.age",
            where,
            want=f"at most {form.max_age_seconds} s, until {form.not_after:%Y-%m-%dT%H:%M:%SZ}",
            got=f"{emitted.max_age_seconds} s, until {emitted.not_after:%Y-%m-%dT%H:%M:%SZ}",
        )
        raise Unproven(finding.message, findings=[finding])
    return prove_files(form, target, emitted.files, now)


def prove_files(form: NormalForm, target: Target, files: Mapping[str, bytes], now: datetime) -> Proof:
    """Return the proof of files that may come from anywhere.

    Raises:
        Unproven: as :func:`prove`.
    """
    proof = backend(target.name).prove(files, form, target, now)
    if proof.accepted != proof.released:
        finding = Finding("prove.count", target.name, str(proof.released), str(proof.accepted))
        raise Unproven(f"{target.name}: {proof.words}", findings=[finding])
    return proof
