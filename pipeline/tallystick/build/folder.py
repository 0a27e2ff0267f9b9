"""The release directory, as far as the build fills it."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

from tallystick.build import project, seeds
from tallystick.build.make import Made, Order
from tallystick.core.errors import Unreachable
from tallystick.core.files import write_file


def write(made: Made, wanted: Order, folder: Path) -> None:
    """Write everything that the build made, and what building it again needs, into the empty ``folder``.

    Raises:
        Unreachable: the disk is full.
    """
    write_file(folder / "recipe.yaml", made.build.recipe)
    paths = {product.name: product.path for product in made.build.products}
    for name, file in made.files:
        _copy(file, folder / paths[name])
    for name, file in made.lists:
        _copy(file, folder / f"contents/{name}.json")
    launched = {one.name: one.path for one in made.build.firmware}
    for name, file in made.firmware:
        _copy(file, folder / launched[name])
    for path, text in made.build.derivations:
        write_file(folder / "derivations" / PurePosixPath(path).name, text)
    seeds.bundle(wanted.locks, wanted.cache, folder / "seeds")
    project.copy(wanted.project, folder / "nix")


def _copy(file: Path, to: Path) -> None:
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)
        to.chmod(0o644)
    except OSError as error:
        raise Unreachable(f"{to}: {error.strerror}", code="file.unwritable") from None
