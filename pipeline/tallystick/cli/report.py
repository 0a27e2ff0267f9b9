"""``tally report``: the pages that people read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli import compliance
from tallystick.cli.channels import At, ChannelDir, TrustFile, Workdir
from tallystick.cli.output import JsonFlag, command_app, emit
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from tallystick.release.records import VerifiedChannel, VerifiedRelease
    from tallystick.report.records import ChainReport, DecisionView, LogView, PolicyView, PromotionView
    from tallystick.signing.records import Trust

app = command_app("Write the pages that people read.")
compliance.register(app)

_UNVERIFIED = (
    "No trust file was given, so no signature was verified for this page: it shows what the releases say."
)
_DEVELOPMENT = "Development roots: the Sigstore that signed this is embedded. No production policy takes it."


@app.command()
def html(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR", help="Release directories.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    trust: TrustFile = None,
    workdir: Workdir = None,
    channel: Annotated[
        str | None, typer.Option("--channel", help="Show promotion and policies of this channel.")
    ] = None,
    channel_dir: ChannelDir = None,
    decisions: Annotated[
        bool,
        typer.Option(
            "--decisions", help="Show the decisions of the work directory's broker, for its operator."
        ),
    ] = False,
    at: At = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the chain from source to key release as one page: static, without scripts, loading nothing.

    Signatures are verified when --trust or --workdir is given. Nothing is left out in silence: what was not
    given is called so on the page.
    """
    from tallystick.cli.clock import at as instant
    from tallystick.core.files import write_file
    from tallystick.report import page

    given = trust is not None or workdir is not None
    if (channel is not None or decisions) and not given:
        raise Misuse("--channel and --decisions need --trust or --workdir", code="report.trust")
    now = instant(at)
    pinned = _trust(trust, workdir) if given else None
    report = _report(directories, pinned, now)
    if channel is not None and pinned is not None:
        report = _with_channel(report, _channel(channel, now, workdir, channel_dir, trust))
    if decisions:
        report = _with_decisions(report, workdir)
    data = page.render(report)
    write_file(output, data)
    emit(
        {
            "page": str(output),
            "bytes": len(data),
            "releases": [str(one.digest) for one in report.releases],
            "verified": given,
        },
        f"wrote {output} ({len(data):,} bytes)",
        as_json=as_json,
    )


