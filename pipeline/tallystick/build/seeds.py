"""The seed cache: pinned files from outside, fetched once and checked at every use.

A seed that is in the cache (``TALLY_SEED_CACHE``) needs no network.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from tallystick.build import archive, debian, lock, nar, package, wheels
from tallystick.build.archive import Resolve
from tallystick.build.lock import Lock, Seed, Unpacked
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, Unreachable
from tallystick.core.files import file_digest, read_file, write_file
from tallystick.core.findings import Finding

CACHE = "TALLY_SEED_CACHE"
LOCKS = "lock"  # folder of a seed bundle that holds the lock files
_DEBIAN = ("debian", "debian-source")
Say = Callable[[str], None]


def cache_folder() -> Path:
    """Return the seed cache of this user."""
    if named := os.environ.get(CACHE):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "tallystick" / "seeds"


def read_locks(folder: Path, names: Iterable[tuple[str, str]]) -> tuple[Lock, ...]:
    """Return the locks that a recipe names, in its order.

    Args:
        names: (role, file name without .json).

    Raises:
        Misuse: no such file. Malformed, Unsupported: as :func:`lock.parse`, or a lock of another role.
    """
    found = []
    for role, name in names:
        what = f"lock {name}.json"
        one = lock.parse(read_file(folder / f"{name}.json", what), what)
        if one.role != role:
            raise Malformed(what, at="role", want=role, got=one.role)
        found.append(one)
    return tuple(found)


def all_seeds(locks: Iterable[Lock]) -> tuple[Seed, ...]:
    """Return every seed of ``locks`` once, by file name."""
    return tuple(
        sorted({seed.file: seed for one in locks for seed in one.seeds}.values(), key=lambda s: s.file)
    )


def fetch(locks: Iterable[Lock], cache: Path, say: Say, released: Path | None = None) -> None:
    """Bring every seed of ``locks`` that is missing into ``cache``; those that are there are checked.

    Args:
        released: the project's own released files, which locks of the kind ``release`` pin.

    Raises:
        NotGenuine: fetched bytes are not the pinned ones (``seeds.digest``).
        Unreachable: a seed can not be fetched; the code says why.
    """
    chosen = tuple(locks)
    missing = [seed for seed in all_seeds(chosen) if not is_good(cache / seed.file, seed)]
    if not missing:
        return
    size = sum(seed.size_bytes for seed in missing)
    say(f"fetching {len(missing)} seeds, {size / 1e6:.1f} MB, into {cache}")
    cache.mkdir(parents=True, exist_ok=True)
    wanted = {seed.file for seed in missing}
    debian_seeds = {seed.file for one in chosen if one.source.kind in _DEBIAN for seed in one.seeds}
    where = archive.bases() if wanted & debian_seeds else ()
    for one in chosen:
        seeds = [seed for seed in one.seeds if seed.file in wanted]
        if not seeds:
            continue
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as name:
            folder = Path(name)
            if one.source.kind == "pypi":
                wheels.download(seeds, one.source.python, folder)
            for seed in seeds:
                if one.source.kind in _DEBIAN:
                    archive.download(seed, folder / seed.file, where)
                elif one.source.kind == "release":
                    _copy_released(seed, one, released, folder / seed.file)
                _keep(folder / seed.file, seed, cache)
                say(f"  {seed.package} {seed.version}  {seed.size_bytes / 1e6:.1f} MB")


def _copy_released(seed: Seed, one: Lock, released: Path | None, to: Path) -> None:
    if released is None or not (released / seed.file).is_file():
        raise Unreachable(
            f"{seed.package} {seed.version} is not in this checkout; `tally build {one.source.recipe} -o DIR` makes "
            "the same bytes, and `tally seeds adopt DIR` puts them there",
            code="seeds.release",
        )
    write_file(to, read_file(released / seed.file, "released file"))


def check(locks: Iterable[Lock], folder: Path) -> None:
    """Check that every seed of ``locks`` is in ``folder`` with its pinned bytes; nothing is fetched.

    Raises:
        NotGenuine: one finding for each seed that is missing or other (``seeds.digest``, ``seeds.missing``).
    """
    findings = [
        found for seed in all_seeds(locks) if (found := _finding(folder / seed.file, seed)) is not None
    ]
    if findings:
        raise NotGenuine(f"{folder}: {len(findings)} seed(s) are not the pinned ones", findings=findings)


def is_good(path: Path, seed: Seed) -> bool:
    """Return whether ``path`` holds the pinned bytes of ``seed``."""
    return _finding(path, seed) is None


def unpacked(folder: Path, one: Lock) -> bytes:
    """Return the bytes of the file that ``one`` pins unpacked, out of its package in ``folder``.

    Raises:
        NotGenuine: the package's file is not the pinned one (``seeds.unpacked``).
    """
    if one.unpacked is None:
        raise ValueError(f"the lock of {one.role} pins nothing unpacked")
    data = package.member(read_file(folder / one.seeds[0].file, "seed"), one.unpacked.member)
    if Digest.of(data) != one.unpacked.digest:
        finding = Finding(
            "seeds.unpacked", one.unpacked.member, str(one.unpacked.digest), str(Digest.of(data))
        )
        raise NotGenuine(f"{one.seeds[0].file}: another {one.unpacked.member} inside", findings=[finding])
    return data


def bundle(locks: Iterable[tuple[str, Lock]], cache: Path, folder: Path) -> None:
    """Copy the seeds and their lock files into ``folder``, which then needs no network to be built from.

    Args:
        locks: (file name without .json, lock).
    """
    named = tuple(locks)
    check((one for _, one in named), cache)
    for seed in all_seeds(one for _, one in named):
        write_file(folder / seed.file, read_file(cache / seed.file, "seed"))
    for name, one in named:
        write_file(folder / LOCKS / f"{name}.json", lock.dumps(one))


def updated(old: Lock, resolve: Resolve) -> Lock:
    """Return ``old`` with the newest versions that its source has. Nothing is written.

    Licences are kept by package name; a package that is new gets NOASSERTION until a person has looked.

    Args:
        resolve: from :func:`archive.indexes`.

    Raises:
        Unreachable, Misuse: as :func:`archive.indexes` and :func:`wheels.resolve`.
    """
    licences = {seed.package: seed.licence for seed in old.seeds}
    if old.source.kind == "release":  # a new release is adopted, not resolved
        return old
    if old.source.kind == "pypi":
        return lock.Lock(role=old.role, source=old.source, seeds=wheels.resolve(old.source, licences))
    follows = (
        old.source.through and len(old.seeds) == 1
    )  # the kernel: each version is a package of another name
    usual = old.seeds[0].licence if follows else "NOASSERTION"
    seeds = tuple(
        debian.seed(found, suite=old.source.suite, licence=licences.get(found.name, usual))
        for found in resolve(old.source)
    )
    made = lock.Lock(role=old.role, source=old.source, seeds=seeds)
    if old.unpacked is None:
        return made
    return lock.Lock(
        role=old.role, source=old.source, seeds=seeds, unpacked=_pin_unpacked(made, old.unpacked.member)
    )


def _pin_unpacked(made: Lock, member: str) -> Unpacked:
    """Fetch the one package and pin the file inside it, and the folder that the bootstrap makes of it."""
    with tempfile.TemporaryDirectory(prefix="tallystick-seed-") as name:
        fetched, tree = Path(name) / "package", Path(name) / "tree"
        archive.download(made.seeds[0], fetched, archive.bases())
        if (found := _finding(fetched, made.seeds[0])) is not None:
            raise NotGenuine(f"{made.seeds[0].file}: not what the index says", findings=[found])
        data = package.member(fetched.read_bytes(), member)
        write_unpacked(tree, data)
        return Unpacked(member=member, digest=Digest.of(data), nar=nar.digest(tree))


def write_unpacked(folder: Path, data: bytes) -> None:
    """Write the folder that nix/bootstrap/seeds.nix expects: ``bin/busybox``, executable."""
    write_file(folder / "bin" / "busybox", data, mode=0o755)


def _keep(fetched: Path, seed: Seed, cache: Path) -> None:
    found = _finding(fetched, seed)
    if found is not None:
        raise NotGenuine(
            f"{seed.package} {seed.version}: the archive has other bytes than the lock", findings=[found]
        )
    try:
        fetched.replace(cache / seed.file)
    except OSError as error:
        raise Unreachable(f"{cache / seed.file}: {error.strerror}", code="file.unwritable") from None


def _finding(path: Path, seed: Seed) -> Finding | None:
    where = f"{seed.package} {seed.version}"
    if not path.is_file():
        return Finding("seeds.missing", where, f"the file {seed.file}", "no such file")
    size = path.stat().st_size
    if size != seed.size_bytes:
        return Finding("seeds.size", where, f"{seed.size_bytes} bytes", f"{size}")
    digest = file_digest(path)
    return None if digest == seed.digest else Finding("seeds.digest", where, str(seed.digest), str(digest))
