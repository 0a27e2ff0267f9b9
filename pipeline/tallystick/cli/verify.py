"""``tally verify``: a release against the trust file, or any Sigstore bundle against a trusted root. Offline."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.output import JsonFlag, command_app, emit
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.release.records import VerifiedRelease
    from tallystick.signing.checks import Verified

app = command_app()

_MAX_BYTES = 64 << 20


@app.command()
def verify(
    target: Annotated[Path, typer.Argument(help="A release directory, or a Sigstore bundle.")],
    trust: Annotated[
        Path | None,
        typer.Option("--trust", help="For a release: the pinned trust file. Default: the work directory's."),
    ] = None,
    workdir: Annotated[
        Path | None,
        typer.Option(
            "--workdir", help="The work directory. Default: $TALLY_HOME, else ~/.local/share/tallystick."
        ),
    ] = None,
    artifact: Annotated[
        str | None, typer.Option("--artifact", help="For a bundle: the file it is about, or sha256:HEX.")
    ] = None,
    trusted_root: Annotated[
        Path | None, typer.Option("--trusted-root", help="For a bundle: the Sigstore trusted root.")
    ] = None,
    identity: Annotated[
        str | None, typer.Option("--identity", help="For a bundle: the signer's exact e-mail address or URI.")
    ] = None,
    issuer: Annotated[
        str | None, typer.Option("--issuer", help="For a bundle: the exact OIDC issuer of the signer.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="For a bundle without certificate: the public key, in PEM.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="Decide as of this RFC 3339 time. Default: now.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Verify a release with everything in it, or any Sigstore bundle. Nothing is fetched."""
    from tallystick.cli import clock

    now = clock.at(at)
    for_bundles = {"--artifact": artifact, "--trusted-root": trusted_root, "--identity": identity}
    for_bundles |= {"--issuer": issuer, "--key": key}
    if target.is_dir():
        given = [name for name, value in for_bundles.items() if value is not None]
        if given:
            raise Misuse(f"{target} is a folder; {', '.join(given)} are for bundles", code="verify.options")
        _verify_release(target, _trust_path(target, trust, workdir), now, as_json=as_json)
        return
    if trust is not None:
        raise Misuse(f"--trust is for a release directory, and {target} is none", code="verify.options")
    if artifact is None:
        raise Misuse("a bundle is about a file: name it with --artifact", code="verify.options")
    _verify_bundle(target, artifact, trusted_root, identity, issuer, key, now, as_json=as_json)


def _trust_path(release: Path, trust: Path | None, workdir: Path | None) -> Path:
    """Return the trust file, which has to lie outside of what it judges.

    Raises:
        Misuse: ``trust.inside``.
    """
    from tallystick.cli import workdir as workdirs

    path = trust or workdirs.place(workdir) / "trust.json"
    if path.resolve().is_relative_to(release.resolve()):
        message = f"{path} lies in the release that it would judge; trust comes from outside"
        raise Misuse(message, code="trust.inside")
    return path


def _verify_release(folder: Path, trust_path: Path, now: datetime, *, as_json: bool) -> None:
    from tallystick.release.verify import verify_release
    from tallystick.signing import trust as trust_file

    release = verify_release(folder, trust_file.load(trust_path), now)
    emit(_release_document(release), _release_words(release), as_json=as_json)


def _release_document(release: VerifiedRelease) -> dict[str, Any]:
    quorum = release.quorum
    return {
        "genuine": True,
        "release": release.index.name,
        "version": release.index.version,
        "digest": str(release.digest),
        "labels": list(release.labels),
        "builder": {"san": release.builder.identity.san, "builder_id": release.builder.builder_id},
        "statements": [
            {
                "name": name,
                "predicate_type": found.predicate_type,
                "signer": found.signer.san,
                "signed_at": found.signed_at.isoformat().replace("+00:00", "Z"),
                "bundle": str(found.bundle),
            }
            for name, found in release.statements
        ],
        "files": len(release.index.files),
        "measurements": [f"{one.platform} {one.evidence_kind}" for one in release.measurements],
        "rebuilds": {
            "met": quorum.met,
            "threshold": quorum.threshold,
            "agree": [functionary.name for functionary in quorum.counted],
        },
        "findings": [],
    }


def _release_words(release: VerifiedRelease) -> str:
    quorum = release.quorum
    names = ", ".join(functionary.name for functionary in quorum.counted) or "nobody"
    lines = [
        f"genuine: {release.index.name} {release.index.version}",
        f"  digest      {release.digest}",
        f"  files       {len(release.index.files)}, each as the index names it",
        f"  statements  {len(release.statements)}, signed by {release.builder.identity.san}",
        f"  builder     {release.builder.builder_id}",
        f"  rebuilds    {len(quorum.counted)} of {quorum.threshold} needed: {names}",
        f"  root        {', '.join(release.labels)}",
    ]
    return "\n".join(lines)


def _verify_bundle(
    path: Path,
    artifact: str,
    trusted_root: Path | None,
    identity: str | None,
    issuer: str | None,
    key: Path | None,
    now: datetime,
    *,
    as_json: bool,
) -> None:
    from tallystick.core.files import read_file
    from tallystick.signing import artifact as artifacts
    from tallystick.signing.records import Identity

    data = read_file(path, "bundle", max_bytes=_MAX_BYTES)
    about = artifacts.of(artifact)
    root = None if trusted_root is None else read_file(trusted_root, "trusted root", max_bytes=_MAX_BYTES)
    if key is not None:
        if identity is not None or issuer is not None:
            raise Misuse("--key is instead of --identity and --issuer", code="verify.options")
        from tallystick.signing import managed
        from tallystick.signing import root as roots

        pem = read_file(key, "public key", max_bytes=_MAX_BYTES)
        parsed = None if root is None else roots.parse(root)
        found = managed.verify(data, pem, artifact=about, root=parsed, now=now, what=path.name)
    else:
        if root is None or not identity or not issuer:
            want = "--trusted-root, --identity and --issuer, or --key"
            raise Misuse(f"who may have signed {path}? Give {want}", code="verify.options")
        from tallystick.signing.verify import Verifier

        who = Identity(san=identity, issuer=issuer)
        found = Verifier(root).artifact(data, artifact=about, signer=who, now=now, what=path.name)
    emit(_bundle_document(path, about.sha256.hex, found), _bundle_words(path, found), as_json=as_json)


def _bundle_document(path: Path, sha256: str, found: Verified) -> dict[str, Any]:
    signer = found.signer
    return {
        "genuine": True,
        "bundle": str(path),
        "artifact": f"sha256:{sha256}",
        "signer": None if signer is None else {"san": signer.san, "issuer": signer.issuer},
        "signed_at": found.signed_at.isoformat().replace("+00:00", "Z") if found.signed_at else None,
        "predicate_type": found.predicate_type,
        "log_checked": found.log_checked,
        "findings": [],
    }


def _bundle_words(path: Path, found: Verified) -> str:
    who = found.signer.san if found.signer else "the key that was given"
    when = f" at {found.signed_at.isoformat()}" if found.signed_at else ""
    lines = [f"genuine: {path.name}, signed by {who}{when}"]
    if found.predicate_type:
        lines.append(f"  statement  {found.predicate_type}")
    if not found.log_checked:
        lines.append("  log        not checked: no --trusted-root was given")
    return "\n".join(lines)
