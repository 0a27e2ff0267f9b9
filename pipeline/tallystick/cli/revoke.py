"""``tally revoke``: releases taken out of a channel by one person, for good, after showing what hangs on them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.desks import As, ChannelName, TrustFile, Workdir
from tallystick.cli.output import JsonFlag, command_app, emit, progress

if TYPE_CHECKING:
    from datetime import datetime

    from tallystick.core.digests import Digest
    from tallystick.release.affected import Reached
    from tallystick.release.desk import Desk
    from tallystick.release.records import VerifiedChannel

app = command_app()


@app.command()
def revoke(
    channel: ChannelName,
    name: As,
    release: Annotated[str | None, typer.Argument(help="The release digest, or a release directory.")] = None,
    component: Annotated[
        str | None,
        typer.Option(
            "--component", help="Every release with this component: a purl; without a version, any."
        ),
    ] = None,
    cve: Annotated[
        str | None,
        typer.Option("--cve", help="Every release that this vulnerability is known for, by --vex."),
    ] = None,
    vex: Annotated[
        list[Path] | None,
        typer.Option("--vex", help="With --cve: a signed OSV or OpenVEX file; can be repeated."),
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why, for those who read the channel.")
    ] = None,
    broker: Annotated[
        list[Path] | None,
        typer.Option(
            "--broker",
            help="Work directory of a broker whose live leases are counted; can be repeated. "
            "Default: this one's broker, when it has one.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    workdir: Workdir = None,
    trust: TrustFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Revoke a release, or every release with a component or vulnerability.

    Components, images, measurements, policies and live leases that hang on it are counted first. One person is
    enough, nobody else can undo it, and it takes effect when brokers and clients next load the channel, at the latest
    when its timestamp ends. The files leave the channel with the next change of the channel's releases.
    """
    from tallystick.cli import clock, desks
    from tallystick.core.errors import Misuse
    from tallystick.release import channel as channels
    from tallystick.release import revoke as revocation

    if sum(value is not None for value in (release, component, cve)) != 1 or bool(vex) != (cve is not None):
        raise Misuse("name a RELEASE, --component PURL, or --cve ID with --vex FILE", code="revoke.what")
    if reason is None and cve is None:
        raise Misuse("say why: --reason", code="revoke.reason")
    desk = desks.open_desk(channel, workdir, trust, clock.now())
    who = desks.person_key(workdir, name)
    found = channels.load(desk.folder.path, channel, desk.trust, desk.now, desk.seen)
    digests, reached = _chosen(desk, found, release, component, cve, vex or [])
    leases = _leases(workdir, broker, digests, desk.now)
    document = {"channel": channel, **_document(reached, found, leases)}
    if not digests:
        emit(document | {"revoked": []}, f"nothing in {channel} is affected", as_json=as_json)
        return
    for line in _words(reached, digests, found, leases):
        progress(line)
    _confirm(len(digests), channel, yes=yes)
    online = desks.online_key(workdir, channel, desk.state().online)
    said, mark = revocation.revoke_all(desk, digests, who, online, reason or f"{cve}: known to be affected")
    desks.keep(workdir, channel, mark)
    revoked = [
        {
            "release": str(one.release),
            "by": one.by,
            "reason": one.reason,
            "at": one.at.isoformat().replace("+00:00", "Z"),
        }
        for one in said
    ]
    document |= {"revoked": revoked, "version": mark.version("timestamp")}
    if release is not None:
        document |= revoked[0]
    words = [f"revoked in {channel}: {one.release}\n  by {one.by}: {one.reason}" for one in said]
    emit(document, "\n".join(words), as_json=as_json)


def _chosen(
    desk: Desk,
    found: VerifiedChannel,
    release: str | None,
    component: str | None,
    cve: str | None,
    vex: list[Path],
) -> tuple[tuple[Digest, ...], tuple[Reached, ...]]:
    """Return the releases that are to be revoked, and what hangs on those that are live."""
    from tallystick.cli.releases import digest_of
    from tallystick.release import affected, vulnerabilities

    if release is not None:
        digest = digest_of(release)
        live = [affected.of_release(found, one) for one in found.releases if one.digest == digest]
        return (digest,), tuple(live)  # one that only waits for approval can be revoked too
    if component is not None:
        reached = affected.reached(found, affected.by_component(component))
    else:
        feed = vulnerabilities.read(vex, desk.trust, desk.now, None)
        reached = affected.reached(found, affected.by_vulnerability(feed, cve or ""))
    return tuple(one.release.digest for one in reached), reached


def _confirm(count: int, channel: str, *, yes: bool) -> None:
    """Ask, where there is somebody to ask.

    Raises:
        Misuse: ``revoke.unconfirmed``: nobody said yes, and nothing was done.
    """
    from tallystick.core.errors import Misuse

    if yes:
        return
    if sys.stdin.isatty() and sys.stderr.isatty():
        sys.stderr.write(f"revoke {count} release(s) in {channel}, for good? [yes/no] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip() == "yes":
            return
    raise Misuse("nothing was revoked: nobody said yes (--yes)", code="revoke.unconfirmed")


def _leases(
    workdir: Path | None, brokers: list[Path] | None, digests: tuple[Digest, ...], now: datetime
) -> int | None:
    """Return how many leases of these releases hold now in the brokers' stores; None without a broker.

    A broker that nobody named and that can not be read keeps nobody from revoking.
    """
    from tallystick.cli.broker_home import broker_home
    from tallystick.core.errors import TallystickError

    if brokers:
        return sum(_held(place, digests, now) for place in brokers)
    if not broker_home(workdir).made:
        return None
    try:
        return _held(workdir, digests, now)
    except TallystickError as error:
        progress(f"leases not counted: {error.message}")
        return None


def _held(broker: Path | None, digests: tuple[Digest, ...], now: datetime) -> int:
    from tallystick.broker import lease_table
    from tallystick.cli.broker_leases import opened

    with opened(broker) as store, store.reading() as connection:
        held = lease_table.counts(connection, now)
    return sum(held.get(str(digest), 0) for digest in digests)


def _document(reached: tuple[Reached, ...], found: VerifiedChannel, leases: int | None) -> dict[str, Any]:
    return {
        "affected": {
            "components": len({one.ref for item in reached for one in item.components}),
            "releases": len(reached),
            "images": sum(len(item.images) for item in reached),
            "measurements": sum(item.measurements for item in reached),
            "policies": sorted({name for item in reached for name in item.policies}),
            "leases": leases,  # None: no broker was asked
        },
        "effective_by": found.state.expires.isoformat().replace("+00:00", "Z"),
    }


def _words(
    reached: tuple[Reached, ...], digests: tuple[Digest, ...], found: VerifiedChannel, leases: int | None
) -> list[str]:
    lines = []
    for item in reached:
        index = item.release.index
        lines.append(f"{index.name} {index.version}  {item.release.digest}")
        lines += [f"  component    {one.name} {one.version}" for one in item.components]
        lines += [f"  image        {path}" for path in item.images]
        lines.append(f"  measurements {item.measurements}")
        lines.append(f"  policies     {', '.join(item.policies) or 'none'}")
    said = _document(reached, found, leases)["affected"]
    held = "leases not counted: no broker here (--broker)" if leases is None else f"{leases} live leases"
    lines.append(
        f"{said['components']} components -> {said['images']} images -> {said['measurements']} measurements -> "
        f"{len(said['policies'])} policies -> {held}"
    )
    lines.append(
        f"{len(digests)} release(s); clients that have not heard take them until {found.state.expires.isoformat()}"
    )
    return lines
