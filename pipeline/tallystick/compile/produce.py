"""From a normal form to proved files: every target expresses it, says what it leaves out, and is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from tallystick.compile import processes
from tallystick.compile.errors import Inexpressible, Unproven
from tallystick.compile.targets.base import Emitted, Proof
from tallystick.compile.targets.registry import backend
from tallystick.core.errors import Misuse, Refused
from tallystick.core.findings import Finding
from tallystick.policy.model import Policy, Target
from tallystick.policy.normal import NormalForm

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """One target's files, and what was shown of them."""

    emitted: Emitted
    proof: Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One target to make or to prove for one form."""

    form: NormalForm
    target: Target
    now: datetime
    files: Mapping[str, bytes] = field(default_factory=dict)  # to prove; none to make


MANY = 200  # tuples, of all targets together, from which on processes save more than they cost
_SLOWEST = "trustee"  # its proof evaluates Rego


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
    return make_all([Job(form=form, target=target, now=now) for target in targets])


def make_all(jobs: Sequence[Job]) -> tuple[Compiled, ...]:
    """Return what each job makes, proved; nothing asks here whether the target can express its form."""
    return _side_by_side(make, jobs)


def prove_all(jobs: Sequence[Job]) -> tuple[Proof, ...]:
    """Return the proof of each job's files, which may come from anywhere.

    Raises:
        Unproven: as :func:`prove`.
    """
    return _side_by_side(_proved, jobs)


def _side_by_side(work: Callable[[Job], R], jobs: Sequence[Job]) -> tuple[R, ...]:
    """Return ``work`` of each job, in processes where they are long enough to be worth it."""
    if sum(len(release.tuples) for job in jobs for release in job.form.releases) < MANY:
        return tuple(map(work, jobs))
    return processes.each(work, jobs, first=lambda job: job.target.name == _SLOWEST)


def make(job: Job) -> Compiled:
    """Return one target's files, proved."""
    emitted = backend(job.target.name).emit(job.form, job.target)
    return Compiled(emitted=emitted, proof=prove(job.form, job.target, emitted, job.now))


def _proved(job: Job) -> Proof:
    return prove_files(job.form, job.target, job.files, job.now)


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
