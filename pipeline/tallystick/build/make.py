"""A recipe made into products with Nix: twice, in two stores, and attested only when every byte agrees."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tallystick.build import compare, contents, host, nar, probe, project, recipe, seeds
from tallystick.build import nix as tool
from tallystick.build.lock import Lock
from tallystick.build.nix import Expression, Nix, Say, Store
from tallystick.build.project import Project
from tallystick.build.recipe import Recipe
from tallystick.build.records import Build, NixFacts, Product
from tallystick.core.errors import NotReproducible
from tallystick.core.files import file_digest, read_file
from tallystick.core.findings import Finding
from tallystick.formats import nixstore

_SEED_FOLDER = "busybox-seed"  # the name that nix/bootstrap/seeds.nix gives it


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be built, and from where."""

    recipe: Recipe
    project: Project
    locks: tuple[tuple[str, Lock], ...]  # (file name without .json, lock)
    cache: Path  # folder that holds the seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A build whose bytes are known to be reproducible, and where they lie."""

    build: Build
    files: tuple[tuple[str, Path], ...]  # product name -> file in the store
    lists: tuple[tuple[str, Path], ...]  # product name -> contents list in the store
    firmware: tuple[tuple[str, Path], ...]  # firmware name -> file in the store
    seconds: tuple[tuple[str, float], ...]  # what took how long


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """An independent rebuild of a release, and where it differs from it."""

    build: Build
    findings: tuple[Finding, ...]  # empty: every product has the released bytes


def order(path: Path, cache: Path) -> Order:
    """Return the order that the recipe file ``path`` is, in the project that it lies in.

    Raises:
        Misuse, Malformed, Unsupported: a missing file, or one that does not parse.
    """
    text = read_file(path, "recipe", max_bytes=1 << 20)
    wanted = recipe.parse(text, path.name)
    return _order(wanted, project.of_recipe(path), cache)


def released_order(folder: Path) -> Order:
    """Return the order that the release directory ``folder`` was built from; it needs nothing outside it."""
    wanted = recipe.parse(read_file(folder / "recipe.yaml", "recipe", max_bytes=1 << 20))
    return _order(wanted, project.of_release(folder), folder.resolve() / "seeds")


def _order(wanted: Recipe, where: Project, cache: Path) -> Order:
    locks = seeds.read_locks(where.locks, wanted.locks)
    names = (name for _, name in wanted.locks)
    return Order(recipe=wanted, project=where, locks=tuple(zip(names, locks, strict=True)), cache=cache)


def build(wanted: Order, *, state: Path, say: Say) -> Made:
    """Return what ``wanted`` builds, after building it a second time in an empty store elsewhere.

    Args:
        state: folder for the store that stays, Nix's configuration and temporary files.

    Raises:
        NotReproducible: the two builds differ; the findings name the products and the first steps that differ.
        NotGenuine: a seed or a store path is not what it was. Unsandboxed, BuildFailed, Unreachable: Nix says why.
    """
    with host.stopping_cleanly():
        return _build_twice(wanted, state, say)


def _build_twice(wanted: Order, state: Path, say: Say) -> Made:
    clock = _Clock()
    seeds.fetch((lock for _, lock in wanted.locks), wanted.cache, say, wanted.project.released)
    clock.mark("seeds")
    nix = host.prepare(state)
    store = host.first_store(state)
    say("first build")
    facts = _prepare(nix, store, wanted, say)
    first = _produce(nix, store, wanted, facts, say)
    clock.mark("first build")
    with host.second_store(nix, state) as second:
        say(f"second build, in an empty store ({second.where})")
        _add_seeds(nix, second.store, wanted)
        other = _produce(nix, second.store, wanted, facts, say)
        clock.mark("second build")
        _compare(nix, store, first, second.store, other)
    clock.mark("comparison")
    noted = replace(facts, config=(*facts.config, ("tallystick:second-store", second.where)))
    return replace(first, build=replace(first.build, nix=noted), seconds=clock.marks())


def rebuild(folder: Path, *, state: Path, say: Say, remote: str | None = None) -> Rebuilt:
    """Build the release directory ``folder`` again from what it carries alone, in an empty store.

    Neither the network nor the seed cache is used. Whether the release is genuine is not asked here.

    Args:
        remote: URL of a Nix store that builds instead; what it made is copied here and compared.

    Raises:
        NotGenuine: a seed in the release is not the one that its lock pins. And as :func:`build`.
    """
    wanted = released_order(folder)
    seeds.check((lock for _, lock in wanted.locks), wanted.cache)
    nix = host.prepare(state)
    with host.stopping_cleanly(), host.second_store(nix, state) as second:
        say(f"rebuild, in an empty store ({second.where})")
        facts = _prepare(nix, second.store, wanted, say)
        made = _produce(nix, second.store, wanted, facts, say, remote)
        return Rebuilt(build=made.build, findings=tuple(_released_differences(folder, made)))


def _released_differences(folder: Path, made: Made) -> Iterator[Finding]:
    """Yield a finding for each product and firmware whose released bytes are not what was built now."""
    files = {**dict(made.files), **dict(made.firmware)}
    lists = {one.product: one for one in made.build.contents}
    for product in (*made.build.products, *made.build.firmware):
        released = folder / product.path
        digest = file_digest(released)
        if digest != product.digest:
            note = f"made by {product.drv}; first difference at byte "
            note += f"{compare.first_difference(released, files[product.name])}"
            if product.name in lists:
                text = read_file(folder / f"contents/{product.name}.json", "contents list")
                before, after = contents.parse(text), lists[product.name]
                found = contents.component_changes(before, after)
                note = "; ".join([note, *(change.words for change in found)])
                yield from compare.files(before, after, made.build, product.drv)
            yield Finding("build.product.differs", product.path, str(digest), str(product.digest), note)


