"""From one compiled policy to the next over several brokers, without stranding what runs.

What runs is counted as pairs of a release and a platform. A plan is safe when in every state, between any two of
its steps, each running pair is accepted by some broker, nothing starts that a broker would still refuse, and no
policy permits a release that was revoked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from tallystick.core.digests import Digest
from tallystick.core.findings import Finding
from tallystick.policy.normal import NormalForm

Workload = tuple[str, str]  # (release digest, platform)


class Do(Enum):
    """What one step does."""

    DRAIN = "drain"  # the workload is stopped: the new policy does not accept it
    APPLY = "apply"  # the new policy is put in force at one broker
    START = "start"  # the workload may be started


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStep:
    """One step: ``broker`` of an apply, ``workload`` of the others."""

    do: Do
    broker: str = ""
    workload: Workload | None = None

    def document(self) -> dict[str, str]:
        """Return the step as a JSON value."""
        if self.workload is None:
            return {"do": self.do.value, "broker": self.broker}
        return {"do": self.do.value, "release": self.workload[0], "platform": self.workload[1]}

    @property
    def words(self) -> str:
        """The step in one line."""
        if self.workload is None:
            return f"apply the new policy at {self.broker}"
        return f"{self.do.value} {self.workload[0]} on {self.workload[1]}"


def accepted(form: NormalForm) -> frozenset[Workload]:
    """Return every pair of a release and a platform that ``form`` has a tuple for."""
    return frozenset(
        (str(release.digest), entry.platform) for release in form.releases for entry in release.tuples
    )


def plan(
    old: NormalForm, new: NormalForm, brokers: Sequence[str], running: Iterable[Workload]
) -> tuple[RolloutStep, ...]:
    """Return a safe plan: drain what the new policy refuses, apply broker by broker, then start what is new."""
    before, after = accepted(old), accepted(new)
    lost = sorted(set(running) - after)
    return (
        *(RolloutStep(do=Do.DRAIN, workload=one) for one in lost),
        *(RolloutStep(do=Do.APPLY, broker=name) for name in brokers),
        *(RolloutStep(do=Do.START, workload=one) for one in sorted(after - before)),
    )


def objections(
    steps: Sequence[RolloutStep],
    old: NormalForm,
    new: NormalForm,
    brokers: Sequence[str],
    running: Iterable[Workload],
    revoked: Iterable[Digest] = (),
) -> Iterator[Finding]:
    """Yield why ``steps`` are no safe plan, each with the step after which it shows.

    Args:
        revoked: releases that the channel revoked; a policy that permits one would undo that.
    """
    gone = {str(digest) for digest in revoked}
    for digest in sorted(gone & {release for release, _ in accepted(new)}):
        yield Finding("rollout.unrevokes", "new policy", f"no permission for {digest}", "a permission")
    before, after = accepted(old), accepted(new)
    switched = dict.fromkeys(brokers, False)

    def in_force() -> dict[str, frozenset[Workload]]:
        return {name: after if done else before for name, done in switched.items()}

    alive = set(running)
    yield from _stranded("before the first step", alive, in_force().values())
    for number, step in enumerate(steps, 1):
        where = f"step {number} ({step.words})"
        if step.do is Do.APPLY:
            if step.broker not in switched:
                yield Finding("rollout.broker", where, "one of " + ", ".join(brokers), step.broker)
            switched[step.broker] = True
        elif step.workload is not None and step.do is Do.DRAIN:
            alive.discard(step.workload)
        elif step.workload is not None:
            refusing = sorted(name for name, known in in_force().items() if step.workload not in known)
            if refusing:
                got = f"{', '.join(refusing)} would refuse it"
                yield Finding("rollout.early-start", where, "every broker accepts it", got)
            alive.add(step.workload)
        yield from _stranded(where, alive, in_force().values())
    for name in sorted(name for name, done in switched.items() if not done):
        yield Finding("rollout.unfinished", name, "the new policy in force", "the old one")


def _stranded(
    where: str, alive: Iterable[Workload], policies: Iterable[frozenset[Workload]]
) -> Iterator[Finding]:
    known = frozenset().union(*policies)
    for release, platform in sorted(set(alive) - known):
        want = "a broker whose policy accepts it"
        yield Finding("rollout.stranded", where, want, f"none for {release} on {platform}, which runs")
