"""Which derivation or source a component came out of, matched by hash and never by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tallystick.build.records import Component, Product
from tallystick.core import jsondoc
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed
from tallystick.formats import nixstore
from tallystick.formats.drv import Derivation
from tallystick.formats.drvgraph import Graph


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a component is in the Nix store, and the derivation that fetched it; "" for a local source."""

    path: str
    drv: str


def origins(graph: Graph, components: Iterable[Component]) -> dict[str, Origin]:
    """Return the origin of every component that the graph knows, by component ref.

    A package is the fixed output of its own hash. The project's source is a store path, which is made from
    the hash of its NAR: the path that the hash leads to has to be among the graph's sources.
    """
    flat: dict[str, Origin] = {}
    recursive: dict[str, Origin] = {}
    for path, step in graph.fixed():
        (out,) = step.outputs
        if out.algorithm == "sha256":
            flat.setdefault(out.hash, Origin(out.path, path))
        elif out.algorithm == "r:sha256":
            recursive.setdefault(out.hash, Origin(out.path, path))
    sources = graph.sources()
    names = {nixstore.name_of(path) for path in sources}
    found: dict[str, Origin] = {}
    for component in components:
        if component.digest.algorithm is not Algorithm.SHA256:
            continue
        if component.seed:
            origin = flat.get(component.digest.hex)
        else:
            origin = recursive.get(component.digest.hex)
            paths = {nixstore.source_path(component.digest.hex, name) for name in names}
            for path in sorted(paths.intersection(sources)):
                origin = Origin(path, "")
        if origin is not None:
            found[component.ref] = origin
    return found


def _kind(purl: str, step: Derivation) -> str:
    if step.variable("materials"):
        return "firmware"
    return "wheel" if purl.startswith("pkg:pypi/") else "deb"


def materials_of(graph: Graph, origin: Origin) -> tuple[tuple[str, Digest], ...]:
    """Return what a released file was made from, as its seed says it: (purl, SHA-256 of the archive).

    Raises:
        Malformed: the seed's list is none.
    """
    text = graph[origin.drv].variable("materials") if origin.drv in graph else ""
    if not text:
        return ()
    what = f"materials of {origin.path}"
    found = []
    for entry in jsondoc.loads(text.encode(), what):
        if not isinstance(entry, dict) or not isinstance(entry.get("purl"), str):
            raise Malformed(what, at="entry", want="a purl and a sha256", got=repr(entry))
        found.append((entry["purl"], Digest.parse(f"sha256:{entry.get('sha256')}")))
    return tuple(found)


def packages_of(graph: Graph, made: Product) -> tuple[Component, ...]:
    """Return the packages that ``made`` was taken out of: its derivation's own fixed inputs that have a purl.

    For files that no contents list speaks of, such as firmware.
    """
    found = []
    for path, _ in graph[made.drv].inputs if made.drv in graph else ():
        step = graph[path]
        if step.is_fixed and step.outputs[0].algorithm == "sha256" and (purl := step.variable("purl")):
            (out,) = step.outputs
            found.append(
                Component(
                    ref=purl,
                    kind=_kind(purl, step),
                    name=step.variable("pname") or nixstore.name_of(out.path),
                    version=step.variable("version"),
                    purl=purl,
                    licence=step.variable("licence") or "NOASSERTION",
                    seed=nixstore.name_of(out.path),
                    digest=Digest(Algorithm.SHA256, bytes.fromhex(out.hash)),
                )
            )
    return tuple(found)
