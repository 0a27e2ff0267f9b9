"""Two builds of one recipe, compared byte by byte: what differs, and which step it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tallystick.build import contents
from tallystick.build.records import Build, Contents
from tallystick.core.findings import Finding
from tallystick.formats import drvgraph, nixstore
from tallystick.formats.drvgraph import Graph

_BLOCK_BYTES = 1 << 20
_MOST_FILES = 200  # findings of one product; how many there are is said


def products(first: Build, second: Build) -> Iterator[Finding]:
    """Yield a finding for each product whose file differs, with the components whose files do."""
    made = {product.name: product for product in second.products}
    lists = {one.product: one for one in second.contents}
    before = {one.product: one for one in first.contents}
    for product in first.products:
        other = made.get(product.name)
        if other is None:
            yield Finding("build.product.missing", product.path, str(product.digest), "no such product")
        elif other.digest != product.digest:
            note = ""
            if product.name in before and product.name in lists:
                found = contents.component_changes(before[product.name], lists[product.name])
                note = (
                    "; ".join(change.words for change in found)
                    or "every listed file is the same: the container differs"
                )
            yield Finding("build.product.differs", product.path, str(product.digest), str(other.digest), note)


def files(before: Contents, after: Contents, build: Build, drv: str) -> Iterator[Finding]:
    """Yield a finding for each file of a product that differs, with the derivation that it comes from.

    That is the step that takes in the file's component; what no step takes in by itself comes from the product's own.

    Args:
        drv: the derivation that made the product.
    """
    graph = drvgraph.read(build.derivations)
    seeds = {one.ref: one for one in (*before.components, *after.components)}
    takers = {source: path for path in reversed(graph.order) for source in graph[path].sources}
    changed = contents.changes(before, after)
    for change in changed[:_MOST_FILES]:
        component = seeds.get(change.component)
        source = nixstore.fixed_path("sha256", component.digest.hex, component.seed) if component else ""
        owner = f"{component.name} {component.version}" if component else change.component
        want, got = (
            str(side.digest) if side is not None else "no such file" for side in (change.before, change.after)
        )
        note = f"{owner}, from {takers.get(source, drv)}"
        yield Finding("build.file.differs", f"{change.product}: {change.path}", want, got, note)
    if len(changed) > _MOST_FILES:
        yield Finding(
            "build.file.differs", after.product, f"{_MOST_FILES} shown", f"{len(changed)} files differ"
        )


def steps(build: Build, first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[Finding]:
    """Yield a finding for each step whose output differs although everything that it was made from is the same.

    Args:
        build: either build; both have the same derivations.
        first, second: NAR hash by output path, of the two stores.
    """
    graph = drvgraph.read(build.derivations)
    differing: set[str] = set()
    for path in graph.order:
        step = graph[path]
        changed = [o for o in step.outputs if first.get(o.path) != second.get(o.path)]
        if not changed:
            continue
        differing.add(path)
        if not any(needed in differing for needed, _ in step.inputs):
            for output in changed:
                name = f"{step.variable('name')} ({output.name})"
                want, got = first.get(output.path, "not built"), second.get(output.path, "not built")
                yield Finding("build.step.differs", name, want, got, f"from {path}")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputChange:
    """One input of a build that another build does not have as it is: a step's own text, or a local source."""

    kind: str  # "derivation" or "source"
    name: str  # without the store's hash: "rfc8785-0.1.4-py3-none-any.whl"
    before: str  # store path; "" where only the other build has one
    after: str


def changed_inputs(before: Graph, after: Graph) -> tuple[InputChange, ...]:
    """Return what two graphs of derivations differ in at the bottom, where all that it rests on is the same.

    Store paths of derivations and sources follow from their contents, so a path that both graphs have is the same
    input. A step above a changed one differs too and is not named.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for side, (graph, other) in enumerate(((before, after), (after, before))):
        shared = set(other.sources())
        for source in graph.sources():
            if source not in shared:
                found.setdefault(("source", nixstore.name_of(source)), ["", ""])[side] = source
        for path in graph.order:
            made = graph[path]
            below = all(needed in other for needed, _ in made.inputs) and shared.issuperset(made.sources)
            if path not in other and below:
                name = nixstore.name_of(path).removesuffix(".drv")
                found.setdefault(("derivation", name), ["", ""])[side] = path
    return tuple(
        InputChange(kind=kind, name=name, before=paths[0], after=paths[1])
        for (kind, name), paths in sorted(found.items())
    )


def first_difference(one: Path, other: Path) -> int | None:
    """Return the offset of the first byte in which two files differ, or None."""
    offset = 0
    with one.open("rb") as a, other.open("rb") as b:
        while True:
            left, right = a.read(_BLOCK_BYTES), b.read(_BLOCK_BYTES)
            if left != right:
                pairs = zip(left, right, strict=False)
                return offset + next(
                    (i for i, (x, y) in enumerate(pairs) if x != y), min(len(left), len(right))
                )
            if not left:
                return None
            offset += len(left)