def _prepare(nix: Nix, store: Store, wanted: Order, say: Say) -> NixFacts:
    _add_seeds(nix, store, wanted)
    return probe.observe(nix, store, expression(wanted), lambda _: None)


def expression(wanted: Order) -> Expression:
    """Return the Nix expression of ``wanted``."""
    where = wanted.project
    return Expression(
        file=where.nix / "default.nix",
        texts=(("recipe", wanted.recipe.for_nix()),),
        paths=(("source", where.source), ("locks", where.locks)),
        readable=(where.nix, where.source, where.locks),
    )


def _add_seeds(nix: Nix, store: Store, wanted: Order) -> None:
    """Add the seeds that the store does not have; each is hashed again, by us and by Nix."""
    locks = tuple(lock for _, lock in wanted.locks)
    chosen = seeds.all_seeds(locks)
    paths = {nixstore.fixed_path("sha256", seed.digest.hex, seed.file): seed for seed in chosen}
    missing = tool.has(nix, store, paths)
    if missing:
        seeds.check(locks, wanted.cache)
        tool.add_files(nix, store, sorted(wanted.cache / paths[path].file for path in missing))
    for lock in locks:
        if lock.unpacked is None:
            continue
        path = nixstore.source_path(lock.unpacked.nar.hex, _SEED_FOLDER)
        if tool.has(nix, store, [path]):
            with tempfile.TemporaryDirectory(prefix="tallystick-seed-") as name:
                seeds.write_unpacked(Path(name) / _SEED_FOLDER, seeds.unpacked(wanted.cache, lock))
                tool.add_folder(nix, store, Path(name) / _SEED_FOLDER)


def _produce(
    nix: Nix, store: Store, wanted: Order, facts: NixFacts, say: Say, remote: str | None = None
) -> Made:
    """Evaluate and build everything in one store, check the store, and read what was made."""
    index = tool.evaluate(nix, store, expression(wanted), "index")
    entries, firmware = index["products"], sorted(index["firmware"].items())
    drvs = sorted({entry["drv"] for entry in (*entries.values(), *index["firmware"].values())})
    if remote is None:
        tool.realise(nix, store, drvs, say)
    else:
        say(f"building at {remote}")
        tool.realise_at(nix, store, drvs, remote, say)
    tool.verify(nix, store, _built(tool.closure(nix, store, drvs, "--include-outputs")))
    needed = tool.closure(nix, store, drvs)
    lists = {name: store.real(entries[name]["contents"]) for name in wanted.recipe.products}
    made = Build(
        name=wanted.recipe.name,
        version=wanted.recipe.version,
        recipe=wanted.recipe.text,
        products=tuple(_product(name, entries[name], store) for name in wanted.recipe.products),
        contents=tuple(
            contents.parse(read_file(path, "contents list"), f"contents of {name}")
            for name, path in lists.items()
        ),
        derivations=tuple((path, store.real(path).read_bytes()) for path in needed if path.endswith(".drv")),
        nix=facts,
        firmware=tuple(_firmware(name, entry, store) for name, entry in firmware),
        sources=tuple((path, nar.digest(store.real(path))) for path in needed if not path.endswith(".drv")),
    )
    return Made(
        build=made,
        files=tuple((product.name, store.real(product.output)) for product in made.products),
        lists=tuple(lists.items()),
        firmware=tuple((name, store.real(entry["file"])) for name, entry in firmware),
        seconds=(),
    )


def _built(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(path for path in paths if not path.endswith(".drv"))


def _product(name: str, entry: dict[str, str], store: Store) -> Product:
    file = store.real(entry["out"])
    return Product(
        name=name,
        path=recipe.PRODUCTS[name],
        digest=file_digest(file),
        size_bytes=file.stat().st_size,
        drv=entry["drv"],
        output=entry["out"],
    )


def _firmware(name: str, entry: dict[str, str], store: Store) -> Product:
    file = store.real(entry["file"])
    return Product(
        name=name,
        path=f"firmware/{name}.fd",
        digest=file_digest(file),
        size_bytes=file.stat().st_size,
        drv=entry["drv"],
        output=entry["output"],
    )


def _compare(nix: Nix, store: Store, first: Made, other_store: Store, other: Made) -> None:
    if first.build.derivations != other.build.derivations:
        finding = Finding("build.derivations", "derivations", "the same in both stores", "different ones")
        raise NotReproducible("the recipe evaluates differently in two stores", findings=[finding])
    findings = list(compare.products(first.build, other.build))
    if first.build.firmware != other.build.firmware:
        findings.append(
            Finding("build.firmware.differs", "firmware", "the same in both stores", "different bytes")
        )
    if first.build.contents != other.build.contents:
        findings.append(
            Finding("build.contents.differs", "contents lists", "the same in both stores", "different ones")
        )
    if findings:
        drvs = [product.drv for product in first.build.products]
        outputs = _built(tool.closure(nix, store, drvs, "--include-outputs"))
        here, there = tool.hashes(nix, store, outputs), tool.hashes(nix, other_store, outputs)
        findings += compare.steps(first.build, here, there)
        raise NotReproducible("two builds of the same inputs differ", findings=findings)


class _Clock:
    """How long each part took."""

    def __init__(self) -> None:
        self._marks: list[tuple[str, float]] = []
        self._last = time.monotonic()

    def mark(self, name: str) -> None:
        now = time.monotonic()
        self._marks.append((name, round(now - self._last, 2)))
        self._last = now

    def marks(self) -> tuple[tuple[str, float], ...]:
        return tuple(self._marks)
