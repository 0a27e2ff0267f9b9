"""What a release's own files say beyond its lists, gathered: the same when it is built and when it is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from tallystick.build import nar, recipe, seedfacts
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import TallystickError
from tallystick.sbom.deployable import FileFacts, Known, of_file

_RECIPE, _SEEDS, _FILES = "recipe.yaml", "seeds", ("products", "firmware")
_SOURCE = "nix/source"  # this project's own code, as build.project copies it


def gather(paths: Iterable[str], read: Callable[[str], bytes], folder: Path) -> Known:
    """Return what is known of the release in ``folder``.

    Args:
        paths: of its files, "seeds/…", "products/…" and others.
        read: gives the bytes of one of them, after comparing it with the release index where there is one.

    Raises:
        Malformed: a seed is no package. And what ``read`` raises.
    """
    files: dict[str, FileFacts] = {}
    manufacturer = None
    seeds: dict[str, tuple[seedfacts.SeedFacts, FileFacts]] = {}
    for path in paths:
        where, _, name = path.partition("/")
        if where in _FILES:
            files[path] = of_file(read(path))
        elif where == _SEEDS and "/" not in name and not name.endswith(".json"):
            data = read(path)
            seeds[name] = (seedfacts.read(name, data), of_file(data))
        elif path == _RECIPE:
            with suppress(TallystickError):  # whether the recipe holds is not asked here
                manufacturer = recipe.parse(read(path), path).manufacturer
    return Known(manufacturer=manufacturer, files=files, seeds=seeds, trees=_tree(folder / _SOURCE))


def _tree(folder: Path) -> dict[Digest, Digest]:
    """A folder that is not what a component's NAR hash names matches none, so it needs no check here."""
    return {nar.digest(folder): nar.digest(folder, Algorithm.SHA512)} if folder.is_dir() else {}
