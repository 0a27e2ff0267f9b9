"""``tally forecast``: what ends when, and which workloads stop then."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.channels import At, ChannelDir, TrustFile, Workdir
from tallystick.cli.output import JsonFlag, command_app, emit
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from cryptography import x509

    from tallystick.broker.forecast import Ending, Stop, Workload
    from tallystick.broker.policies import PolicyState
    from tallystick.evidence.bundle import Part
    from tallystick.release.metadata import State
    from tallystick.signing.records import Trust

app = command_app()

_MAX_BYTES = 64 << 20
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1)}


@app.command()
def forecast(
    channel: Annotated[str, typer.Option("--channel", help="The channel: debug, staging or production.")],
    workdir: Workdir = None,
    channel_dir: ChannelDir = None,
    trust: TrustFile = None,
    endorsements: Annotated[
        list[Path] | None,
        typer.Option(
            "--endorsements", help="A file that evidence is verified with, or a bundle; may be given again."
        ),
    ] = None,
    bundle_key: Annotated[
        Path | None, typer.Option("--bundle-key", help="PEM public key of whoever signs endorsement bundles.")
    ] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(
            "--evidence",
            metavar="DIR",
            help="A folder of `tally broker evidence export`: its workloads, beside the broker's leases.",
        ),
    ] = None,
    within: Annotated[
        str | None, typer.Option("--within", help="Only what ends within this time: 30d or 12h.")
    ] = None,
    at: At = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what ends when: metadata, approvals, policies, waivers, certificates, CRLs, TCB info; and what stops then.

    Each time is the first second at which the decision is no.
    """
    from tallystick.broker import forecast as forecasting
    from tallystick.cli import clock, desks
    from tallystick.cli import workdir as workdirs

    now = clock.at(at)
    until = None if within is None else now + _span(within)
    home = workdirs.place(workdir)
    pinned = desks.load_trust(home, trust)
    state, policies = verified(channel_dir or desks.channel_folder(home, channel), channel, pinned, now)
    stops = [
        forecasting.stop_of(one, policies, now)
        for one in (*_leases(workdir, channel, now), *_recorded(evidence))
    ]
    endings = [
        *forecasting.of_channel(state),
        *forecasting.of_policies(policies.policies),
        *forecasting.of_endorsements(_parts(endorsements or [], pinned, bundle_key)),
        *forecasting.of_certificates(pinned_certificates(pinned), "nothing that chains to it is believed"),
        *forecasting.of_certificates(_own(home), "attestation keys that it certified are not believed"),
    ]
    found = forecasting.with_stops(endings, stops)
    shown = tuple(one for one in found if until is None or one.at <= until)
    due = tuple(one for one in stops if until is None or (one.at is not None and one.at <= until))
    document = {
        "channel": channel,
        "at": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "endings": [one.document() for one in shown],
        "workloads": [one.document() for one in due],
    }
    emit(document, _words(shown, due, now), as_json=as_json)


def _span(text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,5})([dh])", text)
    if match is None:
        raise Misuse(
            f"--within: want a number of days or hours, such as 30d, got {text[:40]}", code="forecast.within"
        )
    return int(match[1]) * _UNITS[match[2]]


def verified(folder: Path, channel: str, trust: Trust, now: datetime) -> tuple[State, PolicyState]:
    """Return the channel's verified metadata, and the policies that decide."""
    from tallystick.broker.opening import channel_loader
    from tallystick.broker.policies import state_of
    from tallystick.policy import document
    from tallystick.release.channel import pinned_root
    from tallystick.release.records import HighWater
    from tallystick.release.tuf import Folder

    place = Folder(folder)
    state = place.verify(pinned_root(trust, channel), channel, now, HighWater(), None)
    verified = channel_loader(trust, channel)(place.read, now, HighWater())
    return state, state_of(verified, channel, document.read)


