"""The parts of the chain page that are about one release: from its source to its rebuilds."""

from __future__ import annotations

from collections.abc import Iterator

from tallystick.report import tables
from tallystick.report import widgets as w
from tallystick.report.html import Element, el
from tallystick.report.records import ReleaseView

STAGES = (  # anchor, name; the order is the chain's
    ("source", "Source"),
    ("derivations", "Derivations"),
    ("image", "Image"),
    ("sbom", "SBOM"),
    ("provenance", "Provenance"),
    ("measurements", "Measurements"),
    ("signatures", "Signatures"),
    ("rebuild", "Rebuild"),
    ("promotion", "Promotion"),
    ("policies", "Policies"),
    ("decisions", "Key release"),
    ("log", "Log"),
)
NOT_GIVEN = "none was given for this page"
_NUMBER = {anchor: number for number, (anchor, _) in enumerate(STAGES, 1)}


def release_sections(release: ReleaseView, suffix: str) -> Iterator[Element]:
    """Yield the sections of one release; ``suffix`` keeps the anchors of several releases apart."""
    yield _source(release, suffix)
    yield _derivations(release, suffix)
    yield _image(release, suffix)
    yield _sbom(release, suffix)
    yield _provenance(release, suffix)
    yield _measurements(release, suffix)
    yield _signatures(release, suffix)
    yield _rebuild(release, suffix)


def section(anchor: str, suffix: str, title: str, why: str, *children: object) -> Element:
    """Return the numbered section of a stage."""
    return w.section(anchor + suffix, _NUMBER[anchor], title, why, *children)  # type: ignore[arg-type]


def empty(what: str) -> Element:
    """Return the words for a stage that nothing was given for: an absence is said, not left out."""
    return el("p", w.badge(what, "plain"))


def _source(release: ReleaseView, suffix: str) -> Element:
    build = release.build
    rows = [
        (one.name, one.kind, one.uri, w.code(" ".join(f"{name}:{value}" for name, value in one.digests)))
        for one in build.inputs
    ]
    kinds = {kind: sum(one.kind == kind for one in build.inputs) for kind in ("file", "tree", "source")}
    return section(
        "source",
        suffix,
        "Source and seeds",
        "Everything that came from outside, each by its hash. Nothing else could enter the build.",
        w.facts(
            (
                ("Recipe", w.digest(build.recipe)),
                ("Pinned files", f"{kinds['file']}"),
                ("Pinned trees", f"{kinds['tree']}"),
                ("The project's own sources", f"{kinds['source']}"),
            )
        ),
        w.more(
            f"All {w.count(len(rows), 'input')}",
            w.table("Inputs of the build", ("Name", "Kind", "From", "Hash"), rows),
        ),
    )


def _derivations(release: ReleaseView, suffix: str) -> Element:
    build = release.build
    outcome = (
        w.findings("What does not follow", build.findings)
        if build.findings
        else el("p", w.badge("every path follows from its text", "good"))
    )
    return section(
        "derivations",
        suffix,
        "Derivations",
        "The build steps as Nix hashed them. Every store path was recomputed from their texts, without Nix.",
        outcome,
        w.facts(
            (
                ("Build steps", f"{build.derivations:,}"),
                ("Outputs recomputed", f"{build.outputs:,}"),
                ("Fixed by a hash", f"{build.fixed_outputs:,}"),
            )
        ),
        w.more(
            "The roots of the graph",
            w.table(
                "Derivations that no other needs",
                ("File", "SHA-256 of its text"),
                ((w.code(name), w.digest(digest)) for name, digest in build.roots),
            ),
        ),
    )


def _image(release: ReleaseView, suffix: str) -> Element:
    rows = [
        (
            one.name,
            w.size(one.size_bytes),
            f"{one.files:,}",
            f"{one.unexplained_bytes:,}",
            w.digest(one.digest),
        )
        for one in release.products
    ]
    columns = ("Product", "Size", "Files inside", "Unexplained bytes", "SHA-256 of the file")
    drvs = [(one.name, w.code(one.path), w.code(one.drv)) for one in release.products]
    return section(
        "image",
        suffix,
        "Image",
        "What the build made. Each product was taken apart and compared with the list of what was put in.",
        w.table("Products", columns, rows, numbers="Size,Files inside,Unexplained bytes"),
        w.more("Where each came from", w.table("Derivations", ("Product", "File", "Derivation"), drvs)),
    )


def _sbom(release: ReleaseView, suffix: str) -> Element:
    sbom = release.sbom
    explained = sbom.unexplained_files == 0
    return section(
        "sbom",
        suffix,
        "SBOM",
        f"CycloneDX {sbom.spec_version}: every file in the products belongs to one of these components.",
        el(
            "p",
            w.badge("no unexplained file", "good")
            if explained
            else w.badge(f"{w.count(sbom.unexplained_files, 'unexplained file')}", "bad"),
        ),
        w.facts((("Statement", w.digest(sbom.statement)),)),
        tables.components(sbom.components),
    )


def _provenance(release: ReleaseView, suffix: str) -> Element:
    build = release.build
    return section(
        "provenance",
        suffix,
        "Provenance",
        "SLSA provenance v1: who built it, and how Nix really ran.",
        w.facts(
            (
                ("Builder", w.code(build.builder_id)),
                ("Build type", w.code(build.build_type)),
                *build.facts,
                ("Statement", w.digest(build.statement)),
            )
        ),
    )


def _measurements(release: ReleaseView, suffix: str) -> Element:
    return section(
        "measurements",
        suffix,
        "Measurements",
        "What a machine that runs this image must report, predicted from the files alone.",
        w.facts((("Statement", w.digest(release.measurements_statement)),)),
        [part for one in release.measurements for part in tables.release_tuple(one)],
    )


def _signatures(release: ReleaseView, suffix: str) -> Element:
    return section(
        "signatures",
        suffix,
        "Signatures",
        "Sigstore bundles, verified offline against the pinned trust file.",
        w.facts((("Release digest", w.digest(release.digest)),)),
        tables.signatures(release.signatures) if release.signatures else empty("not verified for this page"),
    )


def _rebuild(release: ReleaseView, suffix: str) -> Element:
    return section(
        "rebuild",
        suffix,
        "Rebuild",
        "Somebody else built it again from the same inputs and got the same bytes.",
        tables.rebuilds(release.rebuilds, release.rebuilds_needed) if release.rebuilds else empty(NOT_GIVEN),
        w.facts(("Link", [w.code(name), " ", w.digest(digest)]) for name, digest in release.links)
        if release.links
        else None,
    )
