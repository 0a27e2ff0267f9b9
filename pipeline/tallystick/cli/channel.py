"""``tally channel``: what a channel holds and what waits in it; withdrawing, and renewing its timestamp."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.desks import As, TrustFile, Workdir, change_document, change_words
from tallystick.cli.output import JsonFlag, command_app, emit

if TYPE_CHECKING:
    from collections.abc import Collection

    from tallystick.release.keys import Signatory
    from tallystick.release.records import Change, Person, VerifiedArtifacts, VerifiedChannel, VerifiedRelease
    from tallystick.release.rotate import Progress

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
        desk = replace(desk, seen=HighWater(), max_age=None)
    found = channels.load(desk.folder.path, channel, desk.trust, desk.now, desk.seen, desk.max_age)
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
    mark = revoke.refresh(desk, desks.online_key(workdir, channel, desk.state().online))
    desks.keep(workdir, channel, mark)
    version, expires = mark.version("timestamp"), _time(desk.state().expires)
    emit(
        {"channel": channel, "version": version, "expires": expires},
        f"renewed {channel}: version {version}, until {expires}",
        as_json=as_json,
    )


@app.command()
def rotate(
    channel: Channel,
    name: As,
    replace: Annotated[
        list[str] | None,
        typer.Option(
            "--replace", help="NAME=FILE: this person's new Ed25519 public key (PEM); can be repeated."
        ),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            "--add",
            help="NAME=FILE,SAN,ISSUER: a new person with key and Sigstore identity; can be repeated.",
        ),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", help="NAME: a person who goes; can be repeated.")
    ] = None,
    online: Annotated[
        Path | None,
        typer.Option(
            "--online",
            help="The new online key's public half (PEM); its private half lies in the channel's folder as "
            "online-next.key.",
        ),
    ] = None,
    drop: Annotated[bool, typer.Option("--withdraw", help="Drop the rotation that waits.")] = False,
    workdir: Workdir = None,
    trust: TrustFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Exchange a channel's keys. With changes named, propose them; without, sign the rotation that waits.

    It is live when a threshold of the old and of the new people signed, and every new key that has to. So the people
    who are left let one who lost a key in again, with a new one. Clients that were shown snapshots and timestamps by
    somebody with the old online key go on from those of the new one.
    """
    from tallystick.cli import clock, desks
    from tallystick.release import rotate as rotation

    desk = desks.open_desk(channel, workdir, trust, clock.now())
    who = desks.person_key(workdir, name)
    if drop:
        rotation.withdraw(desk, who)
        emit(
            {"channel": channel, "withdrawn": True},
            f"withdrawn from {channel}: the rotation",
            as_json=as_json,
        )
        return

    def key(keyids: Collection[str]) -> Signatory:
        return desks.online_key(workdir, channel, keyids)

    if replace or add or remove or online:
        people = _people(desk.state().people, replace or [], add or [], remove or [])
        new = None if online is None else _public(str(online))
        progress, mark = rotation.propose(desk, people, who, key, new_online=new)
    else:
        progress, mark = rotation.approve(desk, who, key)
    desks.keep(workdir, channel, mark)
    if not progress.lacks:
        desks.settle_online(workdir, channel, progress.online)
    _emit_progress(channel, progress, as_json=as_json)


