"""``tally broker admin``: who may do key operations over the network, and the keys that they sign with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.broker_home import Workdir, broker_home, writing
from tallystick.cli.output import JsonFlag, command_app, emit
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.broker.adminclient import AdminClient
    from tallystick.broker.config import Home

app = command_app("Enrol who may do key operations over the network. Their requests are signed, one by one.")

_MAX_KEY_BYTES = 4096
_LINE = re.compile(r"[^\s+]+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+")  # C2SP signed-note, "Verifier keys"
Url = Annotated[
    str | None,
    typer.Option("--url", help="A running broker, https://HOST:PORT; with it nothing is done here."),
]
AdminKeyFile = Annotated[
    Path | None, typer.Option("--admin-key", help="Your file of `tally broker admin new`; goes with --url.")
]
CaFile = Annotated[
    Path | None, typer.Option("--ca", help="PEM file of the authority of the broker's certificate.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The administrator: alice@example.org.")]


@app.command()
def new(
    output: Annotated[Path, typer.Option("--output", "-o", help="A new file for the private key.")],
    broker: Annotated[
        str, typer.Option("--broker", help="The broker it is for: the line that verifies its log.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Make an administrator's key. The private half stays in the file; what is printed is for `admin enrol`."""
    import json

    from cryptography.hazmat.primitives.asymmetric import ec

    from tallystick.broker.adminauth import AdminKey

    if output.exists():
        raise Misuse(f"{output} is there already; no key overwrites a file", code="file.exists")
    if not _LINE.fullmatch(broker):
        want = "NAME+HINT+KEY, as `tally broker init` printed it"
        raise Misuse(f"--broker: want {want}, got {broker[:80]}", code="admin.broker")
    key = AdminKey(audience=broker, private=ec.generate_private_key(ec.SECP256R1()))
    key.write(output)
    jwk = {name: value for name, value in key.public.document().items() if name != "alg"}
    emit({"file": str(output), "jwk": jwk}, json.dumps(jwk), as_json=as_json)


@app.command()
def enrol(
    name: Name,
    channel: Annotated[
        list[str], typer.Option("--channel", help="A channel whose keys are theirs; may be given again.")
    ],
    key: Annotated[Path, typer.Option("--key", help="The public key (JWK) that `admin new` printed.")],
    workdir: Workdir = None,
    as_json: JsonFlag = False,
) -> None:
    """Enrol an administrator for some channels, on the broker's own machine. Works at once."""
    from tallystick.broker import admins
    from tallystick.core import jsondoc
    from tallystick.core.files import read_file

    home = broker_home(workdir)
    jwk = jsondoc.loads(
        read_file(key, "administrator's key", max_bytes=_MAX_KEY_BYTES), "administrator's key"
    )
    if isinstance(jwk, dict) and "jwk" in jwk:
        jwk = jwk["jwk"]  # what `admin new --json` printed
    admin = admins.Admin.parse(name, tuple(channel), jwk)
    decision = _noted(home, "enrol", name, {"channels": list(admin.channels), "kid": admin.key.thumbprint()})
    admins.enrol(home.admins, admin)
    words = f"enrolled {name} for {', '.join(admin.channels)} (decision {decision})"
    emit({"decision": decision, **admin.document()}, words, as_json=as_json)


@app.command()
def remove(name: Name, workdir: Workdir = None, as_json: JsonFlag = False) -> None:
    """Take an administrator out. The next request that they sign is refused."""
    from tallystick.broker import admins

    home = broker_home(workdir)
    if name not in {one.name for one in admins.load(home.admins)}:
        admins.remove(home.admins, name)  # says that there is none
    decision = _noted(home, "remove", name, {})
    admins.remove(home.admins, name)
    emit({"decision": decision, "name": name}, f"removed {name} (decision {decision})", as_json=as_json)


@app.command("list")
def list_admins(workdir: Workdir = None, as_json: JsonFlag = False) -> None:
    """List the administrators, with their channels and the thumbprints of their keys."""
    from tallystick.broker import admins

    found = [one.document() for one in admins.load(broker_home(workdir).admins)]
    rows = [f"{one['name']}  {', '.join(one['channels'])}  {one['kid']}" for one in found]
    emit({"admins": found}, "\n".join(rows) or "no administrators", as_json=as_json)


def client(url: str | None, key: Path | None, ca: Path | None) -> AdminClient | None:
    """Return the client for ``--url``; None without it.

    Raises:
        Misuse: --url and --admin-key are not together.
    """
    if url is None and (key is not None or ca is not None):
        raise Misuse("--admin-key and --ca go with --url", code="admin.url")
    if url is None:
        return None
    if key is None:
        raise Misuse("--url needs --admin-key: there is no way in without a signature", code="admin.url")
    from tallystick.broker.adminauth import load_key
    from tallystick.broker.adminclient import AdminClient
    from tallystick.cli.clock import now

    return AdminClient(url, load_key(key), now=now, ca=ca)


def _noted(home: Home, action: str, name: str, said: dict[str, object]) -> str:
    """Write the leaf of an enrolment or removal, and return its identifier."""
    from tallystick.broker.decisions import Kind, entry

    with writing(home) as (ledger, now):
        public = {"action": action, "admin": name, "by": "local", **said}
        made = entry(Kind.ADMIN, now=now, public=public, details={})
        ledger.submit([made], now=now).result()
    return made.decision
