"""``tally broker``: make, run and manage the key broker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli import broker_deploy
from tallystick.cli.output import JsonFlag, command_app, emit, progress
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.broker.config import BrokerConfig, Home
    from tallystick.broker.keyops import KeyOperation
    from tallystick.broker.tls import TlsFiles
    from tallystick.broker.vault import KeyRecord

app = command_app("Run and manage the key broker.")
keys = command_app("Generate, import, list and destroy keys. No command shows one.")
log = command_app("Verify, prove and export the broker's transparency log.")
broker_deploy.register(app)
app.add_typer(keys, name="key")
app.add_typer(log, name="log")

_MAX_PASSPHRASE_BYTES = 4096

Workdir = Annotated[
    Path | None,
    typer.Option(
        "--workdir", help="The work directory. Default: $TALLY_HOME, else ~/.local/share/tallystick."
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="A 0600 file with the passphrase of the vault's master key."),
]
Key = Annotated[str, typer.Argument(help="The key's KBS resource path: repository/type/tag.")]
Channel = Annotated[str, typer.Option("--channel", help="The channel that the key belongs to, for life.")]


@app.command()
def init(
    workdir: Workdir = None,
    passphrase_file: PassphraseFile = None,
    hsm: Annotated[
        str | None,
        typer.Option(
            "--hsm", help="PKCS#11 URI of an AES-256 key that seals the vault; the file holds the PIN."
        ),
    ] = None,
    transit: Annotated[
        str | None,
        typer.Option(
            "--transit",
            help="URL of a transit key of Vault or OpenBao, https://HOST/v1/MOUNT/keys/NAME; the file holds the token.",
        ),
    ] = None,
    transit_ca: Annotated[
        Path | None,
        typer.Option("--transit-ca", help="PEM file of the authority of that service's certificate."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a broker: an empty vault, a log with its key, and a store."""
    from tallystick.broker import opening

    home = broker_home(workdir)
    master = _master(hsm, transit, transit_ca)
    line = opening.create(home, passphrase=_passphrase(passphrase_file), master=master)
    emit(
        {"broker": str(home.folder), "log_verifier": line},
        f"made a broker in {home.folder}\nits log is verified with {line}",
        as_json=as_json,
    )


@app.command()
def migrate(workdir: Workdir = None, as_json: JsonFlag = False) -> None:
    """Bring the store of an older version to this one. Stop its brokers and back it up first."""
    from tallystick.broker import database, migrating

    place = broker_home(workdir).store
    if not place.is_file():
        raise Misuse(f"there is no store {place}; run `tally broker init`", code="file.missing")
    engine = database.connect(place)
    try:
        before, now = migrating.migrate(engine, place)
    finally:
        engine.dispose()
    words = f"the store is at revision {now}" + ("" if before == now else f" (it was at {before})")
    emit({"before": before, "revision": now}, words, as_json=as_json)


