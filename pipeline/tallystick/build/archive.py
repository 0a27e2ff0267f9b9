"""Debian's archive, through the machine's own apt configuration; or a mirror that the user names.

No host is known here: apt says where Debian's packages are, and ``TALLY_DEBIAN_MIRROR`` says it by hand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tallystick.build.debian import Package, newest, packages, source_files
from tallystick.build.lock import Seed, Source
from tallystick.core.errors import Misuse, Unreachable

MIRROR = "TALLY_DEBIAN_MIRROR"
_HELPER = Path("/usr/lib/apt/apt-helper")  # downloads as apt does, proxies and certificates included
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TIMEOUT_SECONDS = 600
_TARGETS = ("apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)", "Created-By: Packages")
_MIRROR_LIST = "mirror+file:"  # apt-transport-mirror(1), as Debian's cloud images are configured


def bases() -> tuple[str, ...]:
    """Return where Debian's archive may be, the likeliest first; each ends in a slash.

    Raises:
        Unreachable: this machine has no Debian archive in its configuration and none was named
            (``seeds.no-debian-archive``).
    """
    if named := os.environ.get(MIRROR):
        return (named.rstrip("/") + "/",)
    found: list[str] = []
    if shutil.which("apt-get"):
        lines = _apt(*_TARGETS).splitlines()
        if lines:
            found = [
                base for base, _, origin in (line.partition(" ") for line in lines) if origin == "Debian"
            ]
        else:  # `apt-get update` never ran here, so that origins are not known: whoever has the file is right
            lines = _apt("apt-get", "indextargets", "--no-release-info", *_TARGETS[2:]).splitlines()
            found = [line.partition(" ")[0] for line in lines]
    if not found:
        raise Unreachable(
            "Debian's archive is not in this system's apt configuration; set "
            f"{MIRROR} to a Debian mirror's address, for example https://<mirror>/debian",
            code="seeds.no-debian-archive",
        )
    return tuple(dict.fromkeys(address for base in found for address in _addresses(base)))


def download(seed: Seed, to: Path, where: tuple[str, ...]) -> None:
    """Write the file of ``seed`` to ``to``. Whether its bytes are right is the caller's question.

    Args:
        where: the archive's addresses, from :func:`bases`.

    Raises:
        Unreachable: no archive has this version any more (``seeds.vanished``), or none answered
            (``seeds.unreachable``).
    """
    refused: list[str] = []
    for base in where:
        reason = _download(base + seed.path, to)
        if reason is None:
            return
        refused.append(reason)
    what = f"{seed.package} {seed.version}"
    if all(reason == "404" for reason in refused):
        raise Unreachable(
            f"{what} is no longer in Debian's archive ({seed.path}); "
            "`tally seeds update` pins what is there now, and a seed bundle of an earlier build still has it",
            code="seeds.vanished",
        )
    raise Unreachable(f"{what} could not be fetched: {refused[-1]}", code="seeds.unreachable")


Resolve = Callable[[Source], tuple[Package, ...]]


@contextmanager
def indexes() -> Iterator[Resolve]:
    """Give a function that returns the newest version of every package a source asks for, by name.

    apt itself fetches and verifies each suite's index, once, in a private folder that goes away with the block.

    Raises:
        Misuse: apt or Debian's keyring is missing. Unreachable: no archive has the suite, or a package. Both
            when the function is called.
    """
    with tempfile.TemporaryDirectory(prefix="tallystick-apt-") as name:
        fetched: dict[str, list[str]] = {}

        def resolve(source: Source) -> tuple[Package, ...]:
            suite = f"{source.suite}-{source.component}-{source.kind}"
            if suite not in fetched:
                _check_apt()
                options = _private_apt(Path(name) / suite.replace("/", "-"), source)
                _apt("apt-get", *options, "-q", "update")
                fetched[suite] = options
            if source.kind == "debian-source":
                return _shown_sources(fetched[suite], source)
            wanted = {*source.packages}
            for package in _shown(fetched[suite], frozenset(source.through), source):
                wanted.add(package.depends[0])
            return _shown(fetched[suite], frozenset(wanted), source)

        yield resolve


def _check_apt() -> None:
    if not shutil.which("apt-get") or not _KEYRING.is_file():
        raise Misuse(
            "updating a lock needs apt and the package debian-archive-keyring, which verify the index",
            code="seeds.no-apt",
        )


def _shown(options: list[str], names: frozenset[str], source: Source) -> tuple[Package, ...]:
    if not names:
        return ()
    what = f"{source.suite} {source.component}"
    shown = _apt("apt-cache", *options, "show", *sorted(names))
    found = list(packages(shown, names, what))
    missing = names - {package.name for package in found}
    if missing:
        raise Unreachable(f"{what} has no package {', '.join(sorted(missing))}", code="seeds.vanished")
    return tuple(newest([package for package in found if package.name == name]) for name in sorted(names))


def _shown_sources(options: list[str], source: Source) -> tuple[Package, ...]:
    """Return the archives of the newest version of each source package, two or more for each."""
    what = f"{source.suite} {source.component}"
    found: list[Package] = []
    for name in sorted(source.packages):
        files = list(source_files(_apt("apt-cache", *options, "showsrc", name), name, what))
        if not files:
            raise Unreachable(f"{what} has no source package {name}", code="seeds.vanished")
        version = newest(files).version
        found += sorted((file for file in files if file.version == version), key=lambda file: file.path)
    return tuple(found)


def _private_apt(folder: Path, source: Source) -> list[str]:
    """Return options that keep apt inside ``folder`` and show it one suite alone."""
    (folder / "lists/partial").mkdir(parents=True)
    (folder / "cache/archives/partial").mkdir(parents=True)
    (folder / "status").touch()
    kind = "deb-src" if source.kind == "debian-source" else "deb"
    lines = [
        f"{kind} [signed-by={_KEYRING}] {base} {source.suite} {source.component}" for base in bases()[:1]
    ]
    (folder / "sources.list").write_text("\n".join(lines) + "\n")
    settings = {
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Sandbox::User": "root",
        "Dir::Etc::sourcelist": str(folder / "sources.list"),
        "Dir::Etc::sourceparts": "-",
        "Dir::State": str(folder),
        "Dir::State::lists": str(folder / "lists"),
        "Dir::State::status": str(folder / "status"),
        "Dir::Cache": str(folder / "cache"),
    }
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]


def _apt(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise Unreachable(f"{command[0]}: {said[-1]}", code="seeds.apt")
    return done.stdout


def _addresses(base: str) -> tuple[str, ...]:
    if not base.startswith(_MIRROR_LIST):
        return (base.rstrip("/") + "/",)
    try:
        lines = Path(base.removeprefix(_MIRROR_LIST).rstrip("/")).read_text().split("\n")
    except OSError:
        return ()
    named = (line.split("\t")[0].split(" ")[0] for line in lines if line and not line.startswith("#"))
    return tuple(address.rstrip("/") + "/" for address in named)


def _download(address: str, to: Path) -> str | None:
    """Return None when ``to`` was written, "404" when the archive has no such file, else the reason."""
    if _HELPER.is_file() and MIRROR not in os.environ:
        command = [str(_HELPER), "-o", "APT::Sandbox::User=root", "download-file", address, str(to)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)
        if not done.returncode:
            return None
        return "404" if " 404 " in done.stderr or "404 " in done.stdout else done.stderr.strip()[-300:]
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_SECONDS) as answer, to.open("wb") as out:  # noqa: S310
            shutil.copyfileobj(answer, out, 1 << 20)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except urllib.error.URLError as error:
        return "404" if isinstance(error.reason, FileNotFoundError) else str(error.reason)
    except OSError as error:
        return error.strerror or str(error)
    return None
