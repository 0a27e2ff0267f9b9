"""``tally whatif``: what a new policy would have decided on the evidence that was recorded."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.output import JsonFlag, command_app, emit
from tallystick.core.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tallystick.broker.whatif import Replayed, Report
    from tallystick.policy.normal import NormalForm

app = command_app()

_SHOWN = 20  # lines of each kind in words; --json has them all


@app.command()
def whatif(
    policy: Annotated[
        Path,
        typer.Argument(metavar="NEW_POLICY", help="A folder that `tally compile` wrote, or its policy.json."),
    ],
    evidence: Annotated[
        Path | None,
        typer.Option(
            "--evidence",
            metavar="DIR",
            help="A folder of `tally broker evidence export`. Default: the broker's own records.",
        ),
    ] = None,
    workdir: Annotated[
        Path | None,
        typer.Option(
            "--workdir", help="The work directory. Default: $TALLY_HOME, else ~/.local/share/tallystick."
        ),
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", help="A 0600 file with the passphrase of the vault's master key."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Take what is newly allowed.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Replay recorded evidence, each piece as of its own time, against a new compiled policy.

    Says what would be newly allowed, newly denied, unchanged, and what can not be replayed and why. What is newly
    allowed needs a yes: without one, exit 6.
    """
    from tallystick.broker import whatif as replaying
    from tallystick.core.files import read_file
    from tallystick.policy import document

    place = policy / "broker" / "policy.json" if policy.is_dir() else policy
    data = read_file(place, "compiled policy", max_bytes=document.MAX_BYTES)
    form = document.read(data)
    if evidence is not None:
        from tallystick.broker.casebook import FolderCasebook

        report = replaying.replay(FolderCasebook(evidence), data, form)
    else:
        from tallystick.cli.broker_evidence import opened

        with opened(workdir, passphrase_file) as casebook:
            report = replaying.replay(casebook, data, form)
    allowed = report.of(replaying.Change.ALLOWED)
    if not as_json:
        emit(None, _words(report, form), as_json=False)
    if allowed and not yes and not _asked(as_json=as_json):
        raise _refusal(allowed)
    if as_json:
        emit(_document(report, form), "", as_json=True)


def _asked(*, as_json: bool) -> bool:
    """Ask, where there is somebody to ask."""
    if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write("take what is newly allowed? [yes/no] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip() == "yes"


def _refusal(allowed: Sequence[Replayed]) -> Refused:
    from tallystick.core.findings import Finding

    findings = [
        Finding("whatif.newly-allowed", f"decision {one.decision}", f"{one.key} refused, as then", "allowed")
        for one in allowed
    ]
    message = f"{len(allowed)} decision(s) would be newly allowed, and nobody said yes (--yes)"
    return Refused(message, code="whatif.newly-allowed", findings=findings)


def _document(report: Report, form: NormalForm) -> dict[str, Any]:
    from tallystick.broker.whatif import Change
    from tallystick.policy import document

    same = report.of(Change.UNCHANGED)
    allowed = sum(one.allowed for one in same)
    return {
        "policy": form.policy,
        "digest": str(document.digest(form)),
        "decisions": len(report.replayed),
        "newly_allowed": [one.document() for one in report.of(Change.ALLOWED)],
        "newly_denied": [one.document() for one in report.of(Change.DENIED)],
        "unchanged": {"allowed": allowed, "refused": len(same) - allowed},
        "not_replayable": [one.document() for one in report.of(Change.NOT_REPLAYABLE)],
        "of_other_policies": report.elsewhere,
    }


def _words(report: Report, form: NormalForm) -> str:
    from tallystick.broker.whatif import Change

    times = sorted(one.at for one in report.replayed)
    span = f", {times[0]:%Y-%m-%dT%H:%M:%SZ} to {times[-1]:%Y-%m-%dT%H:%M:%SZ}" if times else ""
    lines = [f"{form.policy}: {len(report.replayed)} recorded decision(s){span}"]
    for change in (Change.ALLOWED, Change.DENIED, Change.NOT_REPLAYABLE):
        found = report.of(change)
        lines.append(f"  {change.value}: {len(found)}")
        lines += [f"    {_line(one)}" for one in found[:_SHOWN]]
        if len(found) > _SHOWN:
            rest = Counter(_why(one) for one in found[_SHOWN:])
            said = ", ".join(f"{count} x {why}" for why, count in rest.most_common())
            lines.append(f"    and {len(found) - _SHOWN} more: {said}")
    same = report.of(Change.UNCHANGED)
    allowed = sum(one.allowed for one in same)
    lines.append(f"  unchanged: {len(same)} ({allowed} allowed, {len(same) - allowed} refused)")
    if report.elsewhere:
        lines.append(f"  about keys of other policies: {report.elsewhere}")
    return "\n".join(lines)


def _line(one: Replayed) -> str:
    release = f" for release {one.release}" if one.release else ""
    said = "; ".join(f"{finding.message} [{finding.code}]" for finding in one.findings[:3])
    return f"{one.decision} {one.key}{release}: {said}".rstrip(": ")


def _why(one: Replayed) -> str:
    return one.findings[0].code if one.findings else "no reason recorded"