@app.command()
def board(
    channel: Annotated[str, typer.Option("--channel", help="The channel: debug, staging or production.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    trust: TrustFile = None,
    workdir: Workdir = None,
    channel_dir: ChannelDir = None,
    broker: Annotated[
        bool,
        typer.Option(
            "--broker/--no-broker", help="Show leases, refusals and log of the work directory's broker."
        ),
    ] = True,
    at: At = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the release managers' page: what may run now and why, what waits, who holds keys, what ends next.

    One static file, for operators: it shows what a refused machine was not told. Exit 6 when a part of it does not
    hold; the page is written, and says which.
    """
    from tallystick.cli import board as boards
    from tallystick.cli import desks
    from tallystick.cli import workdir as work
    from tallystick.cli.broker_home import broker_home
    from tallystick.cli.clock import at as instant
    from tallystick.core.errors import Refused
    from tallystick.core.files import write_file
    from tallystick.report import board as drawing

    place = work.place(workdir)
    home = broker_home(workdir)
    sources = boards.Sources(
        channel=channel,
        folder=channel_dir or desks.channel_folder(place, channel),
        trust=desks.load_trust(place, trust),
        home=home if broker and home.made else None,
    )
    made = boards.board(sources, instant(at))
    data = drawing.render(made)
    write_file(output, data, mode=0o600)
    if made.troubles:
        findings = [finding for one in made.troubles for finding in one.findings]
        parts = "; ".join(f"{one.part}: {one.message}" for one in made.troubles)
        raise Refused(
            f"wrote {output}, and not all of it holds: {parts}", code="report.trouble", findings=findings
        )
    document = {
        "page": str(output),
        "bytes": len(data),
        "keys": len(made.keys),
        "releases": [str(one.digest) for one in made.releases],
        "waiting": len(made.state.waiting) if made.state else 0,
        "leases": len(made.leases) + made.more_leases,
    }
    emit(document, f"wrote {output} ({len(data):,} bytes)", as_json=as_json)


def _report(directories: list[Path], pinned: Trust | None, now: datetime) -> ChainReport:
    from tallystick import __version__
    from tallystick.report import gather
    from tallystick.report.folder import ReleaseFolder
    from tallystick.report.records import ChainReport

    releases = []
    for directory in directories:
        verified = _verified(directory, pinned, now) if pinned is not None else None
        releases.append(gather.release(ReleaseFolder.open(directory), verified))
    notes = (_UNVERIFIED,) if pinned is None else (_DEVELOPMENT,) if pinned.label == "embedded-dev" else ()
    return ChainReport(
        made_at=now, made_by=f"tallystick {__version__}", releases=tuple(releases), notes=notes
    )


def _verified(directory: Path, pinned: Trust, now: datetime) -> VerifiedRelease:
    from tallystick.release.verify import verify_release

    return verify_release(directory, pinned, now)


def _trust(trust: Path | None, workdir: Path | None) -> Trust:
    from tallystick.cli import workdir as work
    from tallystick.signing import trust as trust_file

    return trust_file.load(trust or work.place(workdir) / "trust.json")


def _channel(
    name: str, now: datetime, workdir: Path | None, channel_dir: Path | None, trust: Path | None
) -> VerifiedChannel:
    from tallystick.cli.channels import verified_channel

    return verified_channel(name, now.isoformat(), workdir, channel_dir, trust)[0]


def _with_channel(report: ChainReport, found: VerifiedChannel) -> ChainReport:
    from dataclasses import replace

    return replace(report, promotions=tuple(_promotions(report, found)), policies=tuple(_policies(found)))


def _promotions(report: ChainReport, found: VerifiedChannel) -> Iterator[PromotionView]:
    from tallystick.report import gather

    promoted = {release.digest for release in found.releases}
    for release in report.releases:
        if release.digest in promoted:
            yield gather.promotion(found, release.digest)


def _policies(found: VerifiedChannel) -> Iterator[PolicyView]:
    """Each target's main file, by what the ``broker`` target of the same policy says."""
    from tallystick.report import gather

    for path, data in sorted(found.policies.items()):
        name, _, rest = path.partition("/")
        target, _, file = rest.partition("/")
        compiled = found.policies.get(f"{name}/broker/policy.json")
        if compiled is not None and file in ("policy.json", "as_default_cpu.rego"):
            yield gather.policy(target, data, compiled=compiled)


def _with_decisions(report: ChainReport, workdir: Path | None) -> ChainReport:
    from dataclasses import replace

    from tallystick.broker import audit
    from tallystick.cli.broker_home import broker_home

    home = broker_home(workdir)
    verified = audit.verify(home)
    return replace(
        report, decisions=tuple(_decisions(workdir)), logs=(_log(str(verified["checkpoint"]), workdir),)
    )


def _decisions(workdir: Path | None) -> Iterator[DecisionView]:
    from tallystick.broker.decisions import Kind
    from tallystick.broker.explaining import explain
    from tallystick.broker.store import Store
    from tallystick.cli.broker_home import broker_home
    from tallystick.report import gather

    home = broker_home(workdir)
    store = Store.open(home.store)
    try:
        names = [kept.decision for kept in store.decisions()]
    finally:
        store.close()
    for name in names:
        found = explain(home, name)
        if found.kind in (Kind.RELEASE, Kind.REFUSAL):
            yield gather.decision(found)


def _log(note: str, workdir: Path | None) -> LogView:
    from tallystick.broker import logkey
    from tallystick.cli.broker_home import broker_home
    from tallystick.report import gather

    return gather.log("key releases", note, logkey.load(broker_home(workdir).log_key).verifier_line())
