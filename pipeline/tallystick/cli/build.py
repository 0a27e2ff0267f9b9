"""``tally build``: a release directory from a recipe, built twice, with its SBOM, provenance and measurements."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.output import JsonFlag, command_app, emit, progress
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.build.make import Made, Order
    from tallystick.provenance.make import Source

BUILDER_ID = "https://tallystick.local/builders/ci"
STATE = "TALLY_STATE"

app = command_app()


def state_folder(given: Path | None) -> Path:
    """Return where stores and Nix's configuration are kept: as given, else $TALLY_STATE, else the user's folder."""
    if given is not None:
        return given.resolve()
    if named := os.environ.get(STATE):
        return Path(named).resolve()
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Path(base).resolve() / "tallystick"


StateOption = Annotated[
    Path | None, typer.Option(help="Folder for the Nix store that stays; default $TALLY_STATE.")
]


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="The recipe, such as build/confidential-inference.yaml.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The release directory to write.")],
    init_data: Annotated[
        Path | None, typer.Option(help="Init-data that the guest extends into PCR 8; it is measured.")
    ] = None,
    state: StateOption = None,
    builder_id: Annotated[str, typer.Option(help="Who builds, as the provenance says it.")] = BUILDER_ID,
    source_uri: Annotated[str, typer.Option(help="Where the source was checked out from.")] = "",
    source_commit: Annotated[
        str, typer.Option(help="The commit of the source; in a checkout, files must be its own.")
    ] = "",
    cyclonedx: Annotated[
        str, typer.Option("--cyclonedx", help="Version of CycloneDX for the SBOM: 1.6 or 1.7.")
    ] = "1.6",
    as_json: JsonFlag = False,
) -> None:
    """Build an image with Nix, twice, with its SBOM, provenance and measurements. Nothing is signed.

    The second build happens in an empty store on another file system. Exit 8: the two differ.
    """
    from tallystick.build import git, make
    from tallystick.build.seeds import cache_folder
    from tallystick.core.files import read_file, whole_folder
    from tallystick.formats.cyclonedx import SPEC_VERSIONS

    source = _source(source_uri, source_commit)
    if cyclonedx not in SPEC_VERSIONS:
        raise Misuse(
            f"--cyclonedx takes {' or '.join(SPEC_VERSIONS)}, not {cyclonedx}", code="sbom.spec-version"
        )
    document = None if init_data is None else read_file(init_data, "init-data", max_bytes=1 << 20)
    order = make.order(recipe, cache_folder())
    if source is not None:
        git.check(source.commit, (order.project.nix, order.project.source / "tallystick"))
    _check_out(out)
    made = make.build(order, state=state_folder(state), say=progress)
    with whole_folder(out) as folder:
        progress("writing the release")
        digest = write(
            made,
            order,
            folder,
            builder_id=builder_id,
            source=source,
            init_data=document,
            cyclonedx=cyclonedx,
        )
    products = {
        product.name: {"path": product.path, "digest": str(product.digest), "size": product.size_bytes}
        for product in made.build.products
    }
    lines = [f"{one['digest']}  {one['size']:>10}  {one['path']}" for one in products.values()]
    seconds = ", ".join(f"{name} {spent:.1f} s" for name, spent in made.seconds)
    words = "\n".join([*lines, f"built twice with equal bytes ({seconds})", f"release {digest}"])
    emit({"release": digest, "directory": str(out), "products": products}, words, as_json=as_json)


def write(
    made: Made,
    order: Order,
    folder: Path,
    *,
    builder_id: str,
    source: Source | None,
    init_data: bytes | None,
    cyclonedx: str = "1.6",
) -> str:
    """Write the whole release into the empty ``folder`` and return its digest.

    Raises:
        NotGenuine: a product is not what its contents list says.
        Malformed, Unsupported: a product, firmware or init-data that can not be measured.
    """
    from tallystick.build import folder as release_folder
    from tallystick.cli import statements
    from tallystick.core.bulk import uncollected
    from tallystick.core.digests import Digest
    from tallystick.core.files import write_file
    from tallystick.release import index
    from tallystick.sbom.known import gather

    release_folder.write(made, order, folder)
    products = {name: file.read_bytes() for name, file in made.files}
    firmware = {name: file.read_bytes() for name, file in made.firmware}
    covered = statements.coverage(made.build, products)
    inside = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    known = gather(inside, lambda path: (folder / path).read_bytes(), folder)
    with uncollected():
        written = {
            "sbom": statements.sbom(made.build, covered, known, cyclonedx),
            "provenance": statements.provenance(made.build, builder_id, source),
        }
    if order.recipe.is_image:
        written["measurements"] = statements.measurements(order.recipe, products, firmware, init_data)
    for name, data in written.items():
        write_file(folder / "statements" / f"{name}.json", data)
    if init_data is not None:
        write_file(folder / statements.INIT_DATA_FILE, init_data)
    paths = {product.name: product.path for product in made.build.products}
    data = index.make(folder, name=made.build.name, version=made.build.version, products=paths)
    write_file(folder / index.FILE, data)
    return str(Digest.of(data))


def _source(uri: str, commit: str) -> Source | None:
    from tallystick.provenance.make import Source

    if bool(uri) != bool(commit):
        raise Misuse("--source-uri and --source-commit go together", code="build.source")
    return Source(uri=uri, commit=commit) if uri else None


def _check_out(out: Path) -> None:
    """Refuse to replace something that is no release: a mistyped path must not cost somebody's folder."""
    if out.exists() and not (out / "index.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise Misuse(f"{out} exists and is not a release directory", code="build.out")
