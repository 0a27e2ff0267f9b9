"""``tally attest``: what a machine does for itself. It proves what runs on it, and gets a key for that."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli import attest_peer
from tallystick.cli.output import JsonFlag, command_app, emit, progress
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from tallystick.handshake.shares import SharedKey


app = command_app("Prove what runs on this machine, and get a key for it.")
attest_peer.register(app)

_DEVICE = "/dev/tpmrm0"
_EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
_NVML = "libnvidia-ml.so.1"
_MAX_INIT_DATA_BYTES = 1 << 20


@app.command()
def run(
    broker: Annotated[
        list[str],
        typer.Option(
            "--broker", help="Address of the key broker, ours or any KBS. May be given again with --shared."
        ),
    ],
    key: Annotated[str, typer.Option("--key", help="The key's KBS resource path: repository/type/tag.")],
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- COMMAND", help="Run this with the key open for reading as file $TALLY_KEY_FD."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A new file in memory (/run, /dev/shm) for the key, for its owner alone."
        ),
    ] = None,
    stdout: Annotated[
        bool, typer.Option("--stdout", help="Write the key's bytes, and nothing else, to standard output.")
    ] = False,
    every: Annotated[
        float | None,
        typer.Option(
            "--every", help="With COMMAND: attest again within so many seconds, or end the command."
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Try again for so many seconds while nothing answers.")
    ] = 0.0,
    tpm: Annotated[
        str, typer.Option("--tpm", help="The TPM: a device, or the socket of an emulator.")
    ] = _DEVICE,
    init_data: Annotated[
        Path | None,
        typer.Option(
            "--init-data", help="A TOML text; measured into PCR 8 first unless it is there already."
        ),
    ] = None,
    shared: Annotated[
        str | None,
        typer.Option(
            "--shared",
            help="The key is shared among brokers: the name of the init-data's entry that says how.",
        ),
    ] = None,
    event_log: Annotated[
        Path, typer.Option("--event-log", help="The firmware's event log, sent along when there is one.")
    ] = _EVENT_LOG,
    tee: Annotated[
        str | None,
        typer.Option("--tee", help="snp, tdx, cca, nitro or tpm. Default: what this machine has."),
    ] = None,
    nvml: Annotated[
        str, typer.Option("--nvml", help="NVIDIA's driver library; GPUs attest along where it is installed.")
    ] = _NVML,
    ca: Annotated[
        Path | None, typer.Option("--ca", help="PEM file of the authority of an https broker's certificate.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Attest this machine and fetch one key. A TPM is enrolled first.

    The key goes to a command as sealed memory, to a file in memory or, only when asked, to standard output; never
    into a message and never on a disk. With a command, the exit code is the command's.
    """
    _check_destination(command, output, every, stdout=stdout, as_json=as_json)
    from tallystick.attester import collectors, handover
    from tallystick.attester.backoff import until
    from tallystick.attester.client import KbsClient
    from tallystick.attester.shared import gather
    from tallystick.core.files import read_file
    from tallystick.handshake import initdata
    from tallystick.handshake.jwe import TeeKeyPair
    from tallystick.handshake.kbs import check_key

    check_key(key)
    toml = None if init_data is None else read_file(init_data, "init-data", max_bytes=_MAX_INIT_DATA_BYTES)
    if toml is not None:
        initdata.parse(toml)
    document_of = _shared(key, broker, toml, shared)
    devices = collectors.Devices(tpm=tpm, event_log=event_log, nvml=nvml)

    def attested() -> bytes:
        if document_of is None:
            return ask(broker[0], key)
        gathered = gather(document_of, {url: partial(ask, url) for url in broker})
        for finding in gathered.failed:
            progress(f"no share from {finding.where}: {finding.got}  [{finding.code}]")
        return gathered.secret

    pairs: dict[str, TeeKeyPair] = {}  # of each broker: who attests with it again renews

    def ask(url: str, name: str) -> bytes:
        chosen = tee or ("tpm" if tpm != _DEVICE else collectors.detect(devices))
        if toml is not None and chosen == "tpm":
            _measure(tpm, toml)
        client = KbsClient(url, tee=chosen, ca=ca)
        with collectors.prover(client, chosen, devices) as prove:
            text = None if toml is None else toml.decode("utf-8")
            again = url in pairs
            pair = pairs.setdefault(url, TeeKeyPair.make())
            client.attest(prove, init_data=text, show=collectors.shower(devices), pair=pair)
        progress(f"attested to {url} with evidence of {chosen}")
        if again and document_of is None and client.renew(name):
            return b""  # who attests again has the key already
        return client.fetch(name)

    secret = until(attested, wait)
    if command:
        raise typer.Exit(_hand_over(command, secret, attested, every))
    if output is None:
        sys.stdout.buffer.write(secret)
        sys.stdout.buffer.flush()
        return
    handover.write(output, secret)
    document = {"key": key, "broker": ", ".join(broker), "file": str(output), "size": len(secret)}
    emit(document, f"wrote {key} to {output}", as_json=as_json)


def _shared(key: str, brokers: list[str], toml: bytes | None, name: str | None) -> SharedKey | None:
    """Return how the key is shared: an entry of the init-data, which is measured, so that nobody can replace it."""
    from tallystick.handshake import initdata
    from tallystick.handshake.shares import SharedKey

    if name is None:
        if len(brokers) != 1:
            raise Misuse("attest run: several brokers go with --shared", code="attest.shared")
        return None
    if toml is None:
        raise Misuse("attest run: --shared names an entry of --init-data", code="attest.shared")
    entries = dict(initdata.parse(toml).data)
    if name not in entries:
        raise Misuse(f"attest run: the init-data has no entry {name}", code="attest.shared")
    found = SharedKey.parse(entries[name].encode())
    if found.key != key:
        raise Misuse(f"attest run: {name} is of the key {found.key}, not {key}", code="attest.shared")
    if len(set(brokers)) < found.threshold:
        raise Misuse(f"attest run: {key} wants {found.threshold} brokers or more", code="attest.shared")
    return found


def _hand_over(command: list[str], secret: bytes, attested: Callable[[], bytes], every: float | None) -> int:
    """Run ``command`` with the key, for as long as this machine still gets it, and return its exit code."""
    from tallystick.attester import handover, keeper

    with handover.running(command, secret) as child:
        if every is not None:
            keeper.keep(attested, every_seconds=every, wait=child.ended_within)
        return child.exit_code()


def _measure(tpm: str, toml: bytes) -> None:
    """Measure the init-data into a TPM. A processor's own evidence has it from the launch."""
    from tallystick.attester.measured import measure
    from tallystick.attester.tpm import open_tpm

    machine = open_tpm(tpm)
    try:
        measure(machine, toml)
    finally:
        machine.close()


def _check_destination(
    command: list[str] | None, output: Path | None, every: float | None, *, stdout: bool, as_json: bool
) -> None:
    """Check where the key goes before anything is asked: a key that was released can not be taken back."""
    if [bool(command), output is not None, stdout].count(True) != 1:
        raise Misuse(
            "attest run: want one of --output FILE, --stdout and -- COMMAND", code="attest.destination"
        )
    if as_json and output is None:
        raise Misuse(
            "attest run: --json has no place for a key; use --output FILE", code="attest.destination"
        )
    if every is not None and not command:
        raise Misuse("attest run: --every goes with -- COMMAND, which it can end", code="attest.interval")
    if output is not None:
        from tallystick.attester import handover

        handover.check(output)
