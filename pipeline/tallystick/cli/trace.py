"""``tally trace``: from any digest of a release to its source, and on to the key; every hash is checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.desks import TrustFile, Workdir
from tallystick.cli.output import JsonFlag, command_app, emit
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from datetime import datetime

    from tallystick.release.records import VerifiedChannel
    from tallystick.report.nodes import Node
    from tallystick.report.trace import Trace

app = command_app()

_SHOWN = 40  # nodes of each direction; --json prints all


@app.command()
def trace(
    asked: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A digest or its first eight digits, a path in the release, a store path, a purl, a decision.",
        ),
    ],
    release: Annotated[
        Path, typer.Option("--release", help="The release directory that ID belongs to.", metavar="DIR")
    ] = Path(),
    channel: Annotated[
        str | None,
        typer.Option("--channel", help="The channel it was promoted into. Default: the one it was."),
    ] = None,
    workdir: Workdir = None,
    trust: TrustFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Walk from any digest back to its source and forward to measurement, promotion, policy and key release.

    The release is verified against the trust file first; then every hash of the chain is compared. One flipped byte
    anywhere ends it with exit 5 and the name of the file.
    """
    from tallystick.cli import clock, desks
    from tallystick.cli import workdir as workdirs
    from tallystick.release.verify import verify_release
    from tallystick.report import trace as chains
    from tallystick.report.folder import ReleaseFolder

    if not (release / "index.json").is_file():
        raise Misuse(f"{release} is no release directory; name one with --release", code="trace.where")
    now = clock.now()
    verify_release(release, desks.load_trust(workdirs.place(workdir), trust), now)
    chain = chains.graph(
        ReleaseFolder.open(release),
        channel=_channel(release, channel, workdir, trust, now),
        leaves=_leaves(workdir),
    )
    found = chains.trace(chain, asked)
    emit(found.document(), _words(found), as_json=as_json)


def _channel(
    release: Path, name: str | None, workdir: Path | None, trust: Path | None, now: datetime
) -> VerifiedChannel | None:
    """Return the channel that was named, or the one whose verdict lies in the release; None without either."""
    from tallystick.cli import desks
    from tallystick.release import channel, index

    if name is None:
        found = [path.name.partition(".")[0] for path in sorted(release.glob("promotions/*.sigstore.json"))]
        if len(found) > 1:
            raise Misuse(f"promoted into {', '.join(found)}: name one with --channel", code="trace.channel")
        if not found:
            return None
        name = found[0]
    desk = desks.open_desk(name, workdir, trust, now)
    state = channel.load(desk.folder.path, name, desk.trust, now, desk.seen)
    desks.keep(workdir, name, state.state.high_water)
    listed = any(one.digest == index.read(release).digest for one in state.releases)
    return state if listed else None


def _leaves(workdir: Path | None) -> list[bytes]:
    """Return the broker's log, verified; nothing where there is no broker."""
    from tallystick.broker import audit
    from tallystick.cli.broker_home import broker_home

    home = broker_home(workdir)
    if not home.made:
        return []
    audit.verify(home)
    return list(audit.export(home))


def _words(found: Trace) -> str:
    lines = [f"{found.asked} is"]
    lines += [f"  {_line(node)}" for node in found.found]
    for title, nodes in (("rests on", found.back), ("and on it rest", found.forward)):
        if nodes:
            lines.append(title)
            lines += [f"  {_line(node)}" for node in nodes[:_SHOWN]]
        if len(nodes) > _SHOWN:
            lines.append(f"  and {len(nodes) - _SHOWN} more (--json prints all)")
    lines.append(f"{len(found.source)} source(s); every hash on the way was compared")
    return "\n".join(lines)


def _line(node: Node) -> str:
    return f"{node.stage:<12} {node.name}  {node.digest}"
