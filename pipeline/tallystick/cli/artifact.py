"""``tally artifact``: weights, tokenizers, indexes and adapters, encrypted, and released apart from the image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli import signers
from tallystick.cli.desks import TrustFile, Workdir
from tallystick.cli.output import JsonFlag, command_app, emit
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.core.digests import Digest
    from tallystick.handshake.manifest import Manifest

app = command_app("Encrypt weights and other artifacts, and release them apart from the image.")

_MAX_BYTES = 64 << 20
_MAX_KEY_BYTES = 1 << 16

_Dir = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of an artifact release.")]
_Policy = Annotated[
    Path, typer.Option("--policy", help="The policy file under which the broker gives the keys.")
]
_Keys = Annotated[
    list[str],
    typer.Option("--key", metavar="KEY=FILE", help="A key of the broker and its file; repeatable."),
]
_Out = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where to: a new folder.")]


@app.command()
def encrypt(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The artifact recipe (YAML).")],
    policy: _Policy,
    key: _Keys,
    output: _Out,
    as_json: JsonFlag = False,
) -> None:
    """Encrypt the files of RECIPE, each under a data key of its own that is wrapped for a key of the broker.

    Streams: memory holds one chunk of a MiB. The folder appears whole or not at all; `tally artifact sign` is next.
    """
    from tallystick.core.files import read_file, whole_folder
    from tallystick.release import artifact_recipe, artifact_seal
    from tallystick.release.artifact_seal import Plan

    _new(output)
    made = artifact_recipe.parse(read_file(recipe, "artifact recipe", max_bytes=_MAX_BYTES), recipe.parent)
    plan = Plan(name=made.name, version=made.version, policy=_digest(policy), images=made.images)
    keys = _read_keys(key)
    with whole_folder(output) as work:
        manifest = artifact_seal.seal(work, plan, made.parts, keys)
        _describe(work, manifest, dict(made.cards))
    emit(_document(output, manifest), f"encrypted into {output}\n{_words(manifest)}", as_json=as_json)


@app.command()
def rewrap(
    directory: _Dir,
    policy: _Policy,
    key: _Keys,
    output: _Out,
    version: Annotated[str, typer.Option("--version", help="The version of the new artifact release.")],
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image", metavar="NAME=VERSION", help="Image release that it goes with. Default: as before."
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="ARTIFACT=KEY", help="The broker's new key of an artifact."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make an artifact release again for another policy, image or key. Only the data keys are wrapped again."""
    from tallystick.core.files import whole_folder
    from tallystick.release import artifact_seal
    from tallystick.release.artifact_seal import Plan

    _new(output)
    old = artifact_seal.read(directory)
    plan = Plan(name=old.name, version=version, policy=_digest(policy), images=_images(image) or old.images)
    keys = _read_keys(key)
    with whole_folder(output) as work:
        manifest = artifact_seal.rewrap(directory, work, plan, keys, _pairs(rename or [], "--rename"))
        _describe_again(directory, work, manifest)
    emit(_document(output, manifest), f"wrapped again into {output}\n{_words(manifest)}", as_json=as_json)


@app.command()
def sign(
    directory: _Dir,
    name: signers.Name = None,
    workdir: Workdir = None,
    keyless: signers.Keyless = False,
    trust_config: signers.TrustConfig = None,
    identity_token: signers.IdentityToken = None,
    replace: signers.Replace = False,
    as_json: JsonFlag = False,
) -> None:
    """Sign the manifest and the SBOM of an artifact release, into DIR/bundles. Then: `tally promote DIR`."""
    from tallystick.cli import clock
    from tallystick.core.files import read_file, whole_folder
    from tallystick.release import artifact_seal, artifact_verify, names
    from tallystick.signing import sigstore

    if (name is not None) == (keyless or trust_config is not None):
        raise Misuse("name who signs: --as NAME, --keyless or --trust-config FILE", code="sign.who")
    if (directory / names.BUNDLES).exists() and not replace:
        raise Misuse(f"{directory} is signed already; --replace signs it again", code="sign.already")
    manifest = artifact_seal.read(directory)
    artifact_verify.check_files(directory, manifest)
    bom = read_file(directory / artifact_verify.SBOM, "SBOM statement", max_bytes=_MAX_BYTES)
    payloads = {"artifacts": artifact_verify.statement(manifest), "sbom": bom}
    who = signers.Who(
        name=name,
        workdir=workdir,
        keyless=keyless,
        trust_config=trust_config,
        identity_token=identity_token,
    )
    with signers.open_signer(None, who, clock.now()) as signer:
        bundles = {what: signer.statement(payload) for what, payload in payloads.items()}
    with whole_folder(directory / names.BUNDLES) as work:
        for what, bundle in bundles.items():
            (work / Path(names.bundle_file(what)).name).write_bytes(bundle)
    identity = sigstore.signer_of(bundles["artifacts"])
    signer_document = {"signer": {"san": identity.san, "issuer": identity.issuer}}
    words = f"signed {manifest.name} {manifest.version} as {identity.san}\n{manifest.digest}"
    emit(_document(directory, manifest) | signer_document, words, as_json=as_json)


