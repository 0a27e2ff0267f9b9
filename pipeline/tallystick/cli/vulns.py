"""``tally vulns``: known vulnerabilities of a release, by signed files alone, and what hangs on each. Offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.channels import At, ChannelDir, TrustFile, Workdir
from tallystick.cli.output import JsonFlag, command_app, emit

if TYPE_CHECKING:
    from tallystick.measure.records import Measurement
    from tallystick.release.vulnerabilities import Feed, Hit
    from tallystick.report.folder import ReleaseFolder

app = command_app()


@app.command()
def vulns(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The release directory.")],
    osv: Annotated[
        list[Path] | None,
        typer.Option("--osv", help="OSV records; their bundle FILE.sigstore.json lies beside. Repeatable."),
    ] = None,
    vex: Annotated[
        list[Path] | None,
        typer.Option("--vex", help="OpenVEX or CycloneDX VEX, with its bundle as well. Repeatable."),
    ] = None,
    max_age: Annotated[
        int, typer.Option("--max-age", min=1, max=365, help="Days since a file was signed, at most.")
    ] = 7,
    channel: Annotated[
        str | None, typer.Option("--channel", help="Also name the live policies of this channel.")
    ] = None,
    workdir: Workdir = None,
    channel_dir: ChannelDir = None,
    trust: TrustFile = None,
    at: At = None,
    as_json: JsonFlag = False,
) -> None:
    """Say which components have a known vulnerability, in which images, measurements and policies.

    The files are signed by promoters of the trust file (`tally sign FILE`), and none is fetched. An open vulnerability
    is no error here: `tally promote` refuses it, and `tally revoke --cve` takes out what is live. A VEX that says
    "not_affected" or "fixed" settles one, until a later statement says otherwise.
    """
    from datetime import timedelta

    from tallystick.cli import clock, desks
    from tallystick.cli import workdir as workdirs
    from tallystick.core.errors import Misuse
    from tallystick.formats import cyclonedx
    from tallystick.release import inventory, vulnerabilities
    from tallystick.report.folder import ReleaseFolder

    files = (*(osv or ()), *(vex or ()))
    if not files:
        raise Misuse("name what is known: --osv FILE, --vex FILE", code="vulns.what")
    folder = ReleaseFolder.open(directory)
    now = clock.at(at)
    pinned = desks.load_trust(workdirs.place(workdir), trust)
    feed = vulnerabilities.read(files, pinned, now, timedelta(days=max_age))
    document = cyclonedx.checked(folder.statement("sbom").predicate, "statements/sbom.json")
    hits = vulnerabilities.hits(feed, inventory.of_release(folder.contents().values(), document))
    live = _policies(channel, at, workdir, channel_dir, trust)
    measured = folder.measurements()
    rows = [_row(hit, folder, measured, live) for hit in hits]
    still = sum(row["open"] for row in rows)
    found = {
        "release": str(folder.index.digest),
        "advisories": len(feed.advisories),
        "statements": len(feed.verdicts),
        "signed_at": feed.signed_at.isoformat().replace("+00:00", "Z") if feed.signed_at else None,
        "open": still,
        "vulnerabilities": rows,
    }
    emit(found, "\n".join(_words(rows, feed, still)), as_json=as_json)


def _policies(
    channel: str | None, at: str | None, workdir: Path | None, channel_dir: Path | None, trust: Path | None
) -> dict[str, bytes] | None:
    from tallystick.cli.channels import verified_channel

    if channel is None:
        return None
    found, _ = verified_channel(channel, at, workdir, channel_dir, trust)
    return dict(found.policies)


def _row(
    hit: Hit, folder: ReleaseFolder, released: tuple[Measurement, ...], live: dict[str, bytes] | None
) -> dict[str, Any]:
    """Return one vulnerability of one component; "policies" is null where no channel was asked."""
    from tallystick.release import affected
    from tallystick.release.vulnerabilities import OK

    files = affected.images(folder.index, (hit.part,))
    measured = affected.measurements(folder.index, released, files)
    policies = None if live is None else list(affected.policies(live, folder.index.digest, measured))
    return {
        "vulnerability": hit.vulnerability,
        "status": hit.status,
        "open": hit.status not in OK,
        "component": hit.part.ref,
        "name": hit.part.name,
        "version": hit.part.version,
        "inside": hit.part.owner or None,
        "images": list(files),
        "measurements": len(measured),
        "platforms": sorted({one.platform for one in measured}),
        "policies": policies,
    }


def _words(rows: list[dict[str, Any]], feed: Feed, still: int) -> list[str]:
    lines = []
    for row in rows:
        inside = f", inside {row['inside']}" if row["inside"] else ""
        lines.append(f"{row['vulnerability']}  {row['name']} {row['version']}: {row['status']}{inside}")
        lines.append(f"  images       {', '.join(row['images']) or 'none'}")
        lines.append(f"  measurements {row['measurements']} ({', '.join(row['platforms']) or 'no platform'})")
        if row["policies"] is not None:
            lines.append(f"  policies     {', '.join(row['policies']) or 'none'}")
    when = f", the oldest signed {feed.signed_at.isoformat()}" if feed.signed_at else ""
    lines.append(
        f"{len(feed.advisories)} advisories and {len(feed.verdicts)} statements{when}: "
        f"{len(rows)} about this release, {still} open"
    )
    return lines
