"""``tally broker plan`` and ``rollout``: from one compiled policy to the next, without stranding what runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.channels import ChannelDir, TrustFile, Workdir
from tallystick.cli.output import JsonFlag, emit, progress
from tallystick.core.errors import Misuse, Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tallystick.compile.rollout import RolloutStep, Workload
    from tallystick.compile.rollout_progress import Progress
    from tallystick.core.digests import Digest
    from tallystick.policy.normal import NormalForm

_MAX_BYTES = 16 << 20

Old = Annotated[Path, typer.Argument(metavar="OLD", help="The compiled policy in force.")]
New = Annotated[Path, typer.Argument(metavar="NEW", help="The compiled policy that shall be.")]
Brokers = Annotated[
    list[str] | None, typer.Option("--broker", help="A broker's name; can be repeated, in this order.")
]
Running = Annotated[
    list[str] | None,
    typer.Option("--running", help="Digest of a release that runs; can be repeated. Default: all of OLD."),
]
Revoked = Annotated[
    list[str] | None, typer.Option("--revoked", help="Digest of a revoked release; can be repeated.")
]
Canary = Annotated[
    int,
    typer.Option(
        "--canary", min=1, max=100, help="Percent of brokers, and of machines, that go first, before a pause."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(plan)
    app.command()(rollout)


def plan(
    old: Old,
    new: New,
    broker: Brokers = None,
    running: Running = None,
    revoked: Revoked = None,
    canary: Canary = 100,
    check: Annotated[
        Path | None, typer.Option("--check", help="A plan as --json prints it, to be judged instead.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Plan the way from one compiled policy to the next: what runs always has a broker that accepts it.

    With --check, judge somebody's plan: exit 6 with the step after which a workload is stranded. Both folders hold
    the target `broker`, which is the policy's normal form.
    """
    from tallystick.compile import rollout_progress

    before, after = _form(old), _form(new)
    made = _new(old, new, before, after, broker, running, revoked, canary, check)
    if findings := list(rollout_progress.objections(made, before, after)):
        raise Refused("this plan is not safe", findings=findings)
    document = {
        "steps": [step.document() for step in made.steps],
        "brokers": list(made.brokers),
        "running": len(made.running),
    }
    words = [f"{number}. {step.words}" for number, step in enumerate(made.steps, 1)]
    emit(document, "\n".join(words) or "nothing to do", as_json=as_json)


def rollout(
    old: Old,
    new: New,
    state: Annotated[Path, typer.Option("--state", help="The file that remembers how far it is.")],
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="A program that does one step: its words as arguments, as JSON on standard input."
        ),
    ] = None,
    go: Annotated[bool, typer.Option("--go", help="Somebody has looked: go on after a pause.")] = False,
    pause: Annotated[
        bool, typer.Option("--pause", help="Pause before the next step, and do nothing.")
    ] = False,
    broker: Brokers = None,
    running: Running = None,
    revoked: Revoked = None,
    canary: Canary = 100,
    check: Annotated[
        Path | None,
        typer.Option("--plan", help="The plan, as `broker plan --json` prints it. Default: a new one."),
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option("--channel", help="Ask this channel before every step what is revoked by then."),
    ] = None,
    workdir: Workdir = None,
    trust: TrustFile = None,
    channel_dir: ChannelDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Do a plan step by step, or go on with one that was paused or broken off, by a crash too.

    Before every step the whole plan is judged again, with every release that was ever seen revoked; nothing is done
    that it objects to. The step that a crash interrupted is done once more, so the program's steps can be repeated.
    Without --run it says how far the rollout is.
    """
    from tallystick.compile import rollout_progress as so_far

    before, after = _form(old), _form(new)

    def gone() -> tuple[Digest, ...]:
        return _revoked(channel, workdir, trust, channel_dir) if channel is not None else ()

    with _locked(state):
        if state.exists():
            made = _same(_load(state), old, new, check)
            made = so_far.seen(made, _digests(revoked))
        else:
            made = _new(old, new, before, after, broker, running, revoked, canary, check)
        if go:
            made = so_far.go(made)
        if pause:
            made = so_far.pause(made)
        if run is not None or go or pause:
            _save(state, made)
        if run is not None and not pause:
            made = _do(made, before, after, run, state, gone)
    _say(made, as_json=as_json)


def _do(
    made: Progress,
    before: NormalForm,
    after: NormalForm,
    run: Path,
    state: Path,
    gone: Callable[[], tuple[Digest, ...]],
) -> Progress:
    """Return the rollout after every step up to a pause or the end.

    Raises:
        Refused: the plan is not, or no longer, safe; nothing more was done.
        Unreachable: the program did not do a step; it is done again next time.
    """
    from tallystick.compile import rollout_progress as so_far

    while (step := made.step) is not None and not made.paused:
        made = so_far.seen(made, gone())
        if findings := list(so_far.objections(made, before, after)):
            _save(state, made)  # what was seen revoked stays revoked
            raise Refused("this rollout may not go on", code="rollout.halted", findings=findings)
        made = so_far.begin(made)
        _save(state, made)
        if made.paused:
            break
        progress(f"[{made.done + 1}/{len(made.steps)}] {step.words}")
        _act(run, step)
        made = so_far.finish(made)
        _save(state, made)
    return made


def _revoked(
    channel: str, workdir: Path | None, trust: Path | None, channel_dir: Path | None
) -> tuple[Digest, ...]:
    """Return what the channel's people have revoked by now, verified."""
    from tallystick.cli import clock, desks
    from tallystick.cli import workdir as workdirs
    from tallystick.release.channel import load_policies

    place = workdirs.place(workdir)
    folder = channel_dir or desks.channel_folder(place, channel)
    found = load_policies(folder, channel, desks.load_trust(place, trust), clock.now())
    return tuple(found.revoked)