@app.command()
def verify(
    directory: _Dir,
    trust: TrustFile = None,
    workdir: Workdir = None,
    at: Annotated[
        str | None, typer.Option("--at", help="Decide as of this RFC 3339 time. Default: now.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Verify who signed an artifact release, its SBOM, and every file of it. No key is needed, nothing is fetched."""
    from tallystick.cli import clock
    from tallystick.cli import workdir as workdirs
    from tallystick.release import artifact_verify
    from tallystick.signing import trust as trust_file
    from tallystick.signing.verify import Verifier

    now, pinned = clock.at(at), trust_file.load(trust or workdirs.place(workdir) / "trust.json")
    read = artifact_verify.from_folder(directory)
    found = artifact_verify.verify(read, pinned, now, Verifier(pinned.sigstore_root), f"{directory}/")
    artifact_verify.check_files(directory, found.manifest)
    signer = dict(found.statements)["artifacts"].signer
    document = _document(directory, found.manifest) | {
        "genuine": True,
        "signer": {"san": signer.san, "issuer": signer.issuer},
        "findings": [],
    }
    emit(document, f"genuine, signed by {signer.san}\n{_words(found.manifest)}", as_json=as_json)


@app.command()
def show(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="An artifact release, or one encrypted file.")],
    as_json: JsonFlag = False,
) -> None:
    """Show an artifact release and check its files, without any key; or the header of one encrypted file."""
    from tallystick.core.errors import Unreachable
    from tallystick.handshake import artifact
    from tallystick.release import artifact_seal, artifact_verify

    if path.is_dir():
        manifest = artifact_seal.read(path)
        artifact_verify.check_files(path, manifest)
        emit(_document(path, manifest), _words(manifest), as_json=as_json)
        return
    try:
        with path.open("rb") as stream:
            header = artifact.read_header(stream)
    except FileNotFoundError:
        raise Misuse(f"there is nothing at {path}", code="file.missing") from None
    except OSError as error:
        raise Unreachable(f"{path}: {error.strerror}", code="file.unreadable") from None
    document = {
        "artifact": str(header.plaintext),
        "encryption": str(header.digest),
        "size": header.size_bytes,
        "chunk_bytes": header.chunk_bytes,
        "chunks": header.chunks,
        "file_size": header.file_bytes,
    }
    emit(document, "\n".join(f"{name:<12} {value}" for name, value in document.items()), as_json=as_json)


@app.command()
def decrypt(
    directory: _Dir,
    name: Annotated[str, typer.Argument(metavar="ARTIFACT", help="Which of its artifacts.")],
    key: Annotated[Path, typer.Option("--key", help="File with the broker's key of that artifact.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A new file, for its owner alone.")],
    as_json: JsonFlag = False,
) -> None:
    """Decrypt one artifact as a guest does, and write it whole or not at all."""
    from tallystick.core.files import read_file
    from tallystick.release import artifact_open, artifact_seal

    if output.exists():
        raise Misuse(f"{output} is there already", code="artifact.output")
    manifest = artifact_seal.read(directory)
    secret = read_file(key, "key", max_bytes=_MAX_KEY_BYTES)
    one = artifact_open.decrypt(directory, manifest, name, secret, output)
    document = {
        "artifact": one.name,
        "file": str(output),
        "sha256": one.plaintext.hex,
        "size": one.size_bytes,
    }
    emit(document, f"wrote {one.name} to {output}\n{one.plaintext}", as_json=as_json)


@app.command("init-data")
def init_data(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="The artifact releases of a deployment.")
    ],
    broker: Annotated[str, typer.Option("--broker", help="Where the guest finds the broker.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to.")],
    as_json: JsonFlag = False,
) -> None:
    """Write the init-data of a deployment: what its launch measures. The same input gives the same bytes."""
    from tallystick.core.files import write_file
    from tallystick.measure import hostdata
    from tallystick.release import artifact_seal

    data = artifact_seal.init_data([artifact_seal.read(one) for one in directories], broker)
    write_file(output, data)
    fields = hostdata.init_data(data)
    emit({"file": str(output), **fields.document()}, f"wrote {output}\n{fields.digest}", as_json=as_json)


