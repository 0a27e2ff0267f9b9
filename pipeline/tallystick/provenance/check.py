"""Provenance re-derived: from the released files and the texts of the derivations alone, without Nix.

Nothing here asks who signed: that is ``signing``'s question. This asks whether what was said follows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.core.findings import Finding
from tallystick.formats import drvgraph, nixstore, slsa
from tallystick.formats.drvgraph import Graph, Recomputed
from tallystick.formats.intoto import Statement
from tallystick.formats.slsa import Provenance, Resource
from tallystick.provenance import make

_HARDENING = (("sandbox", True), ("sandboxFallback", False), ("buildUsers", True))  # DESIGN.md, invariant 12

_SETTINGS = (("sandbox", "true"), ("sandbox-fallback", "false"), ("builders", ""), ("substituters", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What a release directory holds that its provenance speaks of."""

    products: Mapping[str, Digest]  # path in the release -> digest of the file, as it was read
    recipe: bytes
    derivations: tuple[tuple[str, bytes], ...]  # (store path, ATerm text)
    firmware: Mapping[str, Digest]  # path in the release -> digest of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The outcome: what the provenance says, what follows from the texts, and where the two part."""

    provenance: Provenance
    graph: Graph
    findings: tuple[Finding, ...]


def check(statement: Statement, released: Released) -> Checked:
    """Return ``statement`` re-derived from ``released``, with every difference.

    Raises:
        Malformed: the statement or a derivation does not parse, or the derivations are no graph.
        Unsupported: another predicate or build type.
    """
    provenance = slsa.parse(statement)
    if provenance.build_type != make.BUILD_TYPE:
        raise Unsupported("provenance", at="buildType", want=make.BUILD_TYPE, got=provenance.build_type)
    graph = drvgraph.read(released.derivations)
    return Checked(
        provenance=provenance,
        graph=graph,
        findings=(
            *_subjects(statement, released),
            *_recipe(provenance, released),
            *_nix(provenance),
            *_paths(graph),
            *_products(provenance, graph, released),
            *_dependencies(provenance, graph),
            *_byproducts(provenance, graph, released),
        ),
    )


def _subjects(statement: Statement, released: Released) -> Iterator[Finding]:
    """Every product is a subject by its file's SHA-256, and there is no other subject."""
    stated = {subject.name: dict(subject.digests) for subject in statement.subjects}
    for path in sorted(stated.keys() | released.products.keys()):
        if path not in released.products:
            yield Finding("provenance.subject.extra", path, "a product of the release", "no such file")
        elif path not in stated:
            yield Finding("provenance.subject.missing", path, "a subject", "none")
        else:
            yield from _differ(
                "provenance.subject.digest",
                path,
                released.products[path].hex,
                stated[path].get("sha256", "none"),
            )
    if len(stated) != len(statement.subjects):
        yield Finding("provenance.subject.duplicate", "subject", "each name once", "a name twice")


def _recipe(provenance: Provenance, released: Released) -> Iterator[Finding]:
    unknown = sorted(set(provenance.external) - {"recipe"})
    for name in unknown:  # SLSA: "verifiers SHOULD reject unrecognized fields in externalParameters"
        yield Finding("provenance.external.unknown", f"externalParameters.{name}", "only recipe", name)
    recipe = slsa.resource(provenance.external.get("recipe"), "externalParameters.recipe")
    want = hashlib.sha256(released.recipe).hexdigest()
    for where, got in (
        ("recipe digest", recipe.digest("sha256") or "none"),
        ("recipe content", hashlib.sha256(recipe.content).hexdigest()),
    ):
        yield from _differ("provenance.recipe", where, want, got)


def _nix(provenance: Provenance) -> Iterator[Finding]:
    """A build that ran without its walls proves nothing about its inputs."""
    nix = _object(provenance.internal, "nix", "internalParameters")
    for name, want in _HARDENING:
        if nix.get(name) is not want:
            where = f"internalParameters.nix.{name}"
            yield Finding("provenance.nix", where, str(want).lower(), str(nix.get(name)).lower())
    config = _object(nix, "config", "internalParameters.nix")
    for name, setting in _SETTINGS:
        if name in config and config[name] != setting:  # what was observed and what was set must not part
            where = f"internalParameters.nix.config.{name}"
            yield Finding("provenance.nix", where, setting or "nothing", str(config[name]))


def _paths(graph: Graph) -> Iterator[Finding]:
    """Every path follows from the texts. A changed text is named itself, not all that is built on it."""
    found = drvgraph.recompute(graph)
    changed = {path for path, made in found.items() if made.drv != path}
    for path in sorted(changed):
        yield Finding("provenance.drv.path", path, "the path that its text leads to", found[path].drv)
    spoiled = set(changed)
    for path in graph.order:
        if any(needed in spoiled for needed, _ in graph[path].inputs):
            spoiled.add(path)
        elif path not in changed:
            yield from _outputs(path, graph, found[path])


def _outputs(path: str, graph: Graph, found: Recomputed) -> Iterator[Finding]:
    paths = dict(found.outputs)
    for output in graph[path].outputs:
        where = f"{path} output {output.name}"
        yield from _differ("provenance.output.path", where, paths[output.name], output.path)
        if (variable := graph[path].variable(output.name)) != output.path:
            yield Finding("provenance.output.variable", where, output.path, variable or "none")


