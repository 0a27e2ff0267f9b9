"""``tally sign``: the statements of a release, and its index, each in a Sigstore bundle."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli import signers
from tallystick.cli.desks import Workdir
from tallystick.cli.output import JsonFlag, command_app, emit
from tallystick.cli.signers import Who, open_signer
from tallystick.core.errors import Misuse, Refused

if TYPE_CHECKING:
    from tallystick.release.records import Index
    from tallystick.signing.records import Identity
    from tallystick.signing.sigstore import Signer

app = command_app()

_MAX_STATEMENT_BYTES = 256 << 20


@app.command()
def sign(
    release: Annotated[
        Path, typer.Argument(help="The release directory that `tally build` made, or any one file.")
    ],
    name: signers.Name = None,
    workdir: Workdir = None,
    keyless: signers.Keyless = False,
    trust_config: signers.TrustConfig = None,
    identity_token: signers.IdentityToken = None,
    statement: Annotated[
        bool,
        typer.Option(
            "--statement", help="A file that is an in-toto statement, such as a Source VSA: sign it as one."
        ),
    ] = False,
    replace: signers.Replace = False,
    as_json: JsonFlag = False,
) -> None:
    """Sign every statement of a release, and its index, into RELEASE/bundles; or a file, into FILE.sigstore.json.

    Keyless, the certificate names the workflow that runs, or whomever else the OIDC token is about.
    """
    from tallystick.cli import clock
    from tallystick.release import index as indexes

    who = Who(
        name=name, workdir=workdir, keyless=keyless, trust_config=trust_config, identity_token=identity_token
    )
    if (name is not None) == (keyless or trust_config is not None):
        message = "name who signs: --as NAME, or --keyless for the public Sigstore, or --trust-config FILE for another"
        raise Misuse(message, code="sign.who")
    if release.is_file():
        _sign_file(release, who, statement=statement, replace=replace, as_json=as_json)
        return
    if (release / "bundles").exists() and not replace:
        raise Misuse(f"{release} is signed already; --replace signs it again", code="sign.already")
    index = indexes.read(release)
    indexes.check(release, index)
    now = clock.now()
    with open_signer(release, who, now) as signer:
        bundles = _sign(release, index, signer)
    identity = _look_again(bundles, signer.trusted_root, now)
    _write(release, bundles)
    document = {
        "release": str(release),
        "digest": str(index.digest),
        "signer": {"san": identity.san, "issuer": identity.issuer},
        "bundles": sorted(f"bundles/{file}" for file in bundles),
    }
    words = f"signed {index.name} {index.version} as {identity.san}: {len(bundles)} bundles\n{index.digest}"
    emit(document, words, as_json=as_json)


def _sign_file(path: Path, who: Who, *, statement: bool, replace: bool, as_json: bool) -> None:
    """Sign one file: advisories, a policy, whatever else people want to know the signer of."""
    from tallystick.cli import clock
    from tallystick.core.files import read_file, write_file
    from tallystick.release.vulnerabilities import BUNDLE_SUFFIX
    from tallystick.signing import sigstore

    place = path.with_name(path.name + BUNDLE_SUFFIX)
    if place.exists() and not replace:
        raise Misuse(f"{path} is signed already; --replace signs it again", code="sign.already")
    data, now = read_file(path, "file", max_bytes=_MAX_STATEMENT_BYTES), clock.now()
    with open_signer(None, who, now) as signer:
        bundle = signer.source_statement(data) if statement else signer.file(data)
    identity = sigstore.signer_of(bundle)
    write_file(place, bundle)
    said = {
        "file": str(path),
        "bundle": str(place),
        "signer": {"san": identity.san, "issuer": identity.issuer},
    }
    emit(said, f"signed {path} as {identity.san}: {place}", as_json=as_json)


def _statements(release: Path, index: Index) -> dict[str, bytes]:
    """Return what is signed, by name: the statements in the release, and one about its index."""
    from tallystick.core.digests import Digest
    from tallystick.core.errors import NotGenuine
    from tallystick.core.files import read_file
    from tallystick.formats import intoto
    from tallystick.release import artifact, names
    from tallystick.release import index as indexes

    purl = f"pkg:generic/{index.name}@{index.version}"
    about = artifact.subjects(read_file(release / indexes.FILE, "release index"))
    if about[0][1] != {"sha256": index.digest.hex}:
        raise NotGenuine(f"{release / indexes.FILE} changes while it is signed", code="release.file.changed")
    found = {"index": intoto.make(about, names.RELEASE_PREDICATE, {"purl": purl})}
    for statement, digest in index.statements:
        path = release / "statements" / f"{statement}.json"
        found[statement] = read_file(path, "statement", max_bytes=_MAX_STATEMENT_BYTES)
        if Digest.of(found[statement]) != digest:  # it changed since the index was checked
            raise NotGenuine(f"{path} is not what the index names", code="release.file.changed")
    for statement, payload in found.items():
        said, want = (
            intoto.parse(payload, f"statement {statement}").predicate_type,
            names.PREDICATES[statement],
        )
        if said != want:
            message = f"statements/{statement}.json: predicateType: want {want}, got {said}"
            raise Refused(message, code="sign.predicate-type")
    return found


def _sign(release: Path, index: Index, signer: Signer) -> dict[str, bytes]:
    from tallystick.release import names

    statements = _statements(release, index)
    return {
        Path(names.bundle_file(name)).name: signer.statement(payload) for name, payload in statements.items()
    }


def _look_again(bundles: dict[str, bytes], trusted_root: bytes, now: datetime) -> Identity:
    """Return who signed, after verifying every bundle as anybody else will."""
    from tallystick.release import names
    from tallystick.signing import sigstore
    from tallystick.signing.verify import Verifier

    verifier = Verifier(trusted_root)
    signer = sigstore.signer_of(next(iter(bundles.values())))
    for name, predicate_type in names.PREDICATES.items():
        file = Path(names.bundle_file(name)).name
        verifier.statement(
            bundles[file], signers=(signer,), predicate_type=predicate_type, now=now, what=f"bundles/{file}"
        )
    return signer


def _write(release: Path, bundles: dict[str, bytes]) -> None:
    from tallystick.core.files import whole_folder
    from tallystick.release.beside import outside

    with whole_folder(release / "bundles", outside(release)) as work:
        for file, data in bundles.items():
            (work / file).write_bytes(data)