def _new(output: Path) -> None:
    if output.exists():
        raise Misuse(f"{output} is there already", code="artifact.output")


def _digest(policy: Path) -> Digest:
    """Return the digest of a policy file that is one."""
    from tallystick.compile import policies
    from tallystick.core.files import read_file

    return policies.load(read_file(policy, "policy", max_bytes=_MAX_BYTES)).digest


def _read_keys(pairs: list[str]) -> dict[str, bytes]:
    from tallystick.core.files import read_file
    from tallystick.handshake.kbs import check_key

    files = _pairs(pairs, "--key")
    return {
        check_key(name): read_file(Path(file), "key", max_bytes=_MAX_KEY_BYTES)
        for name, file in files.items()
    }


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark or not name or not value or name in found:
            raise Misuse(f"{option}: want NAME=VALUE, each name once, got {text[:80]!r}", code="option.pair")
        found[name] = value
    return found


def _images(texts: list[str] | None) -> tuple[Any, ...]:
    from tallystick.handshake.manifest import Images

    found: dict[str, set[str]] = {}
    for text in texts or []:
        name, mark, value = text.partition("=")
        if not mark or not name or not value:
            raise Misuse(f"--image: want NAME=VERSION, got {text[:80]!r}", code="option.pair")
        found.setdefault(name, set()).add(value)
    return tuple(Images(name=name, versions=tuple(sorted(found[name]))) for name in sorted(found))


def _describe(work: Path, manifest: Manifest, cards: dict[str, Any]) -> None:
    from tallystick.cli import clock
    from tallystick.core.files import write_file
    from tallystick.release import artifact_verify
    from tallystick.sbom import models

    bom = models.make(manifest, cards, clock.now())
    write_file(work / artifact_verify.SBOM, models.statement(manifest, bom))


def _describe_again(old: Path, work: Path, manifest: Manifest) -> None:
    """Carry the model cards over from the SBOM of the release that was wrapped again."""
    from tallystick.core.files import read_file, write_file
    from tallystick.formats import intoto
    from tallystick.release import artifact_verify
    from tallystick.sbom import models

    data = read_file(old / artifact_verify.SBOM, "SBOM statement", max_bytes=_MAX_BYTES)
    bom = models.again(intoto.parse(data, "SBOM statement").predicate, manifest)
    write_file(work / artifact_verify.SBOM, models.statement(manifest, bom))


def _document(folder: Path, manifest: Manifest) -> dict[str, Any]:
    return {
        "release": str(folder),
        "digest": str(manifest.digest),
        "name": manifest.name,
        "version": manifest.version,
        "policy": str(manifest.policy),
        "images": {one.name: list(one.versions) for one in manifest.images},
        "artifacts": [
            {
                "name": one.name,
                "kind": one.kind,
                "file": one.file,
                "size": one.size_bytes,
                "sha256": one.plaintext.hex,
                "key": one.key,
            }
            for one in manifest.artifacts
        ],
    }


def _words(manifest: Manifest) -> str:
    images = "; ".join(f"{one.name} {', '.join(one.versions)}" for one in manifest.images)
    lines = [
        f"{manifest.name} {manifest.version}  {manifest.digest}",
        f"  for     {images}",
        f"  policy  {manifest.policy}",
    ]
    lines += [
        f"  {one.plaintext.hex}  {one.size_bytes:>14,}  {one.kind:<10}  {one.name}, key {one.key}"
        for one in manifest.artifacts
    ]
    return "\n".join(lines)
