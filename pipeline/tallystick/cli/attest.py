"""``tally attest``: what a machine does for itself. It proves what runs on it, and gets a key for that."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tallystick.cli.output import JsonFlag, command_app, emit, progress
from tallystick.core.errors import Misuse

app = command_app("Prove what runs on this machine, and get a key for it.")

_DEVICE = "/dev/tpmrm0"
_EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
_MAX_INIT_DATA_BYTES = 1 << 20
_KEY_MODE = 0o400


@app.command()
def run(
    broker: Annotated[str, typer.Option("--broker", help="Address of the key broker.")],
    key: Annotated[str, typer.Option("--key", help="The key's KBS resource path: repository/type/tag.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A new file for the key, readable by its owner alone."),
    ] = None,
    stdout: Annotated[
        bool, typer.Option("--stdout", help="Write the key's bytes, and nothing else, to standard output.")
    ] = False,
    tpm: Annotated[
        str, typer.Option("--tpm", help="The TPM: a device, or the socket of an emulator.")
    ] = _DEVICE,
    init_data: Annotated[
        Path | None,
        typer.Option(
            "--init-data", help="A TOML text; measured into PCR 8 first unless it is there already."
        ),
    ] = None,
    event_log: Annotated[
        Path, typer.Option("--event-log", help="The firmware's event log, sent along when there is one.")
    ] = _EVENT_LOG,
    tee: Annotated[
        str | None,
        typer.Option("--tee", help="snp, tdx, cca, nitro or tpm. Default: what this machine has."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Attest this machine and fetch one key. A TPM is enrolled first.

    The key goes to a file or, only when asked, to standard output; never into a message.
    """
    _check_destination(output, stdout=stdout, as_json=as_json)
    from tallystick.attester import collectors
    from tallystick.attester.client import KbsClient
    from tallystick.core.files import read_file, write_file
    from tallystick.handshake import initdata
    from tallystick.handshake.kbs import check_key

    check_key(key)
    toml = None if init_data is None else read_file(init_data, "init-data", max_bytes=_MAX_INIT_DATA_BYTES)
    if toml is not None:
        initdata.parse(toml)
    devices = collectors.Devices(tpm=tpm, event_log=event_log)
    tee = tee or ("tpm" if tpm != _DEVICE else collectors.detect(devices))
    if toml is not None and tee == "tpm":
        _measure(tpm, toml)
    client = KbsClient(broker, tee=tee)
    with collectors.prover(client, tee, devices) as prove:
        client.attest(prove, init_data=None if toml is None else toml.decode("utf-8"))
    progress(f"attested to {broker} with evidence of {tee}")
    secret = client.fetch(key)
    if output is None:
        sys.stdout.buffer.write(secret)
        sys.stdout.buffer.flush()
        return
    write_file(output, secret, mode=_KEY_MODE)
    document = {"key": key, "broker": broker, "file": str(output), "size": len(secret)}
    emit(document, f"wrote {key} to {output}", as_json=as_json)


def _measure(tpm: str, toml: bytes) -> None:
    """Measure the init-data into a TPM. A processor's own evidence has it from the launch."""
    from tallystick.attester.measured import measure
    from tallystick.attester.tpm import open_tpm

    machine = open_tpm(tpm)
    try:
        measure(machine, toml)
    finally:
        machine.close()


def _check_destination(output: Path | None, *, stdout: bool, as_json: bool) -> None:
    """Check where the key goes before anything is asked: a key that was released can not be taken back."""
    if (output is None) != stdout:
        raise Misuse("attest run: want either --output FILE or --stdout", code="attest.destination")
    if stdout and as_json:
        raise Misuse(
            "attest run: --json has no place for a key; use --output FILE", code="attest.destination"
        )
    if output is not None and output.exists():
        raise Misuse(f"attest run: {output} is there already; no key overwrites a file", code="file.exists")
    if output is not None and not output.absolute().parent.is_dir():
        raise Misuse(f"attest run: there is no folder {output.absolute().parent}", code="file.missing")
