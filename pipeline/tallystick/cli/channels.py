"""What several commands need of a channel: where it is, whose word is taken for it, and what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from tallystick.policy.model import Policy
    from tallystick.release.records import VerifiedChannel

_MAX_POLICY_BYTES = 1 << 20

PolicyFile = Annotated[Path, typer.Argument(metavar="POLICY", help="The policy, a YAML file.")]
Workdir = Annotated[
    Path | None,
    typer.Option(
        "--workdir", help="The work directory. Default: $TALLY_HOME, else ~/.local/share/tallystick."
    ),
]
ChannelDir = Annotated[
    Path | None,
    typer.Option("--channel-dir", help="The channel's TUF repository. Default: the work directory's."),
]
TrustFile = Annotated[
    Path | None, typer.Option("--trust", help="The pinned trust file. Default: the work directory's.")
]
At = Annotated[
    str | None, typer.Option("--at", help="Decide as of this time (RFC 3339). Default: now.", metavar="T")
]


def read_policy(path: Path) -> tuple[Policy, bytes]:
    """Return the policy in ``path``, read but not yet held to any rule, and its bytes."""
    from tallystick.compile.policies import load
    from tallystick.core.files import read_file

    data = read_file(path, "policy", max_bytes=_MAX_POLICY_BYTES)
    return load(data), data


def verified_channel(
    name: str, at: str | None, workdir: Path | None, channel_dir: Path | None, trust: Path | None
) -> tuple[VerifiedChannel, datetime]:
    """Return the channel ``name`` with every release verified, and the moment it was verified for.

    The work directory's own channel is never read older than it was seen before. A replay (``at``) and a
    channel from elsewhere have no marks: they neither use them nor leave any.
    """
    from tallystick.cli import clock, desks
    from tallystick.cli import workdir as workdirs
    from tallystick.release import channel
    from tallystick.release.metadata import MAX_AGE
    from tallystick.release.records import HighWater

    now = clock.at(at)
    if channel_dir is not None:
        pinned = desks.load_trust(workdirs.place(workdir), trust)
        return channel.load(channel_dir, name, pinned, now, max_age=None if at else MAX_AGE), now
    desk = desks.open_desk(name, workdir, trust, now)
    seen, max_age = (HighWater(), None) if at else (desk.seen, MAX_AGE)
    found = channel.load(desk.folder.path, name, desk.trust, now, seen, max_age)
    if not at:
        desks.keep(workdir, name, found.state.high_water)
    return found, now
