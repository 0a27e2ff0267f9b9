"""``tally promote``: a release that passes every gate, or a compiled policy, proposed for a channel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.desks import ChannelName, TrustFile, Workdir
from tallystick.cli.output import JsonFlag, command_app, emit, progress

if TYPE_CHECKING:
    from tallystick.release.desk import Desk, Outcome
    from tallystick.release.keys import Signatory
    from tallystick.release.promote import Logged
    from tallystick.release.records import Gate

app = command_app()

_MAX_POLICY_FILE_BYTES = 64 << 20


@app.command()
def promote(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="A signed release or artifact release, or a folder that `tally compile` wrote.",
        ),
    ],
    channel: ChannelName,
    name: Annotated[
        str | None, typer.Option("--as", help="Who acts: a person of the work directory, such as alice.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only run the gates: no key is needed, and nothing is proposed.")
    ] = False,
    workdir: Workdir = None,
    trust: TrustFile = None,
    witness: Annotated[
        list[str] | None,
        typer.Option("--witness", help="URL of a witness that signs the log's head; can be repeated."),
    ] = None,
    advisories: Annotated[
        list[Path] | None,
        typer.Option(
            "--vulnerabilities",
            help="A signed OSV or OpenVEX file, its bundle FILE.sigstore.json beside it; can be repeated.",
        ),
    ] = None,
    source_vsa: Annotated[
        Path | None,
        typer.Option(
            "--source-vsa", help="The bundle of the commit's Source VSA; its signer approves nothing of it."
        ),
    ] = None,
    rekor: Annotated[
        str | None,
        typer.Option("--rekor", help="URL of the Rekor that the bundles are in. Default: the embedded log."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the gates over a release, sign the verdict, and propose it; or propose a compiled policy.

    It is live when enough other people have approved it: see `tally approve`.
    """
    from tallystick.cli import clock, desks
    from tallystick.core.errors import Misuse

    kinds = {
        "index.json": "a release",
        "compiled.json": "a compiled policy",
        "artifacts.json": "an artifact release",
    }
    there = [file for file in kinds if (folder / file).is_file()]
    if len(there) != 1:
        named = ", ".join(f"{kind} ({file})" for file, kind in kinds.items())
        raise Misuse(f"{folder} is not exactly one of {named}", code="promote.what")
    is_release, is_artifacts = there == ["index.json"], there == ["artifacts.json"]
    desk = desks.open_desk(channel, workdir, trust, clock.now())
    if check:
        _check(desk, folder, tuple(advisories or ()), source_vsa, is_release=is_release, as_json=as_json)
        return
    if name is None:
        raise Misuse("name who proposes: --as NAME, or --check to run the gates alone", code="promote.who")
    author = desks.person_key(workdir, name)
    if is_release:
        logged = _logged(workdir, rekor, witness or [])
        outcome = _release(desk, folder, author, workdir, logged, tuple(advisories or ()), source_vsa)
    elif is_artifacts:
        from tallystick.release import artifact_promote

        outcome = artifact_promote.propose(desk, folder, author, _show)
    else:
        outcome = _policy(desk, folder, author)
    desks.keep(workdir, channel, outcome.high_water)
    document = {
        "channel": channel,
        "gates": [_gate_document(gate) for gate in outcome.gates],
        "change": desks.change_document(outcome.change, live=outcome.live),
    }
    words = desks.change_words(outcome.change, live=outcome.live)
    emit(document, f"proposed for {channel}: {words}", as_json=as_json)


def _check(
    desk: Desk,
    folder: Path,
    advisories: tuple[Path, ...],
    source_vsa: Path | None,
    *,
    is_release: bool,
    as_json: bool,
) -> None:
    """Run the gates, as a CI job does before it asks people to promote."""
    from tallystick.core.errors import Misuse
    from tallystick.release import promote as promotion

    if not is_release:
        raise Misuse("--check runs the gates of a release; a compiled policy has none", code="promote.what")
    gates = promotion.check_release(desk, folder, _show, advisories, _read_vsa(source_vsa))
    document = {"channel": desk.channel, "gates": [_gate_document(gate) for gate in gates]}
    emit(document, f"{len(gates)} gates of {desk.channel} passed; nothing was proposed", as_json=as_json)


def _read_vsa(path: Path | None) -> bytes | None:
    from tallystick.core.files import read_file

    return None if path is None else read_file(path, "Source VSA", max_bytes=_MAX_POLICY_FILE_BYTES)


def _logged(workdir: Path | None, rekor: str | None, witnesses: list[str]) -> Logged:
    """Return the log whose head is published, and its witnesses."""
    from functools import partial

    from tallystick.cli import sigstore
    from tallystick.release.promote import Logged
    from tallystick.signing.rekor_client import RekorV1
    from tallystick.tlog import witness_http

    source = RekorV1(url=rekor) if rekor is not None else sigstore.instance_of(workdir).log
    return Logged(
        source=source, witnesses=tuple(partial(witness_http.cosignatures, url) for url in witnesses)
    )


def _release(
    desk: Desk,
    folder: Path,
    author: Signatory,
    workdir: Path | None,
    logged: Logged,
    advisories: tuple[Path, ...],
    source_vsa: Path | None,
) -> Outcome:
    from tallystick.cli import desks
    from tallystick.release import promote as promotion

    def sign(payload: bytes) -> bytes:
        with desks.signer(workdir, author.name, desk.now) as signer:
            return signer.statement(payload)

    return promotion.propose_release(
        desk, folder, author, sign, _show, logged, advisories, _read_vsa(source_vsa)
    )


def _policy(desk: Desk, folder: Path, author: Signatory) -> Outcome:
    """Propose everything in ``folder``, which has to be as its own manifest says, and for this channel."""
    from tallystick.compile import output
    from tallystick.core.errors import Refused
    from tallystick.core.files import read_file
    from tallystick.core.findings import Finding
    from tallystick.release import promote as promotion

    compilation = output.read(folder)
    if compilation.channel != desk.channel:
        finding = Finding("promote.other-channel", str(folder), want=desk.channel, got=compilation.channel)
        raise Refused(finding.message, findings=[finding])
    files = {
        str(path.relative_to(folder)): read_file(path, "compiled policy", max_bytes=_MAX_POLICY_FILE_BYTES)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return promotion.propose_policy(desk, compilation.policy, files, author)


def _show(gate: Gate) -> None:
    mark = "ok  " if gate.passed else "NO  "
    progress(f"  {mark}{gate.name:<13} {gate.detail}")
    for finding in gate.findings:
        progress(f"        {finding.message}  [{finding.code}]")


def _gate_document(gate: Gate) -> dict[str, Any]:
    return {
        "name": gate.name,
        "passed": gate.passed,
        "detail": gate.detail,
        "findings": [finding.document() for finding in gate.findings],
    }
