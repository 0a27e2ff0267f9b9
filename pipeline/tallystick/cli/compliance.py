"""``tally report compliance``: the dossier, and its check against the bytes that it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.channels import At, ChannelDir, TrustFile, Workdir
from tallystick.cli.output import JsonFlag, emit
from tallystick.core.errors import Misuse, NotGenuine

if TYPE_CHECKING:
    from datetime import datetime

    from tallystick.broker.config import Home
    from tallystick.report.dossier import Dossier, Item
    from tallystick.signing.records import Trust

_MAX_BYTES = 64 << 20
_JSON, _HTML = "dossier.json", "dossier.html"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(compliance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the bytes of a dossier's evidence lie."""

    channel: str
    folder: Path  # the channel's
    trust: Path
    home: Home | None

    def read(self, where: str) -> bytes | None:
        """Return the bytes at a place that a dossier names; None when nothing is there."""
        kind, _, rest = where.partition(":")
        if kind == "channel":
            from tallystick.release.index import safe_path

            place = self.folder / rest
            return place.read_bytes() if safe_path(rest) and place.is_file() else None
        if kind == "trust":
            return self.trust.read_bytes() if rest == "" and self.trust.is_file() else None
        return self._of_log(rest) if kind == "log" and self.home is not None else None

    def _of_log(self, rest: str) -> bytes | None:
        from tallystick.broker.leaflog import LeafLog
        from tallystick.broker.store import Store

        what, _, number = rest.partition("/")
        if self.home is None or not number.isascii() or not number.isdecimal() or len(number) > 15:
            return None
        store = Store.open(self.home.store)
        try:
            log = LeafLog(store)
            if int(number) >= log.size + (what == "head"):
                return None
            if what == "head":
                return log.root(int(number))
            (kept,) = store.decisions(int(number), int(number) + 1)
            return log.leaf(kept)
        finally:
            store.close()


def compliance(
    channel: Annotated[str, typer.Option("--channel", help="The channel: debug, staging or production.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=f"A folder for {_JSON} and {_HTML}.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check", help=f"A {_JSON}: read every piece of evidence in it again, and write nothing."
        ),
    ] = None,
    workdir: Workdir = None,
    trust: TrustFile = None,
    channel_dir: ChannelDir = None,
    at: At = None,
    as_json: JsonFlag = False,
) -> None:
    """Map evidence, decisions, approvals and SBOMs to GDPR, HIPAA, PCI DSS, ISO 27001, SOC 2 and the Smals checklist.

    Every line resolves to digests, and says what stays with the organisation. With --check, exit 5 names each piece
    that is gone or other, and each line that does not follow.
    """
    from tallystick.cli import desks
    from tallystick.cli import workdir as work
    from tallystick.cli.broker_home import broker_home
    from tallystick.cli.clock import at as instant

    if (output is None) == (check is None):
        raise Misuse("report compliance: want one of --output and --check", code="report.output")
    home, place = broker_home(workdir), work.place(workdir)
    places = Places(
        channel=channel,
        folder=channel_dir or desks.channel_folder(place, channel),
        trust=trust or place / "trust.json",
        home=home if home.made else None,
    )
    pinned = desks.load_trust(place, trust)
    if check is not None:
        _check(check, places, as_json=as_json)
    else:
        assert output is not None  # noqa: S101 - one of the two, as was just checked
        _write(output, dossier(places, pinned, instant(at)), as_json=as_json)


def dossier(places: Places, trust: Trust, now: datetime) -> Dossier:
    """Return the dossier of a channel, after everything in it was verified, releases and log included."""
    from tallystick import __version__
    from tallystick.release import channel as channels
    from tallystick.release.records import HighWater
    from tallystick.release.tuf import Folder
    from tallystick.report import dossier as dossiers
    from tallystick.report import dossier_gather as gather

    folder = Folder(places.folder)
    channels.load(places.folder, places.channel, trust, now, max_age=None)
    state = folder.verify(channels.pinned_root(trust, places.channel), places.channel, now, HighWater(), None)
    items = [*gather.of_channel(state, folder.read), gather.of_trust(places.trust.read_bytes())]
    notes = []
    if trust.label == "embedded-dev":
        notes.append(
            "Development roots: the Sigstore that signed this is embedded. No production policy takes it."
        )
    if places.home is None:
        notes.append("No broker was given: lines about decisions lack their evidence.")
    else:
        items += _log(places.home)
    return dossiers.make(
        items, channel=places.channel, made_at=now, made_by=f"tallystick {__version__}", notes=notes
    )


def _log(home: Home) -> list[Item]:
    from tallystick.broker.leaflog import LeafLog
    from tallystick.broker.store import Store
    from tallystick.report import dossier_gather as gather

    store = Store.open(home.store)
    try:
        log = LeafLog(store)
        return list(gather.of_log(log.head(), ((kept.position, kept.leaf) for kept in log.decisions())))
    finally:
        store.close()


def _write(output: Path, made: Dossier, *, as_json: bool) -> None:
    from tallystick.core import jsondoc
    from tallystick.core.files import write_file
    from tallystick.report import dossier_page

    document = made.document()
    write_file(output / _JSON, jsondoc.dumps(document) + b"\n", mode=0o600)
    write_file(output / _HTML, dossier_page.render(made), mode=0o600)
    lines = [line for one in made.frameworks for line in one.lines]
    lacking = [
        f"{one.id} {line.clause}" for one in made.frameworks for line in one.lines if not line.evidenced
    ]
    summary = {
        "dossier": str(output / _JSON),
        "page": str(output / _HTML),
        "clauses": len(lines),
        "evidenced": len(lines) - len(lacking),
        "lacking": lacking,
        "evidence": len(made.items),
    }
    counted = f"{len(lines) - len(lacking)} of {len(lines)} clauses have their evidence"
    words = f"wrote {output / _JSON} and {_HTML}: {counted}"
    emit(summary, "\n".join([words, *(f"  lacks evidence: {name}" for name in lacking)]), as_json=as_json)


def _check(path: Path, places: Places, *, as_json: bool) -> None:
    from tallystick.core.files import read_file
    from tallystick.report import dossier as dossiers

    data = read_file(path, "dossier", max_bytes=_MAX_BYTES)
    read: Callable[[str], bytes | None] = places.read
    if findings := list(dossiers.check(data, read, channel=places.channel)):
        raise NotGenuine(f"{path}: {len(findings)} thing(s) do not hold", findings=findings)
    emit(
        {"dossier": str(path), "holds": True},
        f"{path}: every line resolves, every digest holds",
        as_json=as_json,
    )