def _products(provenance: Provenance, graph: Graph, released: Released) -> Iterator[Finding]:
    products = _object(provenance.internal, "products", "internalParameters")
    named = {}
    for name, value in sorted(products.items()):
        where = f"internalParameters.products.{name}"
        fields = _object(products, name, "internalParameters.products")
        path, drv, output = (str(fields.get(key, "none")) for key in ("path", "drv", "output"))
        named[path] = value
        if path not in released.products:
            yield Finding("provenance.product.extra", where, "a product of the release", path)
        if drv not in graph:
            yield Finding("provenance.product.drv", where, "a derivation of this release", drv)
        elif output not in {made.path for made in graph[drv].outputs}:
            yield Finding("provenance.product.output", where, f"an output of {drv}", output)
    for path in sorted(released.products.keys() - named.keys()):
        yield Finding("provenance.product.missing", path, "the derivation that made it", "none")


def _dependencies(provenance: Provenance, graph: Graph) -> Iterator[Finding]:
    """The fixed outputs and sources of the graph are exactly the dependencies that are stated."""
    stated: dict[str, Resource] = {}
    commits = [one.digest("gitCommit") for one in provenance.dependencies if one.name == "source"]
    commit = next((one for one in commits if one), "")
    for dependency in provenance.dependencies:
        if dependency.name == "source" and dependency.digest("gitCommit"):
            continue  # a claim about where the sources were, which the texts can not confirm
        key = str(dependency.annotation("nix:drv") or dependency.annotation("nix:output"))
        if key in stated:
            yield Finding("provenance.dependency.duplicate", key, "each input once", "it twice")
        stated[key] = dependency
    fixed = {path: make.fixed_output(path, step) for path, step in graph.fixed()}
    sources = set(graph.sources())
    for key in sorted(stated.keys() - fixed.keys() - sources):
        yield Finding("provenance.dependency.extra", key, "an input of the derivations", stated[key].name)
    for key in sorted((fixed.keys() | sources) - stated.keys()):
        yield Finding("provenance.dependency.missing", key, "a resolved dependency", "none")
    for key, dependency in sorted(stated.items()):
        if key in fixed:
            want = " ".join(f"{name}:{value}" for name, value in fixed[key].digests)
            got = " ".join(f"{name}:{value}" for name, value in dependency.digests)
            yield from _differ("provenance.dependency.digest", dependency.name, want, got or "none")
        elif key in sources:
            yield from _source(key, dependency)
            got = str(dependency.annotation(make.REVISION) or "none")
            yield from _differ("provenance.source.commit", key, commit or "none", got)


def _source(path: str, dependency: Resource) -> Iterator[Finding]:
    """A source's store path is made from the hash of its NAR, so the two have to lead to each other."""
    nar = dependency.digest(make.NAR_HASH)
    if not nar or len(dependency.digests) != 1:
        got = ", ".join(name for name, _ in dependency.digests) or "none"
        yield Finding("provenance.source.digest", path, f"a {make.NAR_HASH} and nothing else", got)
        return
    yield from _differ(
        "provenance.source.path", path, path, nixstore.source_path(nar, nixstore.name_of(path))
    )


def _byproducts(provenance: Provenance, graph: Graph, released: Released) -> Iterator[Finding]:
    """The firmware is what was stated, and every derivation is below a stated root."""
    texts = dict(released.derivations)
    roots = {
        str(item.annotation("nix:drv")): item
        for item in provenance.byproducts
        if item.name.startswith(make.DERIVATIONS)
    }
    for path, item in sorted(roots.items()):
        if path not in texts:
            yield Finding("provenance.root.missing", item.name, "a derivation of this release", path)
            continue
        want = hashlib.sha256(texts[path]).hexdigest()
        yield from _differ("provenance.root.digest", path, want, item.digest("sha256") or "none")
    below = graph.closure(path for path in roots if path in graph)
    for path in sorted(set(graph.derivations) - below):
        yield Finding(
            "provenance.root.stray", path, "a derivation that some root needs", "one that none does"
        )
    stated = {item.name: item for item in provenance.byproducts if not item.name.startswith(make.DERIVATIONS)}
    for path in sorted(stated.keys() | released.firmware.keys()):
        want = released.firmware[path].hex if path in released.firmware else "no such file"
        got = (stated[path].digest("sha256") or "none") if path in stated else "no byproduct"
        yield from _differ("provenance.firmware", path, want, got)
        if path in stated:
            yield from _made_by(stated[path], graph)


def _made_by(item: Resource, graph: Graph) -> Iterator[Finding]:
    drv, output = str(item.annotation("nix:drv")), str(item.annotation("nix:output"))
    if drv not in graph or output not in {made.path for made in graph[drv].outputs}:
        yield Finding(
            "provenance.firmware.drv",
            item.name,
            "an output of this release's derivations",
            f"{output} of {drv}",
        )


def _differ(code: str, where: str, want: str, got: str) -> Iterator[Finding]:
    if want != got:
        yield Finding(code, where, want, got)


def _object(where: Mapping[str, Any], name: str, at: str) -> Mapping[str, Any]:
    value = where.get(name)
    if not isinstance(value, dict):
        raise Malformed("provenance", at=f"{at}.{name}", want="an object", got=type(value).__name__)
    return value
