"""``tally model``: a model's signature, in the format of OpenSSF Model Signing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli import model_options, signers
from tallystick.cli.desks import Workdir
from tallystick.cli.output import JsonFlag, command_app, emit
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from datetime import datetime

    from tallystick.measure.model import Model
    from tallystick.signing.model import SignedModel

app = command_app("Sign a model, or verify its signature (OpenSSF Model Signing).")

_MAX_BYTES = 64 << 20
_OWN_NAME = "model.sig"  # where model-signing writes it too
_Path = Annotated[Path, typer.Argument(metavar="MODEL", help="The model: a folder, or one file.")]


@app.command()
def sign(
    path: _Path,
    name: signers.Name = None,
    workdir: Workdir = None,
    keyless: signers.Keyless = False,
    trust_config: signers.TrustConfig = None,
    identity_token: signers.IdentityToken = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="Sign with this private key instead (PEM): no log, no name.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Where to. Default: MODEL/model.sig, of one file beside it: FILE.sig."
        ),
    ] = None,
    method: model_options.Method = "files",
    hash_type: model_options.HashName = "sha256",
    shard_size: model_options.ShardSize = 0,
    ignore: model_options.Ignore = None,
    replace: signers.Replace = False,
    as_json: JsonFlag = False,
) -> None:
    """Hash every file of a model and sign the manifest: a Sigstore bundle that `model_signing verify` reads too."""
    from tallystick.cli import clock
    from tallystick.core.files import write_file
    from tallystick.measure import model as calculator

    if sum((name is not None, keyless or trust_config is not None, key is not None)) != 1:
        message = "name who signs: --as NAME, --key FILE, --keyless or --trust-config FILE"
        raise Misuse(message, code="sign.who")
    place = output or (path / _OWN_NAME if path.is_dir() else path.with_name(f"{path.name}.sig"))
    if place.exists() and not replace:
        raise Misuse(f"{place} is there already; --replace signs it again", code="sign.already")
    made = model_options.serialization(method, hash_type, shard_size, ignore or [])
    found = calculator.read(path, model_options.without(made, path, place))
    statement = found.manifest.statement()
    if key is not None:
        bundle = _with_key(statement, key)
    else:
        who = signers.Who(
            name=name,
            workdir=workdir,
            keyless=keyless,
            trust_config=trust_config,
            identity_token=identity_token,
        )
        with signers.open_signer(None, who, clock.now()) as signing:
            bundle = signing.statement(statement)
    write_file(place, bundle)
    words = f"signed {len(found.files)} files of {path}: {place}"
    emit({"signature": str(place), **_of_model(found)}, f"{words}\n{_words(found)}", as_json=as_json)


@app.command()
def verify(
    path: _Path,
    signature: Annotated[
        Path | None, typer.Option("--signature", help="The bundle. Default: MODEL/model.sig, or FILE.sig.")
    ] = None,
    trusted_root: Annotated[
        Path | None, typer.Option("--trusted-root", help="The Sigstore trusted root.")
    ] = None,
    identity: Annotated[
        str | None, typer.Option("--identity", help="The signer's exact e-mail address or URI.")
    ] = None,
    issuer: Annotated[
        str | None, typer.Option("--issuer", help="The exact OIDC issuer of the signer.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="Instead: the public key of the method `key`, in PEM.")
    ] = None,
    roots: Annotated[
        Path | None,
        typer.Option("--certificate-roots", help="Instead: authorities of the method `certificate`, in PEM."),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="Decide as of this RFC 3339 time. Default: now.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Verify who signed a model, and that every file of it is the one that was signed. Nothing is fetched."""
    from tallystick.cli import clock
    from tallystick.measure import model as calculator

    place = signature or (path / _OWN_NAME if path.is_dir() else path.with_name(f"{path.name}.sig"))
    signed = _signed(place, trusted_root, identity, issuer, key, roots, clock.at(at))
    made = signed.manifest.serialization
    found = calculator.read(path, model_options.without(made, path, place))
    calculator.check(found, signed.manifest)
    who = signed.signer
    document: dict[str, Any] = {
        "genuine": True,
        "method": signed.method,
        "signer": None if who is None else {"san": who.san, "issuer": who.issuer},
        "certificate": signed.subject,
        "signed_at": None
        if signed.signed_at is None
        else signed.signed_at.isoformat().replace("+00:00", "Z"),
        **_of_model(found),
        "findings": [],
    }
    name = who.san if who else signed.subject or "the key that was given"
    words = f"genuine: {len(found.files)} files of {path}, signed by {name}\n{_words(found)}"
    emit(document, words, as_json=as_json)


def _with_key(statement: bytes, path: Path) -> bytes:
    from tallystick.cli import passphrase
    from tallystick.signing import keyfile
    from tallystick.signing import model as models

    return models.with_key(statement, keyfile.read(path, passphrase.secret))


def _signed(
    place: Path,
    trusted_root: Path | None,
    identity: str | None,
    issuer: str | None,
    key: Path | None,
    roots: Path | None,
    now: datetime,
) -> SignedModel:
    """Return what the bundle at ``place`` signs, by the one method that the options name."""
    from tallystick.core.files import read_file
    from tallystick.signing import model as models
    from tallystick.signing.records import Identity

    by_sigstore = (trusted_root, identity, issuer)
    given = [any(by_sigstore), key is not None, roots is not None]
    if given.count(True) != 1 or (given[0] and not all(by_sigstore)):
        want = "--trusted-root with --identity and --issuer, or --key, or --certificate-roots"
        raise Misuse(f"who may have signed {place}? Give {want}", code="verify.options")
    data = read_file(place, "model signature", max_bytes=_MAX_BYTES)
    if key is not None:
        return models.by_key(data, read_file(key, "public key", max_bytes=_MAX_BYTES), now, place.name)
    if roots is not None:
        pem = read_file(roots, "certificates", max_bytes=_MAX_BYTES)
        return models.by_certificate(data, pem, now, place.name)
    if trusted_root is None or identity is None or issuer is None:
        raise AssertionError("the options were counted")
    root = read_file(trusted_root, "trusted root", max_bytes=_MAX_BYTES)
    return models.by_sigstore(data, root, Identity(san=identity, issuer=issuer), now, place.name)


def _of_model(found: Model) -> dict[str, Any]:
    return {
        "model": str(found.digest),
        "oms_root": str(found.manifest.root),
        "hash_type": found.manifest.serialization.hash_type.label,
        "files": len(found.files),
    }


def _words(found: Model) -> str:
    return f"  model     {found.digest}\n  OMS root  {found.manifest.root}"
