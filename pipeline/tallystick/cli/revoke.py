"""``tally revoke``: a release taken out of a channel by one person, for good."""

from __future__ import annotations

from typing import Annotated

import typer

from tallystick.cli.desks import As, ChannelName, TrustFile, Workdir
from tallystick.cli.output import JsonFlag, command_app, emit

app = command_app()


@app.command()
def revoke(
    release: Annotated[str, typer.Argument(help="The release digest, or a release directory.")],
    channel: ChannelName,
    name: As,
    reason: Annotated[str, typer.Option("--reason", help="Why, for those who read the channel.")],
    workdir: Workdir = None,
    trust: TrustFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Revoke a release: one person is enough, nobody else can undo it, and it takes effect at the next load.

    Its files leave the channel with the next change of the channel's releases.
    """
    from tallystick.cli import clock, desks
    from tallystick.cli.releases import digest_of
    from tallystick.release import revoke as revocation

    desk = desks.open_desk(channel, workdir, trust, clock.now())
    who = desks.person_key(workdir, name)
    digest = digest_of(release)
    said, mark = revocation.revoke(desk, digest, who, desks.online_key(workdir, channel), reason)
    desks.keep(workdir, channel, mark)
    document = {
        "channel": channel,
        "release": str(said.release),
        "by": said.by,
        "reason": said.reason,
        "at": said.at.isoformat().replace("+00:00", "Z"),
        "version": mark.version("timestamp"),
    }
    emit(document, f"revoked in {channel}: {said.release}\n  by {said.by}: {said.reason}", as_json=as_json)
