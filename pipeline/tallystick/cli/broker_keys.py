"""``tally broker key``: operations on keys, on the broker's own machine or over its network API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.broker_admin import AdminKeyFile, CaFile, Url, client
from tallystick.cli.broker_home import (
    Channel,
    Key,
    PassphraseFile,
    Workdir,
    broker_home,
    passphrase,
    writing,
)
from tallystick.cli.output import JsonFlag, command_app, emit
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.broker.adminclient import AdminClient
    from tallystick.broker.config import Home
    from tallystick.broker.keyops import KeyOperation

app = command_app("Generate, import, rotate, list and destroy keys. No command shows one.")


@app.command()
def generate(
    key: Key,
    channel: Channel,
    workdir: Workdir = None,
    passphrase_file: PassphraseFile = None,
    url: Url = None,
    admin_key: AdminKeyFile = None,
    ca: CaFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a random 256-bit key that nobody has seen."""
    far = client(url, admin_key, ca)
    _operate("generate", key, far or (workdir, passphrase_file), channel=channel, as_json=as_json)


@app.command("import")
def bring(
    key: Key,
    channel: Channel,
    source: Annotated[Path, typer.Option("--from", help="A file with the key's bytes, as they are.")],
    workdir: Workdir = None,
    passphrase_file: PassphraseFile = None,
    url: Url = None,
    admin_key: AdminKeyFile = None,
    ca: CaFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Keep a key that was made elsewhere. The file stays as it is: destroy it when you no longer need it."""
    far = client(url, admin_key, ca)
    where = far or (workdir, passphrase_file)
    _operate("import", key, where, channel=channel, secret=_secret(source), as_json=as_json)


@app.command()
def rotate(
    key: Key,
    to: Annotated[
        str, typer.Option("--to", help="The next key. Default: the same path, its last number raised by one.")
    ] = "",
    source: Annotated[
        Path | None, typer.Option("--from", help="A file with the next key's bytes. Default: a random key.")
    ] = None,
    workdir: Workdir = None,
    passphrase_file: PassphraseFile = None,
    url: Url = None,
    admin_key: AdminKeyFile = None,
    ca: CaFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the key that takes this one's place, in the same channel.

    This one stays readable for as long as a policy of the channel names it, until it is destroyed.
    """
    far = client(url, admin_key, ca)
    secret = b"" if source is None else _secret(source)
    _operate("rotate", key, far or (workdir, passphrase_file), to=to, secret=secret, as_json=as_json)


@app.command()
def split(
    key: Key,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A new folder for the shares and shared.json.")
    ],
    threshold: Annotated[
        int, typer.Option("--threshold", "-k", help="How many brokers must release a share.")
    ],
    count: Annotated[int, typer.Option("--shares", "-n", help="How many brokers get one.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A file with the key's bytes. Default: a random key, in DIR/key."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Split a key among brokers so that none of them can release it alone. This machine sees the key.

    Import each share at its own broker under the same name, then delete it; shared.json is public and goes into the
    init-data, where it is measured.
    """
    import os

    from tallystick.broker.secretfiles import write_secret
    from tallystick.broker.vault import GENERATED_BYTES
    from tallystick.core.files import write_file
    from tallystick.handshake import shares

    if output.exists():
        raise Misuse(f"{output} is there already; no key overwrites a file", code="file.exists")
    secret = os.urandom(GENERATED_BYTES) if source is None else _secret(source)
    public, parts = shares.split(key, secret, threshold=threshold, count=count)
    for part in parts:
        write_secret(output / f"share-{part.number}", part.encode())
    if source is None:
        write_secret(output / "key", secret)
    write_file(output / "shared.json", public.encode())
    files = sorted(path.name for path in output.iterdir())
    words = f"{key}: {count} shares in {output}, {threshold} open it; import share-N at broker N, and delete it here"
    emit({"key": key, "folder": str(output), "files": files, "threshold": threshold}, words, as_json=as_json)


@app.command()
def destroy(
    key: Key,
    workdir: Workdir = None,
    passphrase_file: PassphraseFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Needed: there is no way back.")] = False,
    url: Url = None,
    admin_key: AdminKeyFile = None,
    ca: CaFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Destroy a key. Its name can never be given to another one."""
    if not yes:
        raise Misuse(f"destroying {key} can not be undone: say --yes", code="key.destroy-unconfirmed")
    far = client(url, admin_key, ca)
    _operate("destroy", key, far or (workdir, passphrase_file), as_json=as_json)


@app.command("list")
def list_keys(
    workdir: Workdir = None,
    passphrase_file: PassphraseFile = None,
    url: Url = None,
    admin_key: AdminKeyFile = None,
    ca: CaFile = None,
    as_json: JsonFlag = False,
) -> None:
    """List the keys, live and destroyed, with their channels."""
    from tallystick.broker.keyops import shown
    from tallystick.broker.vault import Vault

    far = client(url, admin_key, ca)
    if far is not None:
        found = far.keys()
    else:
        vault = Vault.open(broker_home(workdir).vault, passphrase=passphrase(passphrase_file))
        found = [shown(record) for record in vault.records()]
    rows = [
        f"{one['key']}  {one['channel']}  {one['state']}  {one['origin']}  {one['made_at']}"
        + (f"  replaces {one['replaces']}" if "replaces" in one else "")
        for one in found
    ]
    emit({"keys": found}, "\n".join(rows) or "no keys", as_json=as_json)


def _operate(
    action: str,
    key: str,
    where: AdminClient | tuple[Path | None, Path | None],
    *,
    as_json: bool,
    channel: str = "",
    secret: bytes = b"",
    to: str = "",
) -> None:
    """Do one key operation: over the network, or here, through the running broker where there is one."""
    from tallystick.broker.keyops import Action, KeyOperation
    from tallystick.broker.vault import key_id

    operation = KeyOperation(action=Action(action), key=key_id(key), channel=channel, secret=secret, to=to)
    if isinstance(where, tuple):
        home = broker_home(where[0])
        answer = _ask(home, operation) or _do(home, operation, passphrase(where[1]))
    else:
        answer = where.operate(operation)
    words = (
        f"{answer['key']}: {answer['state']} in channel {answer['channel']} (decision {answer['decision']})"
    )
    emit(answer, words, as_json=as_json)


def _secret(path: Path) -> bytes:
    from tallystick.broker.vault import MAX_KEY_BYTES
    from tallystick.core.files import read_file

    return read_file(path, "key", max_bytes=MAX_KEY_BYTES)


def _ask(home: Home, operation: KeyOperation) -> dict[str, Any] | None:
    from tallystick.broker import admin

    return admin.ask(home.admin_socket, operation) if home.admin_socket.exists() else None


def _do(home: Home, operation: KeyOperation, opens: str | None) -> dict[str, Any]:
    from tallystick.broker.keyops import perform, shown
    from tallystick.broker.vault import Vault

    with writing(home) as (ledger, now):
        vault = Vault.open(home.vault, passphrase=opens)
        decision, record = perform(operation, vault, ledger, now=now)
    return {"decision": decision, **shown(record)}