def _parts(files: Sequence[Path], trust: Trust, key: Path | None) -> list[Part]:
    """Return the files, those inside of bundles too."""
    from tallystick.cli.evidence_bundle import pinned
    from tallystick.core.files import read_file
    from tallystick.evidence import bundle

    believed = [one.spki for one in trust.endorsers if one.kind == bundle.ENDORSER_KIND]
    if key is not None:
        believed += pinned(None, key)
    parts: list[Part] = []
    for path in files:
        data = read_file(path, "endorsement", max_bytes=_MAX_BYTES)
        if bundle.is_bundle(data):
            parts += bundle.load(data, believed).parts
        else:
            parts.append(bundle.part(path.name, data))
    return parts


def pinned_certificates(trust: Trust) -> Iterator[tuple[str, x509.Certificate]]:
    """Yield the certificates that a trust file pins, each with where it is."""
    from tallystick.evidence.chain import load_certificate

    for one in trust.endorsers:
        for der in one.certificates:
            yield f"{one.kind} {one.label} of the trust file", load_certificate(der, one.label)


def _own(home: Path) -> Iterator[tuple[str, x509.Certificate]]:
    """Yield the certificates of the broker's enrolment authorities, where there is a broker."""
    from tallystick.broker.config import Home
    from tallystick.core.files import read_file
    from tallystick.evidence.chain import load_certificates

    for path in sorted(Home(home / "broker").enrolment.glob("*.crt")):
        data = read_file(path, "enrolment certificate", max_bytes=_MAX_BYTES)
        for certificate in load_certificates(data, "enrolment certificate"):
            yield "the broker's enrolment", certificate


def _leases(workdir: Path | None, channel: str, now: datetime) -> list[Workload]:
    """Return the leases of the channel that the broker in the work directory keeps; none without a broker."""
    from tallystick.broker import lease_table
    from tallystick.broker.forecast import Workload
    from tallystick.broker.leasing import Leasing
    from tallystick.cli.broker_home import broker_home
    from tallystick.cli.broker_leases import opened

    if not broker_home(workdir).made:
        return []
    with opened(workdir) as store:
        with store.reading() as connection:
            held = tuple(lease_table.held(connection, now, channel=channel))
        prove = Leasing(store).attested
        return [
            Workload(name=f"lease {one.id}", key=one.key, attested=prove(one.attestation)) for one in held
        ]


def _recorded(folder: Path | None) -> list[Workload]:
    """Return the newest recorded evidence of each key and release that was released."""
    from tallystick.broker import evidence_record
    from tallystick.broker.casebook import FolderCasebook
    from tallystick.broker.decisions import Kind
    from tallystick.broker.forecast import Workload

    if folder is None:
        return []
    book = FolderCasebook(folder)
    newest = {
        (record["key"], record["release"]): record
        for record in book.records()
        if record["kind"] == Kind.RELEASE.value
    }
    return [
        Workload(
            name=f"evidence {record['attestation']}",
            key=record["key"],
            attested=evidence_record.prove_again(*book.evidence(record["attestation"])),
        )
        for record in newest.values()
    ]


def _words(endings: Sequence[Ending], stops: Sequence[Stop], now: datetime) -> str:
    lines = []
    for one in endings:
        mark = "ENDED  " if one.at <= now else ""
        lines.append(f"{mark}{one.at:%Y-%m-%dT%H:%M:%SZ}  {one.kind}: {one.what}; then {one.then}")
        lines += [f"    stops: {name}" for name in one.stops]
    for stop in stops:
        when = "no end in sight" if stop.at is None else f"{stop.at:%Y-%m-%dT%H:%M:%SZ}"
        why = "; ".join(f"{finding.message} [{finding.code}]" for finding in stop.findings)
        lines.append(f"{when}  workload {stop.workload.name} ({stop.workload.key}): {why}".rstrip(": "))
    return "\n".join(lines) or "nothing ends in that time"