def _act(run: Path, step: RolloutStep) -> None:
    import json
    import subprocess

    document = step.document()
    try:
        ended = subprocess.run(
            [str(run), *map(str, document.values())], input=json.dumps(document).encode(), check=False
        )
    except OSError as error:
        raise Misuse(f"{run}: {error.strerror}", code="rollout.program") from None
    if ended.returncode != 0:
        message = (
            f"{run} did not do the step ({step.words}): exit {ended.returncode}; it is done again next time"
        )
        raise Unreachable(message, code="rollout.step")


def _new(
    old: Path,
    new: Path,
    before: NormalForm,
    after: NormalForm,
    broker: list[str] | None,
    running: list[str] | None,
    revoked: list[str] | None,
    canary: int,
    check: Path | None,
) -> Progress:
    """Return a rollout that has not begun."""
    from tallystick.compile import rollout as planning
    from tallystick.compile import rollout_progress as so_far
    from tallystick.core.digests import Digest

    brokers = tuple(broker or ("broker",))
    alive = _alive(planning.accepted(before), running, old)
    steps = planning.plan(before, after, brokers, alive, canary=canary) if check is None else _steps(check)
    made = so_far.Progress(
        old=Digest.of(_bytes(old)),
        new=Digest.of(_bytes(new)),
        brokers=brokers,
        running=tuple(sorted(alive)),
        revoked=(),
        steps=tuple(steps),
    )
    return so_far.seen(made, _digests(revoked))


def _alive(accepted: frozenset[Workload], running: list[str] | None, old: Path) -> set[Workload]:
    if running is None:
        return set(accepted)
    wanted = {str(digest) for digest in _digests(running)}
    alive = {one for one in accepted if one[0] in wanted}
    if strangers := wanted - {release for release, _ in alive}:
        raise Misuse(f"not in {old}: {', '.join(sorted(strangers))}", code="rollout.running")
    return alive


def _digests(texts: Sequence[str] | None) -> tuple[Digest, ...]:
    from tallystick.core.digests import Digest

    return tuple(Digest.parse(text) for text in texts or ())


def _bytes(folder: Path) -> bytes:
    from tallystick.cli.broker_deploy import files_of
    from tallystick.compile.targets.broker import FILE

    return files_of(folder, "broker")[FILE]


def _form(folder: Path) -> NormalForm:
    from tallystick.policy import document

    return document.read(_bytes(folder))


def _steps(path: Path) -> tuple[RolloutStep, ...]:
    from tallystick.compile import rollout_progress
    from tallystick.core import jsondoc
    from tallystick.core.errors import Malformed
    from tallystick.core.files import read_file

    what = "rollout plan"
    found = jsondoc.loads(read_file(path, what, max_bytes=_MAX_BYTES), what)
    if not isinstance(found, dict):
        raise Malformed(what, at="document", want="an object", got=type(found).__name__)
    return rollout_progress.steps(found)


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    from tallystick.broker.secretfiles import locked

    busy = Unreachable(f"{state}: another rollout works with it", code="rollout.busy")
    with locked(state.with_name(f"{state.name}.lock"), busy=busy):
        yield


def _load(state: Path) -> Progress:
    from tallystick.compile import rollout_progress
    from tallystick.core.files import read_file

    return rollout_progress.parse(read_file(state, "rollout", max_bytes=_MAX_BYTES))


def _save(state: Path, made: Progress) -> None:
    from tallystick.compile import rollout_progress
    from tallystick.core.files import write_file

    write_file(state, rollout_progress.dump(made), mode=0o600)


def _same(made: Progress, old: Path, new: Path, check: Path | None) -> Progress:
    """Return ``made`` when it is of these policies and this plan: a rollout is finished or left, never bent.

    Raises:
        Misuse: it is of others (``rollout.other``).
    """
    from tallystick.core.digests import Digest

    if (made.old, made.new) != (Digest.of(_bytes(old)), Digest.of(_bytes(new))):
        raise Misuse(f"the rollout is from {made.old} to {made.new}, not between these", code="rollout.other")
    if check is not None and _steps(check) != made.steps:
        raise Misuse("the rollout has another plan", code="rollout.other")
    return made


def _say(made: Progress, *, as_json: bool) -> None:
    at = "paused" if made.paused else "done" if made.step is None else "begun" if made.begun else "ready"
    document = {
        "state": at,
        "done": made.done,
        "steps": len(made.steps),
        "next": made.step.document() if made.step is not None else None,
    }
    words = f"{made.done} of {len(made.steps)} steps done: {at}"
    if made.step is not None:
        words += f"; next: {made.step.words}" + (" (go on with --go)" if made.paused else "")
    emit(document, words, as_json=as_json)
