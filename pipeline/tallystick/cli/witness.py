"""``tally witness``: somebody who signs a log's checkpoint only when it grew from the one signed before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.output import JsonFlag, command_app, emit

if TYPE_CHECKING:
    from tallystick.signing.root import LogKey
    from tallystick.tlog.checkpoint import NoteKey

app = command_app("Be a witness of transparency logs (C2SP tlog-witness).")

_MAX_BYTES = 1 << 20
_KEY = "witness.key"

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The witness's folder: its key and what it has seen.")
]


@app.command()
def init(
    folder: Folder,
    name: Annotated[
        str, typer.Option("--name", help="Its name on signature lines, such as witness.example.org/w1.")
    ],
    holder: Annotated[str, typer.Option("--holder", help="Who holds its key, for the trust file.")],
    as_json: JsonFlag = False,
) -> None:
    """Make a witness, and print what a trust file says of it (`witnesses.keys`)."""
    import re

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from tallystick.cli import passphrase
    from tallystick.core import jsondoc
    from tallystick.core.errors import Misuse
    from tallystick.core.files import write_file
    from tallystick.formats import canonical_base64
    from tallystick.signing import keyfile

    if (folder / _KEY).exists():
        raise Misuse(f"{folder} holds a witness already", code="key.exists")
    if re.fullmatch(r"[^\s+]{1,128}", name) is None:
        raise Misuse("--name: want a name without spaces and +", code="witness.name")
    key = Ed25519PrivateKey.generate()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keyfile.write(folder / _KEY, key, passphrase.given())
    write_file(folder / "name", f"{name}\n".encode())
    entry = {
        "name": name,
        "holder": holder,
        "public_key": canonical_base64.encode(key.public_key().public_bytes_raw()),
    }
    emit(entry, jsondoc.dumps(entry).decode(), as_json=as_json)


@app.command()
def serve(
    folder: Folder,
    roots: Annotated[
        list[Path] | None,
        typer.Option(
            "--trusted-root", help="A Sigstore trusted root, whose logs it watches; can be repeated."
        ),
    ] = None,
    verifiers: Annotated[
        list[str] | None,
        typer.Option(
            "--log",
            help="The verifier key of another log, as `tally broker init` prints it; can be repeated.",
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port; 0 takes a free one.")] = 3081,
) -> None:
    """Answer add-checkpoint until interrupted. A log's name and key are those of the root, or of the verifier key."""
    import signal
    import threading

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from tallystick.cli import clock, passphrase
    from tallystick.cli.output import progress
    from tallystick.core.errors import Malformed, Misuse
    from tallystick.core.files import read_file
    from tallystick.signing import keyfile
    from tallystick.signing import root as trusted
    from tallystick.tlog import checkpoint as cp
    from tallystick.tlog import witness_http
    from tallystick.tlog.witness import Witness

    if not 0 <= port <= 65535:
        raise Misuse(f"--port: want 0 to 65535, got {port}", code="port.number")
    key = keyfile.read_any(folder / _KEY, passphrase.secret)
    if not isinstance(key, Ed25519PrivateKey):
        raise Malformed("witness", at=_KEY, want="an Ed25519 key", got=type(key).__name__)
    name = read_file(folder / "name", "witness", max_bytes=_MAX_BYTES).decode("utf-8", "replace").strip()
    logs = [
        log
        for path in roots or ()
        for log in trusted.parse(read_file(path, "trusted root", max_bytes=_MAX_BYTES)).logs
    ]
    keys = [cp.parse_verifier(line) for line in verifiers or ()]
    known = [*(_known(log) for log in logs), *((key.name, key) for key in keys)]
    if not known:
        raise Misuse("want --trusted-root or --log: there is no log to watch", code="witness.logs")
    witness = Witness(name=name, key=key, logs=tuple(known), folder=folder)
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    with witness_http.serving(witness, host, port, clock.now) as url:
        progress(f"witness {name} answers at {url} for {', '.join(origin for origin, _ in witness.logs)}")
        done.wait()


def _known(log: LogKey) -> tuple[str, NoteKey]:
    """Return the log's origin and key as its checkpoints have them.

    Source: rekor, pkg/util/checkpoint.go: a v1 origin is the host and the tree's number; a v2 one the host alone.

    Raises:
        Unsupported: a key that is neither ECDSA (v1) nor Ed25519 (v2).
    """
    from urllib.parse import urlsplit

    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    from tallystick.core.errors import Unsupported
    from tallystick.tlog import checkpoint as cp

    host = urlsplit(str(log.document.get("baseUrl", ""))).hostname or ""
    public = load_der_public_key(log.spki)
    if isinstance(public, ed25519.Ed25519PublicKey):
        return host, cp.NoteKey(name=host, kind=cp.Kind.ED25519, public=public)
    if isinstance(public, ec.EllipticCurvePublicKey):
        return host, cp.NoteKey(name=host, kind=cp.Kind.ECDSA, public=public)
    raise Unsupported("log key", at=host, want="ECDSA or Ed25519", got=type(public).__name__)
