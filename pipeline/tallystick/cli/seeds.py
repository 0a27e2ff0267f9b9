"""``tally seeds``: the pinned inputs of a build, updated, fetched or bundled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tallystick.cli.output import JsonFlag, command_app, emit, progress
from tallystick.core.errors import Misuse

if TYPE_CHECKING:
    from tallystick.build.lock import Lock

app = command_app("Update, fetch or bundle the pinned inputs of a build.")

RecipeFile = Annotated[Path, typer.Argument(help="The recipe whose locks are meant.")]
_RECIPE = Path("build/confidential-inference.yaml")
_FIRMWARE = Path("build/firmware.yaml")


@app.command()
def fetch(recipe: RecipeFile = _RECIPE, as_json: JsonFlag = False) -> None:
    """Bring every seed into the cache and check it, so that a build needs no network."""
    from tallystick.build import make, seeds

    order = make.order(recipe, seeds.cache_folder())
    locks = [lock for _, lock in order.locks]
    seeds.fetch(locks, order.cache, progress, order.project.released)
    _emit(order.cache, locks, as_json=as_json)


@app.command()
def bundle(
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write.")],
    recipe: RecipeFile = _RECIPE,
    as_json: JsonFlag = False,
) -> None:
    """Write every seed and its lock into one folder, which serves as a cache elsewhere ($TALLY_SEED_CACHE)."""
    from tallystick.build import make, seeds
    from tallystick.core.files import whole_folder

    order = make.order(recipe, seeds.cache_folder())
    locks = [lock for _, lock in order.locks]
    if out.exists() and any(out.iterdir()) and not (out / seeds.LOCKS).is_dir():
        raise Misuse(f"{out} exists and is not a seed bundle", code="seeds.out")
    seeds.fetch(locks, order.cache, progress, order.project.released)
    with whole_folder(out) as folder:
        seeds.bundle(order.locks, order.cache, folder)
    _emit(out, locks, as_json=as_json)


@app.command()
def adopt(
    release: Annotated[Path, typer.Argument(help="A firmware release that `tally build` made.")],
    recipe: Annotated[Path, typer.Option(help="The recipe that built it.")] = _FIRMWARE,
    name: Annotated[str, typer.Option(help="The lock file to write, without .json.")] = "released",
    as_json: JsonFlag = False,
) -> None:
    """Pin the files of a firmware release in this checkout, so that recipes can name them by digest.

    The release's files are compared with its index; whether it is genuine is the question of `tally verify`.
    """
    from tallystick.build import lock, project, released
    from tallystick.core.files import read_file, write_file
    from tallystick.release import index as indexes

    where = project.of_recipe(recipe)
    index = indexes.read(release)
    indexes.check(release, index)
    paths = dict(index.products)
    lists = {one: read_file(release / f"contents/{one}.json", "contents list") for one in paths}
    made = released.lock_of(
        recipe=f"build/{recipe.name}",
        release=index.digest,
        version=index.version,
        products={one: read_file(release / path, "firmware") for one, path in paths.items()},
        lists=lists,
        provenance=read_file(release / "statements/provenance.json", "provenance", max_bytes=256 << 20),
    )
    for seed in made.seeds:
        write_file(where.released / seed.file, read_file(release / paths[seed.package], "firmware"))
    write_file(where.locks / f"{name}.json", lock.dumps(made))
    lines = [f"{seed.digest}  {seed.file}" for seed in made.seeds]
    emit(
        {"lock": f"{name}.json", "files": {seed.file: str(seed.digest) for seed in made.seeds}},
        "\n".join(lines),
        as_json=as_json,
    )


@app.command()
def update(recipe: RecipeFile = _RECIPE, as_json: JsonFlag = False) -> None:
    """Pin the newest versions of the suites that the recipe's locks name; the lock files are rewritten.

    apt verifies the suite's index with Debian's archive key. Review the difference like any other change.
    """
    from tallystick.build import archive, lock, make, seeds
    from tallystick.core.files import write_file

    order = make.order(recipe, seeds.cache_folder())
    changes: list[dict[str, str]] = []
    made = []
    with archive.indexes() as resolve:
        for name, old in order.locks:
            progress(f"{name}: {old.source.suite or 'wheels'}")
            new = seeds.updated(old, resolve)
            made.append((name, new))
            changes += _changes(name, old, new)
    for name, new in made:  # all or nothing: a lock that could not be resolved leaves every file as it was
        write_file(order.project.locks / f"{name}.json", lock.dumps(new))
    lines = [f"{one['lock']}: {one['package']} {one['before']} -> {one['after']}" for one in changes]
    emit({"changes": changes}, "\n".join(lines) or "every lock is up to date", as_json=as_json)


def _changes(name: str, old: Lock, new: Lock) -> list[dict[str, str]]:
    before = {seed.package: seed.version for seed in old.seeds}
    after = {seed.package: seed.version for seed in new.seeds}
    return [
        {
            "lock": name,
            "package": package,
            "before": before.get(package, "none"),
            "after": after.get(package, "none"),
        }
        for package in sorted(before.keys() | after.keys())
        if before.get(package) != after.get(package)
    ]


def _emit(folder: Path, locks: list[Lock], *, as_json: bool) -> None:
    from tallystick.build import seeds

    found = seeds.all_seeds(locks)
    document: dict[str, Any] = {
        "folder": str(folder),
        "seeds": [
            {"package": seed.package, "version": seed.version, "file": seed.file, "size": seed.size_bytes}
            for seed in found
        ],
    }
    total = sum(seed.size_bytes for seed in found)
    lines = [f"{seed.size_bytes:>10}  {seed.package} {seed.version}" for seed in found]
    words = "\n".join([*lines, f"{total:>10}  {len(found)} seeds in {folder}"])
    emit(document, words, as_json=as_json)
