"""The statements of a release, as a build and every rebuild of it make them: the same inputs give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.build.recipe import Recipe
    from tallystick.build.records import Build
    from tallystick.measure.records import Measurement
    from tallystick.provenance.make import Source
    from tallystick.sbom.coverage import Coverage
    from tallystick.sbom.deployable import Known

INIT_DATA_FILE = "init-data.toml"


def measurements(
    recipe: Recipe, products: Mapping[str, bytes], firmware: Mapping[str, bytes], init_data: bytes | None
) -> bytes:
    """Return the statement with one release tuple for each platform and launch shape of ``recipe``.

    Args:
        products: bytes of each product that a platform starts, by name; others may be among them.
        firmware: bytes of each firmware file, by its name in the recipe.
        init_data: the document that the guest is bound to, or None when it gets none.

    Raises:
        Misuse: the recipe has no platform. Malformed, Unsupported: as ``measure.predict``.
    """
    from tallystick import __version__
    from tallystick.build.recipe import IMAGES, PRODUCTS
    from tallystick.core.digests import Digest
    from tallystick.handshake import initdata
    from tallystick.measure.predict import measure_release
    from tallystick.measure.shapes import LaunchShape
    from tallystick.measure.statement import to_statement

    if init_data is not None:
        initdata.parse(init_data)  # the guest would refuse what does not parse
    digest = None if init_data is None else Digest.of(init_data)
    found: list[Measurement] = []
    for platform in recipe.platforms:
        shapes = [LaunchShape.of(platform.platform, dict(values)) for values in platform.shapes()]
        launched = firmware[platform.firmware] if platform.firmware else b""
        image = products[IMAGES[platform.platform]]
        found += measure_release(image, launched, shapes, digest, f"tallystick {__version__}")
    if not found:
        raise Misuse("the recipe measures the image for no platform", code="platforms.none-or-twice")
    used = sorted({IMAGES[platform.platform] for platform in recipe.platforms})
    return to_statement(found, {Digest.of(products[name]): PRODUCTS[name] for name in used})


def coverage(build: Build, products: Mapping[str, bytes]) -> tuple[Coverage, ...]:
    """Return every product taken apart, after checking that each is what its contents list says.

    Raises:
        NotGenuine: a file is planted, swapped or missing; each is a finding.
    """
    from tallystick.core.errors import NotGenuine
    from tallystick.sbom.coverage import cover

    covered = cover(products, {one.product: one for one in build.contents})
    findings = [finding for one in covered for finding in one.findings]
    if findings:
        raise NotGenuine("the contents lists and the products differ", findings=findings)
    return covered


def sbom(build: Build, covered: tuple[Coverage, ...], known: Known, spec_version: str = "1.6") -> bytes:
    """Return the statement that carries the SBOM of ``build``.

    Args:
        covered: its products, taken apart.
        known: what the release's files say themselves (``sbom.known``).
        spec_version: of CycloneDX.
    """
    from tallystick.sbom import make, vendored
    from tallystick.sbom.links import links

    scanned = {one.product: one.scanned.files for one in covered}
    edges: dict[str, set[str]] = {}
    for contents in build.contents:
        for ref, needed in links(contents, scanned[contents.product]).items():
            edges.setdefault(ref, set()).update(needed)
    inside = vendored.of_release(build.contents, scanned, known)
    created = make.created_of(build)
    document = make.make(
        build, created=created, links=edges, known=known, inside=inside, spec_version=spec_version
    )
    return make.statement(build, document)


def provenance(build: Build, builder_id: str, source: Source | None) -> bytes:
    """Return the provenance statement of ``build``. It names no time and no run, so that equal builds are equal."""
    from tallystick.provenance import make

    return make.statement(build, builder_id=builder_id, source=source)
