"""``tally explain``: say why the broker decided what it did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.output import JsonFlag, command_app, emit

if TYPE_CHECKING:
    from tallystick.broker.explaining import Explanation
    from tallystick.build.contents import ComponentChange

app = command_app()


@app.command()
def explain(
    decision: Annotated[
        str, typer.Argument(help="A decision's identifier, as the broker's answer names it.")
    ],
    workdir: Annotated[
        Path | None,
        typer.Option(
            "--workdir", help="The work directory. Default: $TALLY_HOME, else ~/.local/share/tallystick."
        ),
    ] = None,
    running: Annotated[
        Path | None, typer.Option("--running", help="The release directory of the image that was refused.")
    ] = None,
    promoted: Annotated[
        Path | None, typer.Option("--promoted", help="The release directory of the nearest release.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say why a decision was what it was: every reason, wanted and got, and the release that came nearest.

    The record is checked against the log and decided again by the evaluator that decided it. With both release
    directories it also names the components in which the refused image differs.
    """
    from tallystick.broker.explaining import explain as explained
    from tallystick.cli.broker_home import broker_home

    found = explained(broker_home(workdir), decision)
    changes = _changes(promoted, running)
    document: dict[str, Any] = found.document()
    if changes is not None:
        document["components"] = [{"name": change.name, "change": change.words} for change in changes]
    emit(document, _words(found, changes), as_json=as_json)


def _words(found: Explanation, changes: tuple[ComponentChange, ...] | None) -> str:
    from tallystick.appraisal.steps import next_step

    about = found.said.get("key") or found.said.get("stage") or found.said.get("action") or ""
    lines = [f"{found.kind.value} {about}".rstrip() + f" at {found.at:%Y-%m-%dT%H:%M:%SZ}"]
    for finding in found.findings:
        lines += [f"  - {finding.message}  [{finding.code}]", f"    next: {next_step(finding.code)}"]
    if found.changes:
        one = "this one change" if len(found.changes) == 1 else f"these {len(found.changes)} changes together"
        lines.append(f"  {one} would have made it a yes:")
        lines += [f"    {change.message}" for change in found.changes]
    for title, release in (("release", found.release), ("nearest release", found.nearest)):
        if release is not None:
            lines.append(f"  {title}: {release.name} {release.version} {release.digest}")
    if found.policy:
        lines.append(f"  policy: {found.policy} {found.said['policy']}")
    if "attestation" in found.said:
        lines.append(f"  attestation: {found.said['attestation']}")
    lines += [f"  component {change.words}" for change in changes or ()]
    lines.append(f"  log: leaf {found.leaf} of {found.size}; the record opens its commitment")
    if found.again is not None:
        same = "the same answer" if found.again else "ANOTHER ANSWER: this program decides differently"
        lines.append(f"  decided again now, as of then: {same}")
    return "\n".join(lines)


def _changes(promoted: Path | None, running: Path | None) -> tuple[ComponentChange, ...] | None:
    """Return the components in which two release directories differ; None when not both were given."""
    from tallystick.core.errors import Misuse

    if promoted is None and running is None:
        return None
    if promoted is None or running is None:
        raise Misuse("--promoted and --running are given together", code="explain.one-release")
    from tallystick.build.contents import causes, component_changes, parse
    from tallystick.core.files import read_file

    def contents(folder: Path, name: str) -> Any:
        return parse(read_file(folder / "contents" / name, "contents list"), name)

    names = sorted(path.name for path in (promoted / "contents").glob("*.json"))
    both = [name for name in names if (running / "contents" / name).is_file()]
    if not both:
        raise Misuse(f"{promoted} and {running} share no contents list", code="explain.no-contents")
    found = [
        change
        for name in both
        for change in component_changes(contents(promoted, name), contents(running, name))
    ]
    return tuple({change.words: change for change in causes(found)}.values())
