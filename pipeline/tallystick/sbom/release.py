"""The SBOM statement of a finished build: products scanned, lists proven true, links looked up, BOM made."""

from __future__ import annotations

from collections.abc import Mapping

from tallystick.build.records import Build
from tallystick.formats.cyclonedx import Document
from tallystick.sbom import coverage, make
from tallystick.sbom.coverage import Coverage
from tallystick.sbom.links import links


def describe(
    build: Build, products: Mapping[str, bytes | memoryview]
) -> tuple[Document, tuple[Coverage, ...]]:
    """Return the BOM of ``build`` and how much of each product it explains.

    Args:
        products: product name -> bytes of its file.

    Raises:
        NotGenuine: a contents list does not say what is in its product; every difference is a finding.
        Malformed, Unsupported: a product or the derivations can not be read.
    """
    lists = {contents.product: contents for contents in build.contents}
    covered = coverage.cover(products, lists)
    coverage.require(covered)
    edges: dict[str, set[str]] = {}
    for one in covered:
        if one.product in lists:
            for ref, needed in links(lists[one.product], one.scanned.files).items():
                edges.setdefault(ref, set()).update(needed)
    return make.make(build, created=make.created_of(build), links=edges), covered


def statement(build: Build, products: Mapping[str, bytes | memoryview]) -> bytes:
    """Return the in-toto statement with the BOM of ``build``; errors as :func:`describe`."""
    bom, _ = describe(build, products)
    return make.statement(build, bom)
