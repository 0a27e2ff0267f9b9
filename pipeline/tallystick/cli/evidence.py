"""``tally evidence``: is this evidence genuine, what does it claim, and what does an event log replay to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli import evidence_bundle, evidence_fetch
from tallystick.cli.evidence_bundle import BundleKey, TrustFile
from tallystick.cli.output import JsonFlag, command_app, emit
from tallystick.core.errors import Malformed, Misuse, Unsupported

if TYPE_CHECKING:
    from tallystick.evidence.claims import Claims
    from tallystick.formats.eventlog import EventLog

app = command_app("Verify or show attestation evidence.")
app.command("bundle")(evidence_bundle.bundle)
app.command("forecast")(evidence_bundle.forecast)
app.command("fetch")(evidence_fetch.fetch)
_PAYLOAD_TYPE = b"vnd.tallystick.endorsement-bundle"

_MAX_BYTES = 64 << 20
File = Annotated[Path, typer.Argument(help="The evidence file.")]
Kind = Annotated[str, typer.Option("--kind", help="What it is: snp-report, tpm-quote, …", show_default=False)]


@app.command()
def verify(
    file: File,
    kind: Kind,
    endorsements: Annotated[
        list[Path] | None, typer.Option(help="A file verification may rest on; more than one may be given.")
    ] = None,
    nonce: Annotated[str | None, typer.Option(help="What the evidence must be bound to, in hex.")] = None,
    at: Annotated[
        str | None, typer.Option(help="The instant to judge at (RFC 3339); now by default.")
    ] = None,
    audience: Annotated[str | None, typer.Option(help="For whom a service's token must be.")] = None,
    trust: TrustFile = None,
    bundle_key: BundleKey = None,
    as_json: JsonFlag = False,
) -> None:
    """Say whether evidence is genuine and what it claims; exit 5 when it is not."""
    from tallystick import evidence as package
    from tallystick.cli import clock

    moment, bound = clock.at(at), _nonce(nonce)
    files, data = [_read(path, "endorsement") for path in endorsements or []], _read(file, "evidence")
    if any(_PAYLOAD_TYPE in one for one in files):
        from tallystick.cli.evidence_bundle import pinned
        from tallystick.evidence import bundle

        signers = pinned(trust, bundle_key)
        claims = bundle.verify(kind, data, files, pinned=signers, nonce=bound, at=moment, audience=audience)
    else:
        claims = package.verify(kind, data, files, nonce=bound, at=moment, audience=audience)
    emit(_document(claims), "\n".join(_words(claims)), as_json=as_json)


@app.command()
def show(
    file: File,
    kind: Annotated[str, typer.Option(help="What it is; tried in turn when not given.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Print every field of evidence. Nothing of it is verified."""
    from tallystick import evidence as package

    data = _read(file, "evidence")
    found = {kind: package.show(kind, data)} if kind else _tried(data)
    if len(found) != 1:
        raise Unsupported(
            "evidence",
            at=str(file),
            want="one kind that fits; name it with --kind",
            got=", ".join(found) or "none",
            code="evidence.kind",
        )
    ((name, fields),) = found.items()
    words = [f"{name}, nothing of it verified", *_explained(name, fields)]
    emit({"kind": name, "verified": False, **fields}, "\n".join(words), as_json=as_json)


