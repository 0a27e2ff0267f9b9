"""``tally sbom``: what is in a release's products, and whether that is true."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.output import JsonFlag, command_app, emit
from tallystick.cli.sbom_files import check as check_holds
from tallystick.cli.sbom_files import export, merge
from tallystick.core.errors import NotGenuine

if TYPE_CHECKING:
    from tallystick.core.findings import Finding
    from tallystick.formats.cyclonedx import Document
    from tallystick.report.folder import ReleaseFolder
    from tallystick.sbom.completeness import Score
    from tallystick.sbom.coverage import Coverage

app = command_app("Show or check the SBOM of a release; export or merge SBOMs.")
app.command()(export)
app.command()(merge)

ReleaseDir = Annotated[Path, typer.Argument(metavar="DIR", help="The release directory.")]


@app.command()
def show(directory: ReleaseDir, as_json: JsonFlag = False) -> None:
    """Print the components of a release; with --json the CycloneDX document itself."""
    from tallystick.report.folder import ReleaseFolder

    folder = ReleaseFolder.open(directory)
    document = _document(folder)
    emit(document, _table(document), as_json=as_json)


@app.command()
def check(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The release directory, or a CycloneDX file alone.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Validate the SBOM, compare it with the contents lists, take every product apart, and score completeness.

    Exit 3: the document breaks CycloneDX or its own references. Exit 5: it, or a contents list, says something
    else than what is in the products. Of a file alone, anybody's, the document is checked and scored.
    """
    if directory.is_file():
        _check_file(directory, as_json=as_json)
        return
    from tallystick.report.folder import ReleaseFolder
    from tallystick.sbom import check as checks
    from tallystick.sbom.completeness import scores
    from tallystick.sbom.coverage import cover
    from tallystick.sbom.known import gather
    from tallystick.sbom.parts import firmware_name
    from tallystick.sbom.vendored import of_release

    folder = ReleaseFolder.open(directory)
    document = _document(folder)
    check_holds(document)
    digests = folder.product_digests()
    lists = folder.contents()
    firmware = {firmware_name(path): digest for path, digest in folder.firmware_digests().items()}
    covered = cover(folder.products(), lists)
    known = gather((entry.path for entry in folder.index.files), folder.read, folder.path)
    inside = of_release(lists.values(), {one.product: one.scanned.files for one in covered}, known)
    findings = (
        *_subjects(folder),
        *checks.check_contents(document, digests, tuple(lists.values()), firmware, known),
        *checks.check_inside(document, inside),
        *(finding for one in covered for finding in one.findings),
    )
    if findings:
        count = f"{len(findings)} thing{'s' if len(findings) != 1 else ''}"
        raise NotGenuine(f"{directory}: the SBOM and the products differ in {count}", findings=findings)
    scored = scores(document)
    emit(_verdict(folder, document, covered, scored), _words(document, covered, scored), as_json=as_json)


def _check_file(path: Path, *, as_json: bool) -> None:
    from tallystick.core.files import read_file
    from tallystick.formats import cyclonedx
    from tallystick.sbom.completeness import scores

    document = cyclonedx.parse(read_file(path, "SBOM", max_bytes=cyclonedx.MAX_BYTES))
    check_holds(document)
    count = sum(1 for _ in cyclonedx.components(document))
    scored = scores(document)
    found = {
        "spec_version": document["specVersion"],
        "components": count,
        "completeness": {score.standard: score.document() for score in scored},
    }
    words = [f"CycloneDX {document['specVersion']}, {count} components: valid", *_score_words(scored)]
    emit(found, "\n".join(words), as_json=as_json)


def _score_words(found: tuple[Score, ...]) -> list[str]:
    lines = []
    for score in found:
        lines.append(
            f"  {score.percent:>3} %  {score.title}: {score.met} of {len(score.elements)} elements whole"
        )
        for one in score.elements:
            if one.met < one.of:
                lines.append(
                    f"           {one.element}: {one.met} of {one.of}; not {', '.join(one.missing[:2])}"
                )
        if count := max((one.without_file for one in score.elements), default=0):
            lines.append(
                f"           {count} components are no file, and are asked for nothing that only a file has"
            )
    return lines


def _document(folder: ReleaseFolder) -> Document:
    from tallystick.core.errors import Unsupported
    from tallystick.formats import cyclonedx

    statement = folder.statement("sbom")
    if statement.predicate_type != cyclonedx.PREDICATE_TYPE:
        raise Unsupported(
            "statements/sbom.json",
            at="predicateType",
            want=cyclonedx.PREDICATE_TYPE,
            got=statement.predicate_type,
        )
    return cyclonedx.checked(statement.predicate, "statements/sbom.json")


def _subjects(folder: ReleaseFolder) -> list[Finding]:
    from tallystick.core.findings import Finding

    stated = {subject.name: dict(subject.digests) for subject in folder.statement("sbom").subjects}
    wanted = {path: {"sha256": folder.digest(path).hex} for _, path in folder.index.products}
    return [
        Finding(
            "sbom.subject", path, str(wanted.get(path, "no subject")), str(stated.get(path, "no subject"))
        )
        for path in sorted(stated.keys() | wanted.keys())
        if stated.get(path) != wanted.get(path)
    ]


def _verdict(
    folder: ReleaseFolder, document: Document, covered: tuple[Coverage, ...], scored: tuple[Score, ...]
) -> dict[str, Any]:
    return {
        "release": str(folder.index.digest),
        "spec_version": document["specVersion"],
        "components": len(document.get("components") or []),
        "unexplained_files": sum(one.unexplained_files for one in covered),
        "unexplained_bytes": sum(one.unexplained_bytes for one in covered),
        "products": [
            {
                "name": one.product,
                "files": one.files,
                "bytes": one.size_bytes,
                "unexplained_files": one.unexplained_files,
                "unexplained_bytes": one.unexplained_bytes,
            }
            for one in covered
        ],
        "completeness": {score.standard: score.document() for score in scored},
        "findings": [],
    }


def _words(document: Document, covered: tuple[Coverage, ...], scored: tuple[Score, ...]) -> str:
    count = len(document.get("components") or [])
    lines = [f"CycloneDX {document['specVersion']}, {count} components: valid, and true of the products"]
    for one in covered:
        lines.append(
            f"  {one.product:<10} {one.files:>6} files {one.size_bytes:>12,} bytes, "
            f"{one.unexplained_files} files and {one.unexplained_bytes} bytes unexplained"
        )
    return "\n".join([*lines, *_score_words(scored)])


def _table(document: Document) -> str:
    from tallystick.formats import cyclonedx

    rows = [("component", "version", "kind", "files", "licence")]
    for part in document.get("components") or []:
        evidence = part.get("evidence") or {}
        kind = cyclonedx.property_of(part, "tallystick:kind") or str(part.get("type"))
        count = str(len(evidence.get("occurrences") or [])) if evidence else ""
        rows.append((str(part.get("name")), str(part.get("version", "")), kind, count, _licence(part)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join((*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4])).rstrip()
        for row in rows
    ]
    lost = cyclonedx.property_of(document.get("metadata") or {}, "tallystick:unexplained-files")
    return "\n".join((*lines, "", f"unexplained files: {lost}"))


def _licence(part: Document) -> str:
    said = []
    for item in part.get("licenses") or []:
        licence = item.get("license") or {}
        said.append(str(item.get("expression") or licence.get("id") or licence.get("name")))
    return ", ".join(said)
