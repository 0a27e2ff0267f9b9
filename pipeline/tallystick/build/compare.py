"""Two builds of one recipe, compared byte by byte: what differs, and which step it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tallystick.build import contents
from tallystick.build.records import Build
from tallystick.core.findings import Finding
from tallystick.formats import drvgraph

_BLOCK_BYTES = 1 << 20


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
