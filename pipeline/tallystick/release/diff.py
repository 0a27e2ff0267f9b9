"""How two releases differ: components and files of each product, and measurements. Pure; nothing is verified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tallystick.build.contents import ComponentChange, component_changes
from tallystick.build.records import Contents
from tallystick.core.digests import Digest
from tallystick.measure.records import Measurement
from tallystick.release.records import Index

_MOST_INPUTS = 20  # that are listed by path


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two releases."""

    index: Index
    contents: tuple[Contents, ...]
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductChange:
    """One product that differs."""

    name: str
    before: Digest | None  # None: the product is new
    after: Digest | None  # None: the product is gone
    components: tuple[ComponentChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementChange:
    """One launch whose reference values differ."""

    platform: str
    shape: tuple[tuple[str, int | str], ...]
    values: tuple[tuple[str, str, str], ...]  # (name, before, after); "" where one side has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Everything in which two releases differ."""

    inputs: tuple[str, ...]  # files of recipe, seeds, nix and firmware that differ, by path
    products: tuple[ProductChange, ...]
    measurements: tuple[MeasurementChange, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The differences as lines for people."""
        if not (self.inputs or self.products or self.measurements):
            return ("the same inputs, products and measurements",)
        lines = [
            f"inputs: {len(self.inputs)} file(s) differ",
            *(f"  {path}" for path in self.inputs[:_MOST_INPUTS]),
        ]
        if len(self.inputs) > _MOST_INPUTS:
            lines.append(f"  and {len(self.inputs) - _MOST_INPUTS} more")
        for product in self.products:
            lines.append(f"{product.name}: {product.before or 'new'} -> {product.after or 'gone'}")
            lines += [f"  {change.words}" for change in product.components]
        for one in self.measurements:
            shape = ", ".join(f"{name} {value}" for name, value in one.shape)
            lines.append(f"{one.platform} ({shape}): {', '.join(name for name, _, _ in one.values)} differ")
        return tuple(lines)


def compare(before: Side, after: Side) -> Difference:
    """Return how ``after`` differs from ``before``; the same release differs in nothing."""
    return Difference(
        inputs=_inputs(before.index, after.index),
        products=_products(before, after),
        measurements=_measurements(before.measurements, after.measurements),
    )


def _inputs(before: Index, after: Index) -> tuple[str, ...]:
    old, new = ({e.path: e.digest for e in index.files if _is_input(e.path)} for index in (before, after))
    return tuple(sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path)))


def _is_input(path: str) -> bool:
    return path == "recipe.yaml" or path.startswith(("seeds/", "nix/", "firmware/", "init-data"))


def _products(before: Side, after: Side) -> tuple[ProductChange, ...]:
    old, new = _by_name(before.index), _by_name(after.index)
    lists = {one.product: _own(one) for one in before.contents}
    others = {one.product: _own(one) for one in after.contents}
    found = []
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) == new.get(name):
            continue
        nothing = Contents(product=name, files=(), components=())
        found.append(
            ProductChange(
                name=name,
                before=old.get(name),
                after=new.get(name),
                components=component_changes(lists.get(name, nothing), others.get(name, nothing)),
            )
        )
    return tuple(found)


def _own(contents: Contents) -> Contents:
    """A product without the products in it: what changed in those is said where they are."""
    return replace(contents, files=tuple(file for file in contents.files if not file.nested))


def _by_name(index: Index) -> dict[str, Digest]:
    return {name: entry.digest for name, path in index.products if (entry := index.file(path))}


def _measurements(
    before: Sequence[Measurement], after: Sequence[Measurement]
) -> tuple[MeasurementChange, ...]:
    """Launches are the same launch when platform and shape are."""
    old = {(one.platform, one.shape): dict(one.values) for one in before}
    new = {(one.platform, one.shape): dict(one.values) for one in after}
    found = []
    for key in sorted(old.keys() | new.keys(), key=repr):
        first, second = old.get(key, {}), new.get(key, {})
        changed = tuple(
            (name, first.get(name, ""), second.get(name, ""))
            for name in sorted(first.keys() | second.keys())
            if first.get(name) != second.get(name)
        )
        if changed:
            found.append(MeasurementChange(platform=key[0], shape=key[1], values=changed))
    return tuple(found)
