"""``tally broker``: make, run and manage the key broker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli import (
    broker_admin,
    broker_deploy,
    broker_evidence,
    broker_keys,
    broker_leases,
    broker_rollout,
)
from tallystick.cli.broker_home import PassphraseFile, Workdir, broker_home, passphrase
from tallystick.cli.output import JsonFlag, command_app, emit, progress
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.broker.config import BrokerConfig
    from tallystick.broker.operator_page import OperatorPage
    from tallystick.broker.service import Broker
    from tallystick.broker.tls import TlsFiles

app = command_app("Run and manage the key broker.")
log = command_app("Verify, prove and export the broker's transparency log.")
broker_deploy.register(app)
broker_rollout.register(app)
broker_leases.register(app)
app.add_typer(broker_keys.app, name="key")
app.add_typer(broker_admin.app, name="admin")
app.add_typer(broker_evidence.app, name="evidence")
app.add_typer(log, name="log")


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
    kv: Annotated[
        str | None,
        typer.Option(
            "--kv",
            help="URL in a key-value engine (version 2) where the sealed keys lie, https://HOST/v1/MOUNT/data/PATH.",
        ),
    ] = None,
    kv_ca: Annotated[
        Path | None, typer.Option("--kv-ca", help="PEM file of the authority of that service's certificate.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            help="URL of an empty PostgreSQL database for several replicas, postgresql+psycopg://USER@HOST/NAME. "
            "Default: a SQLite file.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a broker: an empty vault, a log with its key, and a store."""
    from tallystick.broker import opening

    home = broker_home(workdir)
    master = _master(hsm, transit, transit_ca)
    secret = passphrase(passphrase_file)
    line = opening.create(home, passphrase=secret, master=master, kv=_kv(kv, kv_ca), store=store)
    emit(
        {"broker": str(home.folder), "log_verifier": line},
        f"made a broker in {home.folder}\nits log is verified with {line}",
        as_json=as_json,
    )


@app.command()
def migrate(workdir: Workdir = None, as_json: JsonFlag = False) -> None:
    """Bring the store of an older version to this one. Stop its brokers and back it up first."""
    from tallystick.broker import database, migrating

    home = broker_home(workdir)
    if not home.made:
        raise Misuse(f"there is no broker in {home.folder}; run `tally broker init`", code="file.missing")
    place = home.store
    engine = database.connect(place)
    try:
        before, now = migrating.migrate(engine, place)
    finally:
        engine.dispose()
    words = f"the store is at revision {now}" + ("" if before == now else f" (it was at {before})")
    emit({"before": before, "revision": now}, words, as_json=as_json)


@app.command()
def authority(
    label: Annotated[str, typer.Argument(help="A label of TPM manufacturers in the trust file.")],
    workdir: Workdir = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the authority that certifies attestation keys of a manufacturer's TPMs, before replicas get their copies."""
    from tallystick.broker import enrolment_ca
    from tallystick.cli import clock

    home = broker_home(workdir)
    if not home.made:
        raise Misuse(f"there is no broker in {home.folder}; run `tally broker init`", code="file.missing")
    made = enrolment_ca.authority(home.enrolment, label, now=clock.now())
    spki = str(made.endorser().spki)
    emit({"label": label, "spki": spki}, f"the authority for {label} has the key {spki}", as_json=as_json)


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
    witnesses: Annotated[
        list[str] | None,
        typer.Option(
            "--witness",
            help="URL of a witness of the broker's log, whose key the trust file has; can be repeated. The broker does "
            "not start on a log that is behind what it has seen.",
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option("--tls-certificate", help="PEM chain; with it the service speaks HTTPS.")
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option("--tls-key", help="PEM private key of that chain, readable by its owner alone."),
    ] = None,
    page_token_file: Annotated[
        Path | None,
        typer.Option(
            "--page-token-file",
            help="A 0600 file; its content is the password of the operators' page, then served at /operator.",
        ),
    ] = None,
    revocations_within: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=192,
            help="Hours since the channel must have been refreshed, or nothing is released.",
        ),
    ] = 192,
    evidence_days: Annotated[
        int, typer.Option(min=0, help="How long evidence is kept, sealed, for `tally whatif`; 0 keeps none.")
    ] = 90,
    metrics: Annotated[bool, typer.Option("--metrics", help="Serve Prometheus metrics at /metrics.")] = False,
    client_rate: Annotated[
        float, typer.Option(min=0.1, help="Requests a second that one address may make in the long run.")
    ] = 50.0,
    client_burst: Annotated[int, typer.Option(min=1, help="Requests that it may make at once.")] = 500,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that serve; as many as there are cores, at most.")
    ] = 1,
) -> None:
    """Serve keys until SIGTERM or Ctrl-C. Says on stderr when it is ready, then one line of JSON a request."""
    from datetime import timedelta

    from tallystick.broker import hardening, opening, server
    from tallystick.broker.config import BrokerConfig, Lifetimes, Limits
    from tallystick.cli.workdir import place

    _log_to_stderr()
    if not hardening.keep_memory_private():
        progress("warning: this system lets a core be dumped, or a debugger of this user in")
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
        witnesses=tuple(witnesses or ()),
        metrics=metrics,
        limits=Limits(client_rate=client_rate, client_burst=client_burst),
        lifetimes=Lifetimes(evidence=timedelta(days=evidence_days)),
        revocations_within=timedelta(hours=revocations_within),
        passphrase=passphrase(passphrase_file),
    )
    page = None if page_token_file is None else _page(page_token_file, config)
    listening = server.listen(config.host, config.port, backlog=0 if workers > 1 else server.BACKLOG)

    def ready(url: str) -> None:
        progress(f"broker ready at {url} for channel {config.channel}")

    def make() -> Broker:
        return opening.open_configured(config)

    try:
        if workers > 1:
            server.serve_workers(config, listening, workers, make=make, ready=ready, page=page)
        else:
            server.serve(make(), listening, ready=ready, page=page)
    finally:
        listening.close()
    progress("broker stopped")


def _page(token_file: Path, config: BrokerConfig) -> OperatorPage:
    """Return the operators' page of this broker and its channel."""
    from tallystick.broker import operator_page
    from tallystick.cli import board, clock
    from tallystick.signing import trust

    sources = board.Sources(
        channel=config.channel, folder=config.channel_dir, trust=trust.load(config.trust), home=config.home
    )
    draw = board.pages(sources, clock.now)
    return operator_page.of_file(token_file, draw, host=config.host, secure=config.tls is not None)


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


def _kv(url: str | None, ca: Path | None) -> dict[str, str] | None:
    """Return where the sealed keys lie, when it is not the vault's own folder."""
    if url is None and ca is not None:
        raise Misuse("broker init: --kv-ca goes with --kv", code="vault.kv")
    if url is None:
        return None
    return {"url": url, **({"ca": str(ca.resolve())} if ca is not None else {})}


def _tls(certificate: Path | None, key: Path | None) -> TlsFiles | None:
    from tallystick.broker.tls import TlsFiles

    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise Misuse("broker serve: --tls-certificate and --tls-key go together", code="tls.certificate")
    return TlsFiles(chain=certificate, key=key)


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