@app.command()
def rules(
    channel: Channel,
    name: As,
    build_level: Annotated[
        int | None, typer.Option("--slsa-build-level", help="Least SLSA build level, 1 to 3.")
    ] = None,
    source_level: Annotated[
        int | None,
        typer.Option("--slsa-source-level", help="Least SLSA source level of the commit's VSA, 1 to 4."),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option("--vulnerabilities-days", help="Ask for signed advisories of at most this age."),
    ] = None,
    components: Annotated[
        list[str] | None,
        typer.Option("--deny-component", help="A purl; without a version, every one. Can be repeated."),
    ] = None,
    licences: Annotated[
        list[str] | None, typer.Option("--deny-licence", help="An SPDX identifier; can be repeated.")
    ] = None,
    push: Annotated[
        list[str] | None, typer.Option("--push", help="Who may propose; can be repeated. Default: everybody.")
    ] = None,
    workdir: Workdir = None,
    trust: TrustFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Propose all of what a channel asks beyond what every channel does; what is not named is not asked.

    The others agree with `tally channel rotate CHANNEL --as NAME`, as they do to new keys.
    """
    from tallystick.cli import clock, desks
    from tallystick.release import roles
    from tallystick.release import rotate as rotation

    said = {
        "slsa_build_level": build_level,
        "slsa_source_level": source_level,
        "vulnerabilities_days": days,
        "denied_components": components,
        "denied_licences": licences,
        "push": push,
    }
    wanted = roles.rules_of({field: value for field, value in said.items() if value is not None})
    desk = desks.open_desk(channel, workdir, trust, clock.now())
    who = desks.person_key(workdir, name)
    people = desk.state().people
    progress, mark = rotation.propose(
        desk, people, who, lambda keyids: desks.online_key(workdir, channel, keyids), wanted
    )
    desks.keep(workdir, channel, mark)
    _emit_progress(channel, progress, as_json=as_json)


def _emit_progress(channel: str, progress: Progress, *, as_json: bool) -> None:
    from tallystick.release import roles

    document = {
        "channel": channel,
        "people": [
            {"name": one.name, "san": one.identity.san, "keyid": one.keyid} for one in progress.people
        ],
        "rules": roles.rules_document(progress.rules),
        "online_keyids": list(progress.online),
        "signed_by": list(progress.signed_by),
        "live": not progress.lacks,
        "lacks": progress.lacks,
    }
    still = f"waits: {progress.lacks}" if progress.lacks else "live"
    lines = [f"keys of {channel}: {', '.join(one.name for one in progress.people)}"]
    lines += [f"  rule {name}: {value}" for name, value in roles.rules_document(progress.rules).items()]
    lines.append(f"  online key {', '.join(keyid[:16] for keyid in progress.online)}")
    lines.append(f"  signed by {', '.join(progress.signed_by)}: {still}")
    emit(document, "\n".join(lines), as_json=as_json)


def _people(
    people: tuple[Person, ...], replace: list[str], add: list[str], remove: list[str]
) -> tuple[Person, ...]:
    """Return the people as they will be, sorted by name.

    Raises:
        Misuse: an option of another form, or about somebody who is not there, or is there already.
    """
    from dataclasses import replace as changed

    from tallystick.core.errors import Misuse
    from tallystick.release import keys
    from tallystick.release.records import Person
    from tallystick.signing.records import Identity

    found = {one.name: one for one in people}
    for text in (*remove, *(one.partition("=")[0] for one in replace)):
        if text not in found:
            raise Misuse(f"{text[:64]} has no key of the channel", code="person.unknown")
    for text in remove:
        del found[text]
    for text in replace:
        name, _, file = text.partition("=")
        raw = _public(file)
        found[name] = changed(found[name], public_key=raw, keyid=keys.keyid_of(raw))
    for text in add:
        name, _, rest = text.partition("=")
        parts = rest.split(",")
        if name in found or len(parts) != 3:
            raise Misuse(
                f"--add: want NAME=FILE,SAN,ISSUER of somebody new, got {text[:80]}", code="person.name"
            )
        raw, identity = _public(parts[0]), Identity(san=parts[1], issuer=parts[2])
        found[name] = Person(name=name, identity=identity, keyid=keys.keyid_of(raw), public_key=raw)
    return tuple(found[name] for name in sorted(found))


def _public(file: str) -> bytes:
    from tallystick.core.files import read_file
    from tallystick.release import keys

    pem = read_file(Path(file), "public key", max_bytes=1 << 16).decode("ascii", "replace")
    return keys.from_pem(pem, "public key")


def _document(found: VerifiedChannel, waiting: tuple[Change, ...]) -> dict[str, Any]:
    from tallystick.core.digests import Digest
    from tallystick.release import roles

    return {
        "channel": found.name,
        "version": found.version,
        "expires": _time(found.expires),
        "approvals": found.settings.threshold,
        "platforms": list(found.settings.platforms),
        "rules": roles.rules_document(found.settings.rules),
        "people": [{"name": person.name, "san": person.identity.san} for person in found.people],
        "releases": [_release(release) for release in found.releases],
        "artifacts": [_artifacts(one) for one in found.artifacts],
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


def _artifacts(one: VerifiedArtifacts) -> dict[str, Any]:
    return {
        "digest": str(one.digest),
        "name": one.manifest.name,
        "version": one.manifest.version,
        "signed_by": dict(one.statements)["artifacts"].signer.san,
        "policy": str(one.manifest.policy),
        "images": {images.name: list(images.versions) for images in one.manifest.images},
        "artifacts": {artifact.name: artifact.key for artifact in one.manifest.artifacts},
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
    for said in map(_artifacts, found.artifacts):
        images = "; ".join(f"{name} {', '.join(versions)}" for name, versions in said["images"].items())
        lines += [
            f"  artifacts {said['name']} {said['version']}  {said['digest']}",
            f"    signed by {said['signed_by']}, for {images}",
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
