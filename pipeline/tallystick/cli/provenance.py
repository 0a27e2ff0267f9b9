"""``tally provenance``: how a release was made, and whether that follows from its derivations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.output import JsonFlag, command_app, emit
from tallystick.core.errors import NotGenuine

if TYPE_CHECKING:
    from tallystick.formats.slsa import Provenance
    from tallystick.provenance.check import Checked

app = command_app("Show or check the provenance of a release; vouch for a commit.")

_MAX_POLICY_BYTES = 16 << 20
ReleaseDir = Annotated[Path, typer.Argument(metavar="DIR", help="The release directory.")]


@app.command()
def show(directory: ReleaseDir, as_json: JsonFlag = False) -> None:
    """Print how a release was made; with --json the in-toto statement itself."""
    from tallystick.formats import slsa
    from tallystick.report.folder import ReleaseFolder

    statement = ReleaseFolder.open(directory).statement("provenance")
    provenance = slsa.parse(statement)
    subjects = [(subject.name, dict(subject.digests).get("sha256", "")) for subject in statement.subjects]
    emit(statement.document, _words(provenance, subjects), as_json=as_json)


@app.command()
def check(directory: ReleaseDir, as_json: JsonFlag = False) -> None:
    """Recompute every path from the derivations' texts, without Nix, and compare all that is stated.

    Exit 5: something does not follow; every difference is listed.
    """
    from tallystick.provenance.check import check as re_derive
    from tallystick.report.folder import ReleaseFolder

    folder = ReleaseFolder.open(directory)
    checked = re_derive(folder.statement("provenance"), folder.released())
    if checked.findings:
        count = f"{len(checked.findings)} thing{'s' if len(checked.findings) != 1 else ''}"
        raise NotGenuine(
            f"{directory}: the provenance does not follow from the derivations in {count}",
            findings=checked.findings,
        )
    emit(_verdict(str(folder.index.digest), checked), _verdict_words(checked), as_json=as_json)


@app.command("source-vsa")
def source_vsa(
    repository: Annotated[
        str, typer.Option("--repository", help="The repository: git+https://…, as in the provenance.")
    ],
    commit: Annotated[str, typer.Option("--commit", help="The full commit id.")],
    level: Annotated[int, typer.Option("--level", min=1, max=4, help="SLSA source level that was verified.")],
    policy: Annotated[
        Path, typer.Option("--policy", help="What was asked of the source; its digest is named.")
    ],
    policy_uri: Annotated[str, typer.Option("--policy-uri", help="Where that policy is published.")],
    verifier: Annotated[str, typer.Option("--verifier", help="URI of whoever looked.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    refs: Annotated[
        list[str] | None, typer.Option("--ref", help="A branch with the commit: refs/heads/main.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the Source VSA of a commit. `tally sign FILE --statement` signs it; `tally promote --source-vsa` takes it.

    Whoever signs says that the commit was made under the controls of that level, and then approves no release of it.
    """
    import re

    from tallystick.cli import clock
    from tallystick.core.digests import Digest
    from tallystick.core.errors import Misuse
    from tallystick.core.files import read_file, write_file
    from tallystick.formats.slsa import Resource
    from tallystick.release import source

    if not re.fullmatch(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", commit):
        raise Misuse(f"{commit!r} is no full commit id in lower-case hex", code="provenance.commit")
    asked = Resource(
        uri=policy_uri,
        digests=(("sha256", Digest.of(read_file(policy, "policy", max_bytes=_MAX_POLICY_BYTES)).hex),),
    )
    data = source.make(
        repository=repository,
        commit=commit,
        refs=refs or (),
        level=level,
        verifier=verifier,
        policy=asked,
        now=clock.now(),
    )
    write_file(out, data)
    found = {"file": str(out), "digest": str(Digest.of(data)), "commit": commit, "level": level}
    emit(found, f"{out}: commit {commit[:12]} at source level {level}", as_json=as_json)


def _verdict(release: str, checked: Checked) -> dict[str, Any]:
    outputs = sum(len(made.outputs) for made in checked.graph.derivations.values())
    return {
        "release": release,
        "builder": checked.provenance.builder_id,
        "build_type": checked.provenance.build_type,
        "derivations": len(checked.graph.derivations),
        "outputs": outputs,
        "fixed_outputs": sum(1 for _ in checked.graph.fixed()),
        "sources": len(checked.graph.sources()),
        "dependencies": len(checked.provenance.dependencies),
        "findings": [],
    }


def _verdict_words(checked: Checked) -> str:
    verdict = _verdict("", checked)
    return (
        f"builder {verdict['builder']}\n"
        f"{verdict['derivations']} derivations and {verdict['outputs']} outputs recomputed from their texts, "
        "without Nix: all follow\n"
        f"{verdict['fixed_outputs']} fixed outputs and {verdict['sources']} sources "
        "are exactly the dependencies that are stated"
    )


def _words(provenance: Provenance, subjects: list[tuple[str, str]]) -> str:
    nix = provenance.internal.get("nix") or {}
    lines = [f"builder     {provenance.builder_id}", f"build type  {provenance.build_type}"]
    lines.append(
        f"nix         {nix.get('version')} {nix.get('system')}, sandbox {_yes(nix.get('sandbox'))}, "
        f"fallback {_yes(nix.get('sandboxFallback'))}, build users {_yes(nix.get('buildUsers'))}"
    )
    lines += [f"made        {name}  sha256:{digest}" for name, digest in subjects]
    lines.append(f"from        {len(provenance.dependencies)} inputs:")
    for item in provenance.dependencies:
        digest = ", ".join(f"{name}:{value}" for name, value in item.digests)
        lines.append(f"  {item.name}  {digest}")
    return "\n".join(lines)


def _yes(value: object) -> str:
    return {True: "on", False: "off"}.get(value, repr(value)) if isinstance(value, bool) else repr(value)
