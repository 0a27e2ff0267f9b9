"""Where a build's expressions, sources and locks lie: in a checkout, or in a release that carries its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tallystick.build import seeds
from tallystick.core.errors import Misuse
from tallystick.core.files import read_file, write_file

_GUEST_PACKAGES = ("core", "handshake", "attester")  # nix/default.nix has the same rule
_NOT_COPIED = ("lock", "released", "__pycache__", "source")  # locks and released files travel with the seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The folders that a build reads, and nothing else."""

    nix: Path  # holds default.nix
    source: Path  # holds tallystick/
    locks: Path  # holds <name>.json

    @property
    def released(self) -> Path:
        """The folder of the files that locks of the kind ``release`` pin; a release carries them as seeds."""
        return self.nix / "released"


def of_recipe(recipe: Path) -> Project:
    """Return the project of a recipe file: the nearest folder above it that has nix/default.nix.

    Raises:
        Misuse: there is none (``build.no-project``).
    """
    for folder in recipe.resolve().parents:
        if (folder / "nix/default.nix").is_file():
            return Project(nix=folder / "nix", source=folder / "pipeline", locks=folder / "nix/lock")
    raise Misuse(f"{recipe}: no folder above it holds nix/default.nix", code="build.no-project")


def of_release(folder: Path) -> Project:
    """Return the project that the release directory ``folder`` carries."""
    root = folder.resolve()
    return Project(nix=root / "nix", source=root / "nix/source", locks=root / "seeds" / seeds.LOCKS)


def copy(project: Project, to: Path) -> None:
    """Copy the expressions and the guest's sources to ``to``, from where they build the same derivations."""
    for path in _expressions(project.nix):
        _copy(path, to / path.relative_to(project.nix))
    for path in _sources(project.source):
        _copy(path, to / "source" / path.relative_to(project.source))


def _expressions(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts[0] not in _NOT_COPIED and not any(_skipped(part) for part in parts):
            yield path


def _skipped(part: str) -> bool:
    return part == "__pycache__" or part.startswith(".") or part == "result"


def _sources(folder: Path) -> Iterator[Path]:
    package = folder / "tallystick"
    yield package / "__init__.py"
    for name in _GUEST_PACKAGES:
        yield from sorted(path for path in (package / name).rglob("*.py") if path.is_file())


def _copy(path: Path, to: Path) -> None:
    """The owner's execute bit is part of what Nix hashes; the rest of the mode is not."""
    executable = path.stat().st_mode & 0o100
    write_file(to, read_file(path, "project file"), mode=0o755 if executable else 0o644)
