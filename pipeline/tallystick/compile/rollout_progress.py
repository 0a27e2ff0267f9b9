"""How far a rollout is, as it survives a crash: what is done, what was begun, and what may never be undone.

Before a step is done it is written down as begun, and after it as done, so that whoever resumes does the step in
between once more. Steps can be repeated: a policy in force is in force, what is drained is drained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tallystick.compile import rollout
from tallystick.compile.rollout import ALL, Do, RolloutStep, Workload
from tallystick.core import jsondoc
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Misuse, Unsupported
from tallystick.core.findings import Finding
from tallystick.policy.normal import NormalForm

SCHEMA = "tallystick/rollout/v1"
_WHAT = "rollout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One rollout, at one moment."""

    old: Digest  # of the compiled policies' bytes
    new: Digest
    brokers: tuple[str, ...]
    running: tuple[Workload, ...]  # before the first step
    revoked: tuple[Digest, ...]  # every release that was ever seen revoked; it only grows
    steps: tuple[RolloutStep, ...]
    done: int = 0
    begun: bool = False  # the step after those may have been done already
    paused: bool = False

    @property
    def step(self) -> RolloutStep | None:
        """The step that is next; None at the end."""
        return self.steps[self.done] if self.done < len(self.steps) else None

    def document(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return {
            "schema": SCHEMA,
            "old": str(self.old),
            "new": str(self.new),
            "brokers": list(self.brokers),
            "running": [list(one) for one in self.running],
            "revoked": [str(one) for one in self.revoked],
            "steps": [step.document() for step in self.steps],
            "done": self.done,
            "begun": self.begun,
            "paused": self.paused,
        }


def objections(progress: Progress, old: NormalForm, new: NormalForm) -> Iterator[Finding]:
    """Yield why the rollout may not go on; asked before every step, with what is revoked by then."""
    yield from rollout.objections(
        progress.steps, old, new, progress.brokers, progress.running, progress.revoked
    )


def seen(progress: Progress, revoked: Iterable[Digest]) -> Progress:
    """Return the rollout with more releases known to be revoked; none is ever forgotten."""
    both = {str(one): one for one in (*progress.revoked, *revoked)}
    return replace(progress, revoked=tuple(both[name] for name in sorted(both)))


def begin(progress: Progress) -> Progress:
    """Return the rollout with its next step begun, or paused where that step is a pause.

    Raises:
        Misuse: there is no next step, or somebody has to say ``go`` first (``rollout.paused``).
    """
    step = progress.step
    if step is None or progress.paused:
        raise Misuse("the rollout is paused or at its end", code="rollout.paused")
    return replace(progress, paused=True) if step.do is Do.PAUSE else replace(progress, begun=True)


def finish(progress: Progress) -> Progress:
    """Return the rollout with the step that was begun done."""
    if not progress.begun:
        raise ValueError("a step that was not begun can not be done")
    return replace(progress, done=progress.done + 1, begun=False)


def go(progress: Progress) -> Progress:
    """Return the rollout after somebody looked and said to go on. Where it does not pause, nothing changes."""
    if not progress.paused:
        return progress
    step = progress.step
    over = step is not None and step.do is Do.PAUSE
    return replace(progress, paused=False, done=progress.done + over)


def pause(progress: Progress) -> Progress:
    """Return the rollout, paused before its next step."""
    return replace(progress, paused=True)


def dump(progress: Progress) -> bytes:
    """Return the rollout as its file holds it."""
    return jsondoc.dumps(progress.document()) + b"\n"


def parse(data: bytes) -> Progress:
    """Return the rollout in ``data``.

    Raises:
        Malformed: no rollout. Unsupported: another version.
    """
    document = jsondoc.loads(data, _WHAT)
    if not isinstance(document, dict):
        raise Malformed(_WHAT, at="document", want="an object", got=type(document).__name__)
    if document.get("schema") != SCHEMA:
        raise Unsupported(_WHAT, at="schema", want=SCHEMA, got=str(document.get("schema")))
    try:
        found = Progress(
            old=Digest.parse(document["old"]),
            new=Digest.parse(document["new"]),
            brokers=tuple(_texts(document["brokers"])),
            running=tuple((release, platform) for release, platform in map(_texts, document["running"])),
            revoked=tuple(map(Digest.parse, _texts(document["revoked"]))),
            steps=steps(document),
            done=document["done"],
            begun=document["begun"],
            paused=document["paused"],
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Malformed(_WHAT, at="fields", want="those of a rollout", got="others") from None
    counted = type(found.done) is int and 0 <= found.done <= len(found.steps)
    if found.document() != document or not counted or not isinstance(found.begun, bool):
        raise Malformed(_WHAT, at="fields", want="those of a rollout, and no others", got="others")
    return found


def steps(document: Mapping[str, Any]) -> tuple[RolloutStep, ...]:
    """Return the steps of a plan or a rollout.

    Raises:
        Malformed: something that is no step.
    """
    found = document.get("steps")
    if not isinstance(found, list):
        raise Malformed("rollout plan", at="steps", want="a list", got=type(found).__name__)
    return tuple(_step(number, one) for number, one in enumerate(found, 1))


_FIELDS = {
    Do.PAUSE.value: {"do"},
    Do.APPLY.value: {"do", "broker"},
    Do.DRAIN.value: {"do", "release", "platform"},
    Do.START.value: {"do", "release", "platform", "share"},
}


def _step(number: int, said: Any) -> RolloutStep:
    fields = said if isinstance(said, dict) else {}
    names = _FIELDS.get(str(fields.get("do")))
    texts = all(isinstance(value, str) for name, value in fields.items() if name != "share")
    share = fields.get("share", ALL)
    if names is None or set(fields) | {"share"} != names | {"share"} or not texts or type(share) is not int:
        want = "drain, apply, start or pause, and of what"
        raise Malformed("rollout plan", at=f"step {number}", want=want, got=str(said))
    if "share" in fields and "share" not in names:
        raise Malformed("rollout plan", at=f"step {number}", want="a share of a start alone", got=str(said))
    workload = (fields["release"], fields["platform"]) if "release" in fields else None
    return RolloutStep(do=Do(fields["do"]), broker=fields.get("broker", ""), workload=workload, share=share)


def _texts(found: Any) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise TypeError("no texts")
    return found
