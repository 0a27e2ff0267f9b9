"""SLSA provenance of a build, from the texts of its derivations.

What every field means is written down in docs/buildtypes/nix-image-v1.md, whose URI is the build type.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tallystick import __version__
from tallystick.build.records import Build, NixFacts
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed
from tallystick.formats import drvgraph, intoto, nixstore, slsa
from tallystick.formats.drv import Derivation
from tallystick.formats.drvgraph import Graph
from tallystick.formats.slsa import Provenance, Resource

BUILD_TYPE = "https://tallystick.dev/buildtypes/nix-image/v1"
RECIPE_FILE = "recipe.yaml"
DERIVATIONS = "derivations/"  # folder of the derivations' texts in a release directory
REVISION = "source:gitCommit"  # annotation of a local source: the commit that its files are of
NAR_HASH = "narHash"  # SHA-256 of a Nix archive, in hex: never to be taken for the SHA-256 of a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The commit that the build's source was checked out from. A claim: the NAR hashes bind the content."""

    uri: str  # "git+https://…"
    commit: str  # hex


def statement(
    build: Build,
    *,
    builder_id: str,
    source: Source | None = None,
    invocation_id: str = "",
    started_on: str = "",
    finished_on: str = "",
) -> bytes:
    """Return the in-toto statement that says how every product of ``build`` was made.

    Args:
        builder_id: who builds; a verifier pairs it with the signer in its trust file.
        invocation_id, started_on, finished_on: of one run. Without them, equal builds give equal bytes.

    Raises:
        Malformed: the derivations are no graph, or a product's derivation is not in it.
    """
    graph = drvgraph.read(build.derivations)
    _check_products(build, graph)
    made = Provenance(
        build_type=BUILD_TYPE,
        external={"recipe": recipe_resource(build.recipe).document()},
        internal={"nix": nix_document(build.nix), "products": _products(build)},
        dependencies=tuple(dependencies(build, graph, source)),
        builder_id=builder_id,
        builder_version=(("nix", build.nix.version), ("tallystick", __version__)),
        byproducts=tuple(_byproducts(build, graph)),
        invocation_id=invocation_id,
        started_on=started_on,
        finished_on=finished_on,
    )
    subjects = [(product.path, {"sha256": product.digest.hex}) for product in build.products]
    return intoto.make(subjects, slsa.PREDICATE_TYPE, made.document())


def dependencies(build: Build, graph: Graph, source: Source | None) -> Iterator[Resource]:
    """Everything that came from outside: every fixed output, every local source, and the commit."""
    if source is not None:
        yield Resource(name="source", uri=source.uri, digests=(("gitCommit", source.commit),))
    for path, step in graph.fixed():
        yield fixed_output(path, step)
    hashes = dict(build.sources)
    for path in graph.sources():
        yield local_source(path, hashes.get(path), source)


def fixed_output(path: str, step: Derivation) -> Resource:
    """Return what a fixed-output derivation fetched. A NAR's hash is labelled as one."""
    (out,) = step.outputs
    label = out.algorithm
    if out.is_recursive:
        label = NAR_HASH if label == "r:sha256" else f"{NAR_HASH}-{label.removeprefix('r:')}"
    uri = _utf8(step.variable("purl") or step.variable("url") or step.variable("urls").split(" ")[0])
    return Resource(
        name=nixstore.name_of(out.path),
        uri=uri or f"nix-store:{out.path}",
        digests=((label, out.hash),),
        annotations=(("nix:drv", path), ("nix:output", out.path)),
    )


def local_source(path: str, nar: Digest | None, source: Source | None) -> Resource:
    """Return a store path that was copied from the builder's own files: its content by NAR hash, and its revision."""
    revision = () if source is None else ((REVISION, source.commit),)
    return Resource(
        name=nixstore.name_of(path),
        uri=f"nix-store:{path}",
        digests=((NAR_HASH, nar.hex),) if nar is not None else (),
        annotations=(("nix:output", path), *revision),
    )


def recipe_resource(recipe: bytes) -> Resource:
    """Return the recipe, whole: it is all that whoever asks for a build decides."""
    return Resource(
        name=RECIPE_FILE, digests=(("sha256", hashlib.sha256(recipe).hexdigest()),), content=recipe
    )


def nix_document(nix: NixFacts) -> dict[str, Any]:
    """Return how Nix ran, as internalParameters have it."""
    return {
        "version": nix.version,
        "system": nix.system,
        "sandbox": nix.sandbox,
        "sandboxFallback": nix.sandbox_fallback,
        "buildUsers": nix.build_users,
        "config": dict(nix.config),
    }


def roots(graph: Graph, drvs: frozenset[str]) -> tuple[str, ...]:
    """Return ``drvs`` and every other derivation that no derivation needs, sorted."""
    used = {needed for made in graph.derivations.values() for needed, _ in made.inputs}
    return tuple(sorted((set(graph.derivations) - used) | drvs))


def _check_products(build: Build, graph: Graph) -> None:
    for made in (*build.products, *build.firmware):
        if made.drv not in graph:
            raise Malformed("build", at=made.path, want="its derivation", got=made.drv)


def _products(build: Build) -> dict[str, Any]:
    return {
        product.name: {"path": product.path, "drv": product.drv, "output": product.output}
        for product in build.products
    }


def _byproducts(build: Build, graph: Graph) -> Iterator[Resource]:
    """The firmware that launches are measured with, and the texts of the graph's roots."""
    for made in build.firmware:
        yield Resource(
            name=made.path,
            digests=(("sha256", made.digest.hex),),
            annotations=(("nix:drv", made.drv), ("nix:output", made.output)),
        )
    texts = dict(build.derivations)
    asked = frozenset(made.drv for made in (*build.products, *build.firmware))
    for path in roots(graph, asked):
        yield Resource(
            name=f"{DERIVATIONS}{PurePosixPath(path).name}",
            digests=(("sha256", hashlib.sha256(texts[path]).hexdigest()),),
            annotations=(("nix:drv", path),),
        )


def _utf8(text: str) -> str:
    """Return ``text`` as JSON can carry it: derivations may hold bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
