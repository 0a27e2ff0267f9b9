"""``tally sbom export`` and ``tally sbom merge``: SBOMs as other files. What a format has no place for is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.output import JsonFlag, emit

if TYPE_CHECKING:
    from tallystick.formats.cyclonedx import Document

FORMATS = ("spdx-2.3", "cyclonedx-1.6", "cyclonedx-1.7")
Out = Annotated[Path, typer.Option("-o", "--out", help="The file to write.")]


def export(
    source: Annotated[Path, typer.Argument(metavar="DIR|FILE", help="A release, or a CycloneDX file.")],
    out: Out,
    form: Annotated[
        str, typer.Option("--format", help="spdx-2.3, cyclonedx-1.6 or cyclonedx-1.7.")
    ] = "spdx-2.3",
    as_json: JsonFlag = False,
) -> None:
    """Write an SBOM as SPDX 2.3, or under another version of CycloneDX.

    CycloneDX keeps every field, or is refused (exit 3) where the other version has no such field. SPDX 2.3 has no
    place for evidence, compositions, formulation and properties: each is counted by name.
    """
    from tallystick import __version__
    from tallystick.core import jsondoc
    from tallystick.core.digests import Digest
    from tallystick.core.errors import Misuse
    from tallystick.core.files import write_file
    from tallystick.formats import cyclonedx, spdx
    from tallystick.sbom.schema import spdx_ids

    if form not in FORMATS:
        raise Misuse(f"--format takes {', '.join(FORMATS)}, not {form}", code="sbom.format")
    document = read(source)
    left: tuple[tuple[str, int], ...] = ()
    if form == "spdx-2.3":
        exported = spdx.export(document, f"tallystick-{__version__}", spdx_ids())
        data, left = jsondoc.dumps(exported.document), exported.left_out
    else:
        version = form.removeprefix("cyclonedx-")
        named = {"specVersion": version, "$schema": f"http://cyclonedx.org/schema/bom-{version}.schema.json"}
        check(document | named)
        data = cyclonedx.canonical(document | named)
    write_file(out, data)
    found = {"file": str(out), "format": form, "digest": str(Digest.of(data)), "left_out": dict(left)}
    words = [
        f"{out}: {form}, {Digest.of(data)}",
        *(f"  has no place for {name}: {count}" for name, count in left),
    ]
    emit(found, "\n".join(words), as_json=as_json)


def merge(
    sources: Annotated[
        list[Path], typer.Argument(metavar="DIR|FILE...", help="Two or more releases or CycloneDX files.")
    ],
    out: Out,
    name: Annotated[str, typer.Option("--name", help="What they are put together to.")],
    version: Annotated[str, typer.Option("--version", help="Its version.")],
    as_json: JsonFlag = False,
) -> None:
    """Merge the SBOMs of an image, its firmware and its model into one CycloneDX document.

    Every field is kept, and what can not be is refused (exit 6). References that mean different things are told apart.
    """
    from tallystick.core.digests import Digest
    from tallystick.core.errors import Misuse
    from tallystick.core.files import write_file
    from tallystick.formats import cyclonedx
    from tallystick.sbom import merge as merging

    if len(sources) < 2:
        raise Misuse("name two SBOMs or more", code="sbom.merge.one")
    merged = merging.merge([(str(source), read(source)) for source in sources], name=name, version=version)
    check(merged.document)
    data = cyclonedx.canonical(merged.document)
    write_file(out, data)
    count = sum(1 for _ in cyclonedx.components(merged.document))
    found = {
        "file": str(out),
        "digest": str(Digest.of(data)),
        "components": count,
        "left_out": list(merged.left_out),
    }
    words = [f"{out}: {count} components of {len(sources)} documents, {Digest.of(data)}"]
    words += [f"  left out: {one}" for one in merged.left_out]
    emit(found, "\n".join(words), as_json=as_json)


def read(source: Path) -> Document:
    """Return the SBOM of a release directory, or of a file, once it holds by its schema and its own references.

    Raises:
        Malformed, Unsupported: it does not. Misuse: no such file.
    """
    from tallystick.core.files import read_file
    from tallystick.formats import cyclonedx
    from tallystick.report.folder import ReleaseFolder

    if source.is_dir():
        statement = ReleaseFolder.open(source).statement("sbom")
        document = cyclonedx.checked(statement.predicate, f"{source}: statements/sbom.json")
    else:
        document = cyclonedx.parse(read_file(source, str(source), max_bytes=cyclonedx.MAX_BYTES), str(source))
    check(document)
    return document


def check(document: Document) -> None:
    """Do nothing when ``document`` holds by its schema and its own references.

    Raises:
        Malformed: with every finding.
    """
    from tallystick.core.errors import Malformed
    from tallystick.sbom.check import check_document

    findings = check_document(document)
    if findings:
        first = findings[0]
        error = Malformed("SBOM", at=first.where, want=first.want, got=first.got, code=first.code)
        error.findings = findings
        raise error
