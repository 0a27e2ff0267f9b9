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


def read_policy(path: Path) -> Policy:
    """Return the policy in ``path``, read but not yet held to any rule."""
    from tallystick.core.files import read_file
    from tallystick.policy.load import load

    return load(read_file(path, "policy", max_bytes=_MAX_POLICY_BYTES))


def verified_channel(
    name: str, now: datetime, workdir: Path | None, channel_dir: Path | None, trust: Path | None
) -> VerifiedChannel:
    """Return the channel ``name`` with every release verified against the trust file."""
    from tallystick.cli import workdir as work
    from tallystick.release import channel
    from tallystick.signing import trust as trust_file

    home = work.place(workdir)
    pinned = trust_file.load(trust or home / "trust.json")
    return channel.load(channel_dir or home / "channels" / name, name, pinned, now)
