"""``tally sigstore``: the embedded Sigstore over HTTP, so that other people's clients sign against it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.desks import As, Workdir
from tallystick.cli.output import JsonFlag, command_app, emit

if TYPE_CHECKING:
    from tallystick.signing.embedded.instance import Instance

app = command_app("Serve the embedded Sigstore over HTTP, get tokens for it, and show its checkpoint.")

_MAX_BYTES = 1 << 20
_WAIT_SECONDS = 10

Url = Annotated[str, typer.Option("--url", help="Where `tally sigstore serve` answers.")]


@app.command()
def serve(
    workdir: Workdir = None,
    host: Annotated[str, typer.Option("--host", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port; 0 takes a free one.")] = 3080,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="Folder for trusted_root.json, signing_config.json and client_trust_config.json."
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option("--tls-certificate", help="PEM chain; with it the Sigstore speaks HTTPS.")
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option("--tls-key", help="PEM private key of that chain, readable by its owner alone."),
    ] = None,
) -> None:
    """Answer Fulcio v2 and Rekor v1 requests until interrupted: `cosign`, `sigstore` and sigstore-js sign against it.

    It certifies enrolled keys (by a token of `tally sigstore token`) and tokens of pinned issuers, and nobody else.
    """
    import signal
    import threading

    from tallystick.cli import clock
    from tallystick.cli.output import progress
    from tallystick.core.errors import Misuse
    from tallystick.signing.embedded import http
    from tallystick.signing.embedded.front import Front

    if not 0 <= port <= 65535:
        raise Misuse(f"--port: want 0 to 65535, got {port}", code="port.number")
    if (tls_certificate is None) != (tls_key is None):
        raise Misuse("--tls-certificate and --tls-key go together", code="tls.certificate")
    context = None
    if tls_certificate is not None and tls_key is not None:
        from tallystick.broker import tls

        context = tls.context(tls.TlsFiles(chain=tls_certificate, key=tls_key))
    instance = instance_of(workdir)
    done = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: done.set())
    with http.serving(Front(instance), host, port, clock.now, context) as url:
        if config is not None:
            _write_config(config, workdir, url)
        progress(f"the embedded Sigstore answers at {url} (for development)")
        done.wait()


@app.command()
def token(
    name: As,
    url: Url,
    workdir: Workdir = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write it to this file instead, for its owner alone.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print a token in the name of an enrolled person: five minutes, one certificate, for any Sigstore client."""
    from tallystick.cli import clock, passphrase
    from tallystick.cli import workdir as workdirs
    from tallystick.core.files import write_file
    from tallystick.signing import people
    from tallystick.signing.embedded import proofs

    person = people.load(workdirs.place(workdir), name, passphrase.secret)
    nonce = str(_ask(f"{url}/tally/v0/challenge", None).get("nonce"))
    proof = proofs.prove(person.identity, person.key, nonce, proofs.FOR_A_TOKEN, clock.now())
    found = str(_ask(f"{url}/tally/v0/token", {"proof": proof}).get("id_token"))
    if out is not None:
        write_file(out, found.encode(), mode=0o600)  # and no newline: cosign sends the file as it is
    said = {"file": str(out)} if out is not None else {"token": found}
    words = f"a token of {person.identity.san} is in {out}" if out is not None else found
    emit(said | {"san": person.identity.san, "issuer": person.identity.issuer}, words, as_json=as_json)


@app.command()
def config(
    url: Url,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where the three files are written.")],
    workdir: Workdir = None,
    as_json: JsonFlag = False,
) -> None:
    """Write what clients need to know of the Sigstore at URL: trusted root, signing config, and both in one."""
    written = _write_config(folder, workdir, url)
    emit({"files": written}, "\n".join(written), as_json=as_json)


@app.command()
def checkpoint(workdir: Workdir = None, as_json: JsonFlag = False) -> None:
    """Print the transparency log's signed checkpoint (C2SP), to keep where the log's keeper can not change it."""
    note = instance_of(workdir).log.checkpoint()
    emit({"checkpoint": note}, note, as_json=as_json)


def instance_of(workdir: Path | None) -> Instance:
    """Return the work directory's embedded Sigstore, open."""
    from tallystick.cli import passphrase
    from tallystick.cli import workdir as workdirs
    from tallystick.signing.embedded.instance import Instance

    return Instance(workdirs.place(workdir) / "sigstore", passphrase.secret)


def _write_config(folder: Path, workdir: Path | None, url: str) -> list[str]:
    from tallystick.cli import workdir as workdirs
    from tallystick.core import jsondoc
    from tallystick.core.files import read_file, write_file
    from tallystick.signing.embedded.instance import served_at

    path = workdirs.place(workdir) / "sigstore" / "client_trust_config.json"
    document = served_at(
        jsondoc.loads(read_file(path, "client trust config", max_bytes=_MAX_BYTES), "client trust config"),
        url,
    )
    parts = {
        "trusted_root.json": document["trustedRoot"],
        "signing_config.json": document["signingConfig"],
        "client_trust_config.json": document,
    }
    for file, value in parts.items():
        write_file(folder / file, jsondoc.dumps(value))
    return [str(folder / file) for file in parts]


def _ask(url: str, body: dict[str, Any] | None) -> dict[str, Any]:
    """Return the JSON object that ``url`` answers.

    Raises:
        Unreachable: nobody answers there. Refused: what is there refuses (``sigstore.refused``).
    """
    import json
    from urllib import error, request

    from tallystick.core.errors import Misuse, Refused, Unreachable

    if not url.startswith(("http://", "https://")):
        raise Misuse(f"--url: want http:// or https://, got {url[:60]}", code="sigstore.url")
    data = None if body is None else json.dumps(body).encode()
    try:
        with request.urlopen(request.Request(url, data=data), timeout=_WAIT_SECONDS) as answer:  # noqa: S310
            document = json.loads(answer.read(_MAX_BYTES))
    except error.HTTPError as refused:
        said = refused.read(4096).decode("utf-8", "replace")
        raise Refused(f"the Sigstore at {url} refuses: {said}", code="sigstore.refused") from None
    except (OSError, ValueError) as failed:
        raise Unreachable(f"no Sigstore answers at {url}: {failed}", code="sigstore.unreachable") from None
    if not isinstance(document, dict):
        raise Unreachable(f"no Sigstore answers at {url}", code="sigstore.unreachable")
    return document
