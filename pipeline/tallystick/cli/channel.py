"""``tally channel``: what a channel holds and what waits in it; withdrawing, and renewing its timestamp."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.desks import As, TrustFile, Workdir, change_document, change_words
from tallystick.cli.output import JsonFlag, command_app, emit

if TYPE_CHECKING:
    from tallystick.release.records import Change, VerifiedChannel, VerifiedRelease

app = command_app("Show a channel, withdraw what waits in it, or renew its timestamp.")

Channel = Annotated[str, typer.Argument(help="The channel: debug, staging or production.")]


@app.command()
def show(
    channel: Channel,
    workdir: Workdir = None,
    trust: TrustFile = None,
    channel_dir: Annotated[
        Path | None,
        typer.Option("--channel-dir", help="The channel's TUF repository. Default: the work directory's."),
    ] = None,
    at: Annotated[str | None, typer.Option("--at", help="As of this RFC 3339 time. Default: now.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a channel's releases, policies and revocations, every one verified, and what waits for approval."""
    from dataclasses import replace

    from tallystick.cli import clock, desks
    from tallystick.release import approve
    from tallystick.release import channel as channels
    from tallystick.release.records import HighWater
    from tallystick.release.tuf import Folder

    desk = desks.open_desk(channel, workdir, trust, clock.at(at))
    if channel_dir is not None:
        desk = replace(desk, folder=Folder(channel_dir))
    if at is not None:  # a replay, to which later marks do not apply
        desk = replace(desk, seen=HighWater())
    found = channels.load(desk.folder.path, channel, desk.trust, desk.now, desk.seen)
    waiting = approve.pending(desk)
    if at is None:
        desks.keep(workdir, channel, found.state.high_water)
    emit(_document(found, waiting), _words(found, waiting), as_json=as_json)


@app.command()
def withdraw(
    channel: Channel,
    name: As,
    workdir: Workdir = None,
    trust: TrustFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Drop what waits for approval. Anybody with a key of the channel may: nothing becomes live by it."""
    from tallystick.cli import clock, desks
    from tallystick.release import approve

    desk = desks.open_desk(channel, workdir, trust, clock.now())
    dropped = approve.withdraw(desk, desks.person_key(workdir, name))
    words = "\n".join(f"withdrawn from {channel}: {change.kind} {change.summary}" for change in dropped)
    changes = [change_document(change, live=False) for change in dropped]
    emit({"channel": channel, "withdrawn": changes}, words, as_json=as_json)


@app.command()
def refresh(
    channel: Channel, workdir: Workdir = None, trust: TrustFile = None, as_json: JsonFlag = False
) -> None:
    """Renew a channel's timestamp with its online key, before it expires. Nothing else changes."""
    from tallystick.cli import clock, desks
    from tallystick.release import revoke

    desk = desks.open_desk(channel, workdir, trust, clock.now())
    mark = revoke.refresh(desk, desks.online_key(workdir, channel))
    desks.keep(workdir, channel, mark)
    version, expires = mark.version("timestamp"), _time(desk.state().expires)
    emit(
        {"channel": channel, "version": version, "expires": expires},
        f"renewed {channel}: version {version}, until {expires}",
        as_json=as_json,
    )


def _document(found: VerifiedChannel, waiting: tuple[Change, ...]) -> dict[str, Any]:
    from tallystick.core.digests import Digest

    return {
        "channel": found.name,
        "version": found.version,
        "expires": _time(found.expires),
        "approvals": found.settings.threshold,
        "platforms": list(found.settings.platforms),
        "people": [{"name": person.name, "san": person.identity.san} for person in found.people],
        "releases": [_release(release) for release in found.releases],
        "policies": {path: str(Digest.of(data)) for path, data in found.policies.items()},
        "revocations": [
            {"release": str(one.release), "by": one.by, "reason": one.reason, "at": _time(one.at)}
            for one in found.state.revocations
        ],
        "pending": [change_document(change, live=False) for change in waiting],
    }


def _release(release: VerifiedRelease) -> dict[str, Any]:
    return {
        "digest": str(release.digest),
        "name": release.index.name,
        "version": release.index.version,
        "builder": release.builder.builder_id,
        "rebuilt_by": [functionary.name for functionary in release.quorum.counted],
        "promoted_by": release.vsa.signer.san if release.vsa else None,
        "promoted_at": _time(release.vsa.signed_at) if release.vsa else None,
        "platforms": sorted({one.platform for one in release.measurements}),
        "bundles": [str(bundle) for bundle in release.bundles],
        "labels": list(release.labels),
    }


def _words(found: VerifiedChannel, waiting: tuple[Change, ...]) -> str:
    lines = [
        f"{found.name}: version {found.version}, holds until {_time(found.expires)}",
        f"  {found.settings.threshold} people besides the author approve, of "
        + ", ".join(person.name for person in found.people),
        f"  asks for measurements for {', '.join(found.settings.platforms)}",
        "releases" if found.releases else "no releases",
    ]
    for release in found.releases:
        said = _release(release)
        lines += [
            f"  {said['name']} {said['version']}  {said['digest']}",
            f"    promoted by {said['promoted_by']} at {said['promoted_at']}",
            f"    built by {said['builder']}, rebuilt by {', '.join(said['rebuilt_by'])}",
        ]
    names = sorted({path.split("/")[0] for path in found.policies})
    lines.append(f"policies: {', '.join(names)}" if names else "no policies")
    lines += [f"  {path}" for path in found.policies]
    for one in found.state.revocations:
        lines.append(f"revoked: {one.release} by {one.by} at {_time(one.at)}: {one.reason}")
    lines += [f"pending: {change_words(change, live=False)}" for change in waiting]
    return "\n".join(lines)


def _time(at: Any) -> str:
    return str(at.isoformat()).replace("+00:00", "Z")
