"""From one compiled policy to the next over several brokers, without stranding what runs.

What runs is counted as pairs of a release and a platform. A plan is safe when in every state, between any two of
its steps, each running pair is accepted by some broker, nothing starts that a broker would still refuse, what starts
as a canary is looked at before there is more of it, and no policy permits a release that was revoked.
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
    START = "start"  # the workload may be started, on a share of its machines
    PAUSE = "pause"  # nothing more happens until somebody says so


ALL = 100  # percent


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStep:
    """One step: ``broker`` of an apply, ``workload`` of a drain or start, neither of a pause."""

    do: Do
    broker: str = ""
    workload: Workload | None = None
    share: int = ALL  # of a start: percent of the machines that shall run it

    def document(self) -> dict[str, str | int]:
        """Return the step as a JSON value."""
        if self.do is Do.PAUSE:
            return {"do": self.do.value}
        if self.workload is None:
            return {"do": self.do.value, "broker": self.broker}
        said: dict[str, str | int] = {"release": self.workload[0], "platform": self.workload[1]}
        return {"do": self.do.value, **said, **({"share": self.share} if self.do is Do.START else {})}

    @property
    def words(self) -> str:
        """The step in one line."""
        if self.do is Do.PAUSE:
            return "pause, and look"
        if self.workload is None:
            return f"apply the new policy at {self.broker}"
        part = f" on {self.share}% of its machines" if self.do is Do.START and self.share < ALL else ""
        return f"{self.do.value} {self.workload[0]} on {self.workload[1]}{part}"


def accepted(form: NormalForm) -> frozenset[Workload]:
    """Return every pair of a release and a platform that ``form`` has a tuple for."""
    return frozenset(
        (str(release.digest), entry.platform) for release in form.releases for entry in release.tuples
    )


def plan(
    old: NormalForm,
    new: NormalForm,
    brokers: Sequence[str],
    running: Iterable[Workload],
    *,
    canary: int = ALL,
) -> tuple[RolloutStep, ...]:
    """Return a safe plan: drain what the new policy refuses, apply broker by broker, then start what is new.

    Args:
        canary: percent of the brokers, and then of each new workload's machines, that go first; between them and the
            others lies a pause. All of them, by default, go at once.
    """
    before, after = accepted(old), accepted(new)
    lost, fresh = sorted(set(running) - after), sorted(after - before)
    first = min(-(-len(brokers) * canary // ALL), len(brokers))
    applies = [RolloutStep(do=Do.APPLY, broker=name) for name in brokers]
    looked = [RolloutStep(do=Do.PAUSE)] if canary < ALL else []
    return (
        *(RolloutStep(do=Do.DRAIN, workload=one) for one in lost),
        *applies[:first],
        *(looked if first < len(brokers) else ()),
        *applies[first:],
        *(RolloutStep(do=Do.START, workload=one, share=canary) for one in (fresh if looked else ())),
        *(looked if fresh else ()),
        *(RolloutStep(do=Do.START, workload=one) for one in fresh),
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

    alive, shares = set(running), _Shares()
    yield from _stranded("before the first step", alive, in_force().values())
    for number, step in enumerate(steps, 1):
        where = f"step {number} ({step.words})"
        if step.do is Do.APPLY:
            if step.broker not in switched:
                yield Finding("rollout.broker", where, "one of " + ", ".join(brokers), step.broker)
            switched[step.broker] = True
        elif step.do is Do.PAUSE:
            shares.looked()
        elif step.workload is not None and step.do is Do.DRAIN:
            alive.discard(step.workload)
            shares.gone(step.workload)
        elif step.workload is not None:
            yield from shares.start(where, step.workload, step.share)
            refusing = sorted(name for name, known in in_force().items() if step.workload not in known)
            if refusing:
                got = f"{', '.join(refusing)} would refuse it"
                yield Finding("rollout.early-start", where, "every broker accepts it", got)
            alive.add(step.workload)
        yield from _stranded(where, alive, in_force().values())
    for name in sorted(name for name, done in switched.items() if not done):
        yield Finding("rollout.unfinished", name, "the new policy in force", "the old one")
    yield from shares.end()


class _Shares:
    """On what share of its machines each started workload may run, and which shares somebody has looked at."""

    def __init__(self) -> None:
        self._now: dict[Workload, int] = {}
        self._unseen: set[Workload] = set()

    def looked(self) -> None:
        self._unseen.clear()

    def gone(self, workload: Workload) -> None:
        self._now.pop(workload, None)
        self._unseen.discard(workload)

    def start(self, where: str, workload: Workload, share: int) -> Iterator[Finding]:
        had = self._now.get(workload, 0)
        if not had < share <= ALL:
            yield Finding("rollout.share", where, f"more than {had}% and at most {ALL}%", f"{share}%")
        if workload in self._unseen:
            yield Finding("rollout.canary", where, f"a pause after {had}%", "none")
        self._now[workload] = share
        if share < ALL:
            self._unseen.add(workload)

    def end(self) -> Iterator[Finding]:
        for (release, platform), share in sorted(self._now.items()):
            if share < ALL:
                yield Finding("rollout.unfinished", f"{release} on {platform}", f"{ALL}%", f"{share}%")


def _stranded(
    where: str, alive: Iterable[Workload], policies: Iterable[frozenset[Workload]]
) -> Iterator[Finding]:
    known = frozenset().union(*policies)
    for release, platform in sorted(set(alive) - known):
        want = "a broker whose policy accepts it"
        yield Finding("rollout.stranded", where, want, f"none for {release} on {platform}, which runs")
