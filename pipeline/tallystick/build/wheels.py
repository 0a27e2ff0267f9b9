"""Wheels, through the machine's own pip and its configuration."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tallystick.build.lock import Seed, Source
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Unreachable
from tallystick.core.files import read_file

_TIMEOUT_SECONDS = 600
_WHEEL = re.compile(
    r"(?P<name>[^-]+)-(?P<version>[^-]+)(-[^-]+)?-[^-]+-[^-]+-(?P<platform>[^-]+)\.whl"
)  # PEP 427

# What the image's C library (Debian 12, glibc 2.36) can load: PEP 600, newest first, and the older name of 2.17.
_PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in range(36, 16, -1)), "manylinux2014_x86_64")


def download(seeds: Iterable[Seed], python: str, folder: Path) -> None:
    """Write the wheels of ``seeds`` into ``folder``; pip itself checks their hashes.

    Raises:
        Unreachable: there is no pip (``seeds.no-pip``), no index answers or has the version (``seeds.vanished``).
    """
    wanted = list(seeds)
    lines = [f"{seed.package}=={seed.version} --hash=sha256:{seed.digest.hex}\n" for seed in wanted]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", prefix="tallystick-") as requirements:
        requirements.writelines(lines)
        requirements.flush()
        done = _pip(python, folder, "--require-hashes", "--requirement", requirements.name)
    if done.returncode:
        names = ", ".join(f"{seed.package} {seed.version}" for seed in wanted)
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
        raise Unreachable(
            f"pip could not fetch {names}: {said[-1].removeprefix('ERROR: ')}; "
            "`tally seeds update` pins what the index has now",
            code="seeds.vanished" if "No matching distribution" in done.stderr else "seeds.unreachable",
        )


def resolve(source: Source, licences: dict[str, str]) -> tuple[Seed, ...]:
    """Return the newest wheels of what ``source`` asks for ("name" or "name==version"), sorted by name.

    Raises:
        Unreachable: as :func:`download`.
    """
    with tempfile.TemporaryDirectory(prefix="tallystick-wheels-") as name:
        folder = Path(name)
        done = _pip(source.python, folder, *source.packages)
        if done.returncode:
            raise Unreachable(f"pip: {done.stderr.strip()[-300:]}", code="seeds.unreachable")
        found = [_seed(path, licences) for path in sorted(folder.iterdir())]
    return tuple(sorted(found, key=lambda seed: seed.package))


def _seed(path: Path, licences: dict[str, str]) -> Seed:
    from packageurl import PackageURL

    match = _WHEEL.fullmatch(path.name)
    if match is None:
        raise Malformed("wheel", at="file name", want="name-version-python-abi-platform.whl", got=path.name)
    data = read_file(path, "wheel")
    package = re.sub(r"[-_.]+", "-", match["name"]).lower()  # PEP 503
    return Seed(
        package=package,
        version=match["version"],
        architecture="any" if match["platform"] == "any" else "x86_64",
        path=path.name,
        file=path.name,
        size_bytes=len(data),
        digest=Digest.of(data),
        purl=PackageURL("pypi", None, package, match["version"], {"file_name": path.name}).to_string(),
        licence=licences.get(package, "NOASSERTION"),
    )


def _pip(python: str, folder: Path, *what: str) -> subprocess.CompletedProcess[str]:
    options = [
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--disable-pip-version-check",
    ]
    options += ["--quiet", "--implementation", "cp", "--python-version", python]
    for abi in (f"cp{python.replace('.', '')}", "abi3", "none"):
        options += ["--abi", abi]
    for platform in _PLATFORMS:
        options += ["--platform", platform]
    command = [*_find_pip(), *options, "--dest", str(folder), *what]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)


def _find_pip() -> list[str]:
    """Return the command of a pip: this interpreter's, else the machine's."""
    own = [sys.executable, "-m", "pip"]
    if subprocess.run([*own, "--version"], capture_output=True, check=False).returncode == 0:
        return own
    for name in ("pip3", "pip"):
        if found := shutil.which(name):
            return [found]
    raise Unreachable("there is no pip to fetch wheels with: install python3-pip", code="seeds.no-pip")