@app.command()
def serve(
    channel_dir: Annotated[Path, typer.Option("--channel-dir", help="The channel's TUF repository.")],
    workdir: Workdir = None,
    channel: Annotated[
        str | None, typer.Option("--channel", help="The channel's name. Default: its folder's name.")
    ] = None,
    trust: Annotated[
        Path | None, typer.Option("--trust", help="The pinned trust file. Default: the work directory's.")
    ] = None,
    endorsements: Annotated[
        list[Path] | None,
        typer.Option("--endorsements", help="Chains, CRLs, TCB info, RIMs that evidence is verified with."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.")] = 8777,
    passphrase_file: PassphraseFile = None,
    tls_certificate: Annotated[
        Path | None, typer.Option("--tls-certificate", help="PEM chain; with it the service speaks HTTPS.")
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option("--tls-key", help="PEM private key of that chain, readable by its owner alone."),
    ] = None,
    metrics: Annotated[bool, typer.Option("--metrics", help="Serve Prometheus metrics at /metrics.")] = False,
    client_rate: Annotated[
        float, typer.Option(min=0.1, help="Requests a second that one address may make in the long run.")
    ] = 50.0,
    client_burst: Annotated[int, typer.Option(min=1, help="Requests that it may make at once.")] = 500,
) -> None:
    """Serve keys until SIGTERM or Ctrl-C. Says on stderr when it is ready, then one line of JSON a request."""
    import resource

    from tallystick.broker import opening, server
    from tallystick.broker.config import BrokerConfig, Limits
    from tallystick.cli.workdir import place

    _log_to_stderr()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # keys are in this process's memory
    folder = place(workdir)
    config = BrokerConfig(
        workdir=folder,
        channel_dir=channel_dir,
        channel=channel or channel_dir.resolve().name,
        trust=trust or folder / "trust.json",
        endorsements=tuple(endorsements or ()),
        host=host,
        port=port,
        tls=_tls(tls_certificate, tls_key),
        metrics=metrics,
        limits=Limits(client_rate=client_rate, client_burst=client_burst),
        passphrase=_passphrase(passphrase_file),
    )
    listening = server.listen(config.host, config.port)
    try:
        broker = opening.open_configured(config)
        server.serve(broker, listening, ready=lambda url: _ready(config, url))
    finally:
        listening.close()
    progress("broker stopped")


def _master(hsm: str | None, transit: str | None, ca: Path | None) -> dict[str, str] | None:
    """Return where the vault's master key is, when it is not in the vault's own folder."""
    if hsm is not None and transit is not None:
        raise Misuse("broker init: want --hsm or --transit, not both", code="vault.master")
    if ca is not None and transit is None:
        raise Misuse("broker init: --transit-ca goes with --transit", code="vault.master")
    if hsm is not None:
        return {"master": "pkcs11", "key": hsm}
    if transit is None:
        return None
    return {"master": "transit", "key": transit, **({"ca": str(ca.resolve())} if ca is not None else {})}


def _tls(certificate: Path | None, key: Path | None) -> TlsFiles | None:
    from tallystick.broker.tls import TlsFiles

    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise Misuse("broker serve: --tls-certificate and --tls-key go together", code="tls.certificate")
    return TlsFiles(chain=certificate, key=key)


def _ready(config: BrokerConfig, url: str) -> None:
    progress(f"broker ready at {url} for channel {config.channel}")


@keys.command("generate")
def generate(
    key: Key,
    channel: Channel,
    workdir: Workdir = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a random 256-bit key that nobody has seen."""
    _operate("generate", key, workdir, passphrase_file, channel=channel, as_json=as_json)


@keys.command("import")
def bring(
    key: Key,
    channel: Channel,
    source: Annotated[Path, typer.Option("--from", help="A file with the key's bytes, as they are.")],
    workdir: Workdir = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Keep a key that was made elsewhere. The file stays as it is: destroy it when you no longer need it."""
    from tallystick.broker.vault import MAX_KEY_BYTES
    from tallystick.core.files import read_file

    secret = read_file(source, "key", max_bytes=MAX_KEY_BYTES)
    _operate("import", key, workdir, passphrase_file, channel=channel, secret=secret, as_json=as_json)


@keys.command("destroy")
def destroy(
    key: Key,
    workdir: Workdir = None,
    passphrase_file: PassphraseFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Needed: there is no way back.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Destroy a key. Its name can never be given to another one."""
    if not yes:
        raise Misuse(f"destroying {key} can not be undone: say --yes", code="key.destroy-unconfirmed")
    _operate("destroy", key, workdir, passphrase_file, as_json=as_json)


@keys.command("list")
def list_keys(
    workdir: Workdir = None, passphrase_file: PassphraseFile = None, as_json: JsonFlag = False
) -> None:
    """List the keys, live and destroyed, with their channels."""
    from tallystick.broker.vault import Vault

    vault = Vault.open(broker_home(workdir).vault, passphrase=_passphrase(passphrase_file))
    found = [_record(record) for record in vault.records()]
    rows = [
        f"{one['key']}  {one['channel']}  {one['state']}  {one['origin']}  {one['made_at']}" for one in found
    ]
    emit({"keys": found}, "\n".join(rows) or "no keys", as_json=as_json)


@log.command("verify")
def verify_log(
    workdir: Workdir = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint kept from before; the log must contain it.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Read the whole log again: hashes, high-water marks, and that every record opens its leaf's commitment."""
    from tallystick.broker import audit

    report = audit.verify(broker_home(workdir), earlier=_text(checkpoint))
    counts = ", ".join(f"{count} {kind}" for kind, count in report["kinds"].items()) or "no decisions"
    words = (
        f"the log holds: {report['size']} leaves ({counts}), root {report['root']}\n{report['checkpoint']}"
    )
    emit(report, words, as_json=as_json)


@log.command("prove")
def prove(
    decision: Annotated[str, typer.Argument(help="The identifier of a decision.")],
    workdir: Workdir = None,
    as_json: JsonFlag = False,
) -> None:
    """Print a decision's leaf with the proof that it is in the log, which anybody can check."""
    from tallystick.broker import audit

    proof = audit.prove(broker_home(workdir), decision)
    words = [
        f"leaf {proof['index']} of {proof['size']}: {proof['leaf']}",
        *proof["hashes"],
        proof["checkpoint"],
    ]
    emit(proof, "\n".join(words), as_json=as_json)


@log.command("export")
def export(
    workdir: Workdir = None,
    start: Annotated[int, typer.Option(help="The first leaf.")] = 0,
) -> None:
    """Print every leaf, one line of JSON each."""
    import sys

    from tallystick.broker import audit

    for leaf in audit.export(broker_home(workdir), start=start):
        sys.stdout.write(leaf.decode("utf-8") + "\n")


def _operate(
    action: str,
    key: str,
    workdir: Path | None,
    passphrase_file: Path | None,
    *,
    as_json: bool,
    channel: str = "",
    secret: bytes = b"",
) -> None:
    """Do one key operation: through the running broker where there is one, else beside the log's lock."""
    from tallystick.broker.keyops import Action, KeyOperation
    from tallystick.broker.vault import key_id

    home = broker_home(workdir)
    operation = KeyOperation(action=Action(action), key=key_id(key), channel=channel, secret=secret)
    answer = _ask(home, operation) or _do(home, operation, _passphrase(passphrase_file))
    words = (
        f"{operation.key}: {answer['state']} in channel {answer['channel']} (decision {answer['decision']})"
    )
    emit({"key": operation.key, **answer}, words, as_json=as_json)


def _ask(home: Home, operation: KeyOperation) -> dict[str, Any] | None:
    from tallystick.broker import admin

    return admin.ask(home.admin_socket, operation) if home.admin_socket.exists() else None


def _do(home: Home, operation: KeyOperation, passphrase: str | None) -> dict[str, Any]:
    from tallystick.broker.clock import Clock
    from tallystick.broker.keyops import perform
    from tallystick.broker.opening import open_ledger
    from tallystick.broker.store import Store
    from tallystick.broker.vault import Vault

    store = Store.open(home.store)
    try:
        vault = Vault.open(home.vault, passphrase=passphrase)
        clock = Clock(store.time_mark())
        now = clock.now()
        ledger = open_ledger(store, clock)
        try:
            decision, record = perform(operation, vault, ledger, now=now)
        finally:
            ledger.close()
    finally:
        store.close()
    return {"decision": decision, "channel": record.channel, "state": record.state.value}


def _record(record: KeyRecord) -> dict[str, str]:
    return {
        "key": record.key,
        "channel": record.channel,
        "state": record.state.value,
        "origin": record.origin,
        "made_at": record.made_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def broker_home(workdir: Path | None) -> Home:
    """Return the folder of the broker in a work directory, the default one when none was named."""
    from tallystick.broker.config import Home
    from tallystick.cli.workdir import place

    return Home(place(workdir) / "broker")


def _passphrase(path: Path | None) -> str | None:
    if path is None:
        return None
    from tallystick.broker.secretfiles import read_secret

    data = read_secret(path, "passphrase file", max_bytes=_MAX_PASSPHRASE_BYTES)
    return data.decode("utf-8").rstrip("\r\n")


def _text(path: Path | None) -> str | None:
    if path is None:
        return None
    from tallystick.core.files import read_file

    return read_file(path, "checkpoint", max_bytes=1 << 20).decode("utf-8", "replace")


def _log_to_stderr() -> None:
    """Write the service's own lines to stderr, each one JSON with its time; nobody else's below a warning."""
    import json
    import logging
    from datetime import UTC, datetime

    class Lines(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
            said = record.getMessage()
            if not record.name.startswith("tallystick.broker."):
                said = json.dumps({"message": said})
            head = json.dumps({"at": at, "level": record.levelname.lower(), "log": record.name})
            return f"{head[:-1]}, {said[1:]}"

    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("tallystick.broker").setLevel(logging.INFO)
