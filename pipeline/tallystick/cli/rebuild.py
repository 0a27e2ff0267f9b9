"""``tally rebuild``: a release built again by somebody else, and a signed link when every byte agrees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallystick.cli.build import StateOption
from tallystick.cli.desks import As, Workdir
from tallystick.cli.output import JsonFlag, command_app, emit, progress

if TYPE_CHECKING:
    from tallystick.build.make import Rebuilt
    from tallystick.core.findings import Finding
    from tallystick.release.links import Artifacts
    from tallystick.release.records import Index

app = command_app()


@app.command()
def rebuild(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The release directory.")],
    name: As,
    workdir: Workdir = None,
    state: StateOption = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            help="URL of a Nix store that builds, such as ssh-ng://builder; NIX_SSHOPTS is for ssh. "
            "Default: this machine.",
        ),
    ] = None,
    nix: Annotated[
        Path | None,
        typer.Option("--nix", help="Folder with the programs of another Nix, such as /opt/nix-2.34/bin."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Build a release again from what it carries alone, in an empty store, and sign a link over what came out.

    The store is on a file system of its own where one can be mounted.

    Exit 8 and no link when a product, its contents or a measurement differs; the report says which and why.
    """
    from tallystick.build import make
    from tallystick.cli import desks
    from tallystick.cli.build import state_folder
    from tallystick.core.errors import NotReproducible, Unsupported
    from tallystick.release import beside, links
    from tallystick.release import index as indexes

    if store is not None and store.startswith("ssh://"):
        raise Unsupported(
            "Nix store", at="--store", want="ssh-ng://HOST: the older protocol can not build", got=store
        )
    who = desks.person_key(workdir, name)
    index = indexes.read(folder)
    indexes.check(folder, index)
    with _path_of(nix):
        rebuilt = make.rebuild(folder, state=state_folder(state), say=progress, remote=store)
    indexes.check(folder, index)  # nothing was swapped while it was built
    what = f"{index.name} {index.version} is not reproducible here: no link"
    if findings := (*rebuilt.findings, *differences(folder, index, rebuilt)):
        raise NotReproducible(what, findings=findings)
    artifacts = rebuilt_artifacts(folder, index, rebuilt)
    if findings := other_artifacts(index, artifacts):
        raise NotReproducible(what, findings=findings)
    file = f"{links.FOLDER}/{links.file_name(who.keyid)}"
    beside.add(folder, file, links.make(index.digest, artifacts, who))
    document = {
        "release": str(index.digest),
        "rebuilt_by": name,
        "rebuilt_with": {"nix": rebuilt.build.nix.version, "store": store or "empty store on this machine"},
        "link": file,
        "products": {path: str(digest) for path, digest in artifacts.products},
        "materials": {path: str(digest) for path, digest in artifacts.materials},
    }
    words = [f"rebuilt {index.name} {index.version} with the same bytes; link {document['link']}"]
    words += [f"  {digest}  {path}" for path, digest in artifacts.products]
    emit(document, "\n".join(words), as_json=as_json)


@contextmanager
def _path_of(nix: Path | None) -> Iterator[None]:
    """Let the programs of the Nix in ``nix`` be found first.

    Raises:
        Misuse: there are none (``nix.missing``).
    """
    from tallystick.core.errors import Misuse

    if nix is None:
        yield
        return
    if not (nix / "nix-store").is_file():
        raise Misuse(f"there is no nix-store in {nix}", code="nix.missing")
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(nix.resolve()), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def rebuilt_artifacts(folder: Path, index: Index, rebuilt: Rebuilt) -> Artifacts:
    """Return what the rebuild used and made. The measurements are calculated here, not copied.

    They are of the released image and firmware, which were found to be the rebuilt ones before this is called.
    """
    from tallystick.build.recipe import IMAGES, parse
    from tallystick.cli import statements
    from tallystick.core.digests import Digest
    from tallystick.core.files import read_file
    from tallystick.release import links
    from tallystick.release.layout_lint import MEASUREMENTS

    products = {product.path: product.digest for product in rebuilt.build.products}
    if "measurements" in dict(index.statements):  # a release of firmware alone has none
        init_data = folder / statements.INIT_DATA_FILE
        measured = statements.measurements(
            parse(rebuilt.build.recipe),
            {
                name: read_file(folder / path, "image")
                for name, path in index.products
                if name in IMAGES.values()
            },
            {one.name: read_file(folder / one.path, "firmware") for one in rebuilt.build.firmware},
            read_file(init_data, "init-data", max_bytes=1 << 20) if init_data.is_file() else None,
        )
        products[MEASUREMENTS] = Digest.of(measured)
    return links.Artifacts(
        materials=links.expected(index).materials, products=tuple(sorted(products.items()))
    )


def other_artifacts(index: Index, artifacts: Artifacts) -> tuple[Finding, ...]:
    """Return where what a link would say is not what the release says."""
    from tallystick.core.findings import Finding
    from tallystick.release import links

    released, made = dict(links.expected(index).products), dict(artifacts.products)
    return tuple(
        Finding(
            "rebuild.product.differs",
            path,
            want=str(released.get(path, "no such file")),
            got=str(made.get(path, "no such file")),
        )
        for path in sorted(released.keys() | made.keys())
        if released.get(path) != made.get(path)
    )


def differences(folder: Path, index: Index, rebuilt: Rebuilt) -> tuple[Finding, ...]:
    """Return where firmware, contents lists and derivations differ; the products have findings already."""
    from tallystick.build import contents
    from tallystick.core.files import read_file
    from tallystick.core.findings import Finding

    found = []
    for one in rebuilt.build.firmware:
        entry = index.file(one.path)
        if entry is None or entry.digest != one.digest:
            want = str(entry.digest) if entry else "no such file"
            found.append(Finding("rebuild.firmware.differs", one.path, want=want, got=str(one.digest)))
    for listed in rebuilt.build.contents:
        path = f"contents/{listed.product}.json"
        if contents.parse(read_file(folder / path, path), path) != listed:
            found.append(Finding("rebuild.contents.differs", path, want="the same list", got="another"))
    drvs = {f"derivations/{path.rpartition('/')[2]}": text for path, text in rebuilt.build.derivations}
    there = {entry.path for entry in index.under("derivations/")}
    for path in sorted(drvs.keys() ^ there):
        want, got = ("a step of the release", "none") if path in there else ("no such step", "a step")
        found.append(Finding("rebuild.derivation.differs", path, want=want, got=got))
    return tuple(found)