@app.command()
def eventlog(
    file: Annotated[Path, typer.Argument(help="A TCG event log: binary_bios_measurements, or a CCEL.")],
    events: Annotated[bool, typer.Option("--events", help="Print the events too.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Replay a TCG event log: the registers it leads to, bank by bank.

    Of a TPM's log these are PCRs. Of a confidential guest's (CCEL) they are RTMR 0 to 3, in the sha384 bank.
    """
    from tallystick.formats import eventlog as format_eventlog

    log = format_eventlog.parse(_read(file, "event log"))
    word, banks = ("RTMR", _rtmrs(log)) if format_eventlog.is_cc(log) else ("PCR", _pcrs(log))
    document: dict[str, Any] = {"banks": banks}
    lines = [
        f"{bank} {word} {register:>2}  {value}" for bank in banks for register, value in banks[bank].items()
    ]
    if events:
        document["events"] = _events(log)
        lines = [
            f"register {event['register']:>2}  {event['type']:<34} {event['data']}"
            for event in document["events"]
        ] + ["", *lines]
    emit(document, "\n".join(lines), as_json=as_json)


def _pcrs(log: EventLog) -> dict[str, dict[str, str]]:
    from tallystick.formats.eventlog import REPLAYED, replay

    return {
        bank: {str(register): value.hex() for register, value in replay(log, bank).items()}
        for bank in log.banks
        if bank in REPLAYED
    }


def _rtmrs(log: EventLog) -> dict[str, dict[str, str]]:
    from tallystick.formats.eventlog import replay_rtmrs

    return {"sha384": {str(number): value.hex() for number, value in enumerate(replay_rtmrs(log))}}


def _events(log: EventLog) -> list[dict[str, Any]]:
    from tallystick.formats.eventlog import describe

    return [
        {
            "register": event.register,
            "type": event.kind_name,
            "digests": {bank: value.hex() for bank, value in event.digests},
            "data": describe(event),
        }
        for event in log.events
    ]


def _tried(data: bytes) -> dict[str, dict[str, Any]]:
    """Return the fields of ``data`` by each kind that it parses as."""
    from tallystick import evidence as package

    found = {}
    for kind in package.supported():
        try:
            found[kind] = package.show(kind, data)
        except (Malformed, Unsupported):
            continue
    return found


def _read(path: Path, what: str) -> bytes:
    from tallystick.core.files import read_file

    return read_file(path, what, max_bytes=_MAX_BYTES)


def _nonce(text: str | None) -> bytes | None:
    try:
        return None if text is None else bytes.fromhex(text)
    except ValueError:
        raise Misuse(f"--nonce: want hex digits, got {text!r:.60}", code="nonce.malformed") from None


def _document(claims: Claims) -> dict[str, Any]:
    document = {
        "kind": claims.kind,
        "genuine": True,
        "claims": _plain(claims.values),
        "roots": list(claims.roots),
        "valid_from": claims.valid_from.isoformat() if claims.valid_from else None,
        "valid_until": claims.valid_until.isoformat() if claims.valid_until else None,
        "findings": [note.document() for note in claims.notes],
    }
    if claims.devices:
        document["devices"] = [_document(device) for device in claims.devices]
    return document


def _words(claims: Claims) -> list[str]:
    lines = [f"genuine {claims.kind}, on the word of {', '.join(claims.roots)}"]
    lines += [f"  {line}" for line in _lines(claims.values)]
    for device in claims.devices:
        lines += [f"  {line}" for line in _words(device)]
    return lines + [f"note: {note.message}  [{note.code}]" for note in claims.notes]


def _lines(values: Mapping[str, Any], before: str = "") -> list[str]:
    """Return one line for each value, named by its dotted path."""
    lines: list[str] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += _lines(value, f"{before}{name}.")
        else:
            lines.append(f"{before}{name}: {_plain(value)}")
    return lines


def _explained(kind: str, values: Mapping[str, Any], before: str = "") -> list[str]:
    """Return the fields of a dump, each with what it means where its name does not say it."""
    from tallystick.evidence.explained import explain

    lines: list[str] = []
    for name, value in values.items():
        path = f"{before}{name}"
        meaning = explain(kind, path)
        said = f"    ({meaning})" if meaning else ""
        if isinstance(value, Mapping) and value:
            lines.append(f"{path}:{said}")
            lines += _explained(kind, value, f"{path}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            lines.append(f"{path}:{said}")
            for number, item in enumerate(value):
                lines += _explained(kind, item, f"{path}[{number}].")
        else:
            lines.append(f"{path}: {_plain(value)}{said}")
    return lines


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON has it: maps and lists of its own kinds, bytes in hex, times in RFC 3339."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if hasattr(value, "isoformat") else value
