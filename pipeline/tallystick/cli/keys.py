"""``tally keys``: how the private keys of a work directory are kept; encrypting them; naming one in a token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.desks import Workdir
from tallystick.cli.output import JsonFlag, command_app, emit

if TYPE_CHECKING:
    from collections.abc import Iterator

app = command_app("Show how private keys are kept, encrypt them, or use one in a hardware token.")

Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", help="These alone, such as people/alice or sigstore; can be repeated. Default: all."
    ),
]


@app.command()
def show(workdir: Workdir = None, as_json: JsonFlag = False) -> None:
    """List every private key of the work directory: encrypted, plain, or in a token."""
    from tallystick.cli import workdir as workdirs
    from tallystick.signing import keyfile

    home = workdirs.place(workdir)
    found = {str(path.relative_to(home)): keyfile.kind(path) for path in _files(home, None)}
    emit(
        {"keys": found},
        "\n".join(f"{kind:<10} {path}" for path, kind in found.items()) or "no keys",
        as_json=as_json,
    )


@app.command()
def protect(workdir: Workdir = None, only: Only = None, as_json: JsonFlag = False) -> None:
    """Encrypt plain keys under a passphrase (PKCS #8 as OpenSSL writes it), each file whole or not at all.

    The passphrase comes by `tally --passphrase-fd N` or `--passphrase-env NAME`, or is typed twice. What is encrypted
    already stays as it is.
    """
    from tallystick.cli import workdir as workdirs
    from tallystick.signing import keyfile

    home = workdirs.place(workdir)
    plain = [path for path in _files(home, only) if keyfile.kind(path) == "plain"]
    passphrase = _new() if plain else b""
    for path in plain:
        keyfile.protect(path, passphrase)
    names = [str(path.relative_to(home)) for path in plain]
    emit(
        {"encrypted": names},
        "\n".join(f"encrypted  {name}" for name in names) or "nothing was plain",
        as_json=as_json,
    )


@app.command()
def hardware(
    file: Annotated[
        str, typer.Argument(help="Which key, such as people/alice/release.key or sigstore/ca.key.")
    ],
    uri: Annotated[str, typer.Argument(help="pkcs11:token=…;object=…?module-path=…, without a PIN.")],
    workdir: Workdir = None,
    replace: Annotated[bool, typer.Option("--replace", help="In the place of a key that is there.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Let a key file name a key in a PKCS#11 token, after one signature by it; print its public half.

    A channel or trust file that lists the old key has to be told: see `tally channel rotate`.
    """
    from tallystick.cli import passphrase
    from tallystick.cli import workdir as workdirs
    from tallystick.core.errors import Misuse
    from tallystick.core.files import write_file
    from tallystick.release.index import safe_path
    from tallystick.signing import hardware as tokens
    from tallystick.signing import keyfile

    path = workdirs.place(workdir) / file
    if not safe_path(file) or path.suffix not in (".key", ".pem") or not path.parent.is_dir():
        raise Misuse(f"{file[:80]} is no key file of a work directory", code="key.file")
    if path.exists() and not replace:
        raise Misuse(f"{path} is there; --replace puts the token's key in its place", code="key.exists")
    public = keyfile.public_pem(tokens.load(uri, passphrase.secret(uri)))
    write_file(path, f"{uri}\n".encode(), mode=0o600)
    emit(
        {"file": str(path), "public_key": public},
        f"{path} is now the key at {uri}\n{public}",
        as_json=as_json,
    )


def _files(home: Path, only: list[str] | None) -> Iterator[Path]:
    """Give the private keys under ``home``, sorted; of an unknown part of it none, with an error."""
    from tallystick.core.errors import Misuse
    from tallystick.release.index import safe_path

    wanted = only or ["people", "sigstore", "channels", "layout"]
    for part in wanted:
        if only is None and not (home / part).exists() and home.is_dir():
            continue
        if not safe_path(part) or not (home / part).exists():
            raise Misuse(f"there is no {part[:80]} in {home}", code="key.missing")
        place = home / part
        files = [place] if place.is_file() else sorted((*place.rglob("*.key"), *place.rglob("key.pem")))
        yield from files


def _new() -> bytes:
    """Return the passphrase for what is encrypted now: as given, or typed twice."""
    from tallystick.cli import passphrase
    from tallystick.core.errors import Misuse

    found = passphrase.given()
    if found is None:
        found = passphrase.asked("these keys")
        if found is not None and passphrase.asked("these keys, again") != found:
            raise Misuse("the two passphrases differ", code="passphrase.differs")
    if found is None:
        raise Misuse(
            "no passphrase: --passphrase-fd, --passphrase-env or a terminal", code="passphrase.missing"
        )
    return found
