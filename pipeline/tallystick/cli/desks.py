"""What the commands that change a channel share: where it is, who acts, and what was seen before."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from tallystick.release.desk import Desk
    from tallystick.release.keys import Signatory
    from tallystick.release.records import Change, HighWater
    from tallystick.signing.records import Trust
    from tallystick.signing.sigstore import Signer

ChannelName = Annotated[str, typer.Option("--channel", help="The channel: debug, staging or production.")]
As = Annotated[str, typer.Option("--as", help="Who acts: a person of the work directory, such as alice.")]
Workdir = Annotated[
    Path | None,
    typer.Option(
        "--workdir", help="The work directory. Default: $TALLY_HOME, else ~/.local/share/tallystick."
    ),
]
TrustFile = Annotated[
    Path | None, typer.Option("--trust", help="The pinned trust file. Default: the work directory's.")
]


def open_desk(channel: str, workdir: Path | None, trust: Path | None, now: datetime) -> Desk:
    """Return where ``channel`` is changed, with the marks of what was seen of it."""
    from tallystick.cli import workdir as workdirs
    from tallystick.release import marks
    from tallystick.release.desk import Desk
    from tallystick.release.tuf import Folder

    home = workdirs.place(workdir)
    return Desk(
        folder=Folder(channel_folder(home, channel)),
        channel=channel,
        trust=load_trust(home, trust),
        now=now,
        seen=marks.load(marks_file(home, channel)),
    )


def load_trust(home: Path, trust: Path | None) -> Trust:
    """Return the trust file: as given, else the work directory's."""
    from tallystick.signing import trust as trust_file

    return trust_file.load(trust or home / "trust.json")


def keep(workdir: Path | None, channel: str, mark: HighWater) -> None:
    """Remember what was seen of ``channel``."""
    from tallystick.cli import workdir as workdirs
    from tallystick.release import marks

    marks.keep(marks_file(workdirs.place(workdir), channel), mark)


def channel_folder(home: Path, channel: str) -> Path:
    """Return where ``channel`` lies in the work directory.

    Raises:
        Misuse: no plain name.
    """
    from tallystick.core.errors import Misuse
    from tallystick.release.index import safe_path

    if not safe_path(channel) or "/" in channel:
        raise Misuse(f"{channel[:64]!r} is no name of a channel", code="channel.name")
    return home / "channels" / channel


def marks_file(home: Path, channel: str) -> Path:
    """Return where the high-water mark of ``channel`` is kept."""
    return home / "marks" / f"{channel_folder(home, channel).name}.json"


def person_key(workdir: Path | None, name: str) -> Signatory:
    """Return the channel and link key of the person ``name``."""
    from tallystick.cli import passphrase
    from tallystick.cli import workdir as workdirs
    from tallystick.release import keys
    from tallystick.signing import people

    return keys.load(people.folder(workdirs.place(workdir), name), name, passphrase=passphrase.secret)


def online_key(workdir: Path | None, channel: str, keyids: Collection[str]) -> Signatory:
    """Return the key that signs a channel's snapshot and timestamp, which is one of ``keyids``.

    Raises:
        Misuse: it is not here (``key.missing``).
    """
    from tallystick.cli import passphrase
    from tallystick.cli import workdir as workdirs
    from tallystick.core.errors import Misuse
    from tallystick.release import keys, tuf

    place = channel_folder(workdirs.place(workdir), channel)
    for file in (tuf.ONLINE_KEY, tuf.NEXT_ONLINE_KEY):
        if (place / file).exists():
            found = keys.load(place, "online", file=file, passphrase=passphrase.secret)
            if found.keyid in keyids:
                return found
    names = f"{tuf.ONLINE_KEY} and {tuf.NEXT_ONLINE_KEY}"
    wanted = ", ".join(keyid[:8] for keyid in keyids)
    raise Misuse(f"neither of {names} in {place} is the online key {wanted}", code="key.missing")


def settle_online(workdir: Path | None, channel: str, keyids: Collection[str]) -> None:
    """Give the next online key the name of the present one, once it is that."""
    from tallystick.cli import passphrase
    from tallystick.cli import workdir as workdirs
    from tallystick.release import keys, tuf

    place = channel_folder(workdirs.place(workdir), channel)
    waiting = place / tuf.NEXT_ONLINE_KEY
    if waiting.exists():
        found = keys.load(place, "online", file=waiting.name, passphrase=passphrase.secret)
        if found.keyid in keyids:
            waiting.replace(place / tuf.ONLINE_KEY)


def signer(workdir: Path | None, name: str, now: datetime) -> AbstractContextManager[Signer]:
    """Return a Sigstore signer in the person's name."""
    from tallystick.cli import passphrase
    from tallystick.cli import workdir as workdirs
    from tallystick.signing import sigstore

    return sigstore.embedded(workdirs.place(workdir), name, now, passphrase.secret)


def change_document(change: Change, *, live: bool) -> dict[str, Any]:
    """Return ``change`` as ``--json`` prints it."""
    return {
        "role": change.role,
        "version": change.version,
        "kind": change.kind,
        "author": change.author,
        "summary": change.summary,
        "proposed_at": change.at.isoformat().replace("+00:00", "Z"),
        "signed_by": list(change.signed_by),
        "approvals_missing": change.needed,
        "live": live,
        "adds": list(change.adds),
        "removes": list(change.removes),
    }


def change_words(change: Change, *, live: bool) -> str:
    """Return ``change`` as one paragraph for people."""
    approved = ", ".join(name for name in change.signed_by if name != change.author) or "nobody yet"
    missing = "live" if live else f"waits for {change.needed} more approval(s)"
    return (
        f"{change.kind} {change.summary}\n"
        f"  proposed by {change.author}, approved by {approved}: {missing}\n"
        f"  {len(change.adds)} file(s) added or changed, {len(change.removes)} removed"
    )
