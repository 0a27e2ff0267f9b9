"""Nix of Debian's next release, in a folder of its own: from the machine's own Debian mirror, and installed nowhere."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SUITE = "trixie"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
PROGRAMS = ("nix", "nix-store", "nix-instantiate", "nix-build", "nix-hash", "nix-env", "nix-daemon")


def unpacked(folder: Path) -> Path:
    """Return the folder of its programs, made below ``folder``; skip where this machine knows no Debian mirror."""
    wanted = ("Created-By: Packages", "Codename: bookworm")
    ask = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted]
    listed = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("no Debian mirror")
    _fetch(folder / "apt", listed[0])
    root = folder / "root"
    for package in sorted((folder / "apt/cache/archives").glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    libraries = root / LIBRARIES
    loader = libraries / "ld-linux-x86-64.so.2"
    # Nix starts itself again by its own name, so the file has to name its loader and libraries.
    patch = ("--set-interpreter", loader, "--force-rpath", "--set-rpath", libraries, root / "usr/bin/nix")
    subprocess.run([loader, "--library-path", libraries, root / "usr/bin/patchelf", *patch], check=True)
    programs = folder / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).symlink_to(root / "usr/bin/nix")
    return programs


def _fetch(place: Path, uri: str) -> None:
    for name in ("state/lists/partial", "cache/archives/partial"):
        (place / name).mkdir(parents=True)
    (place / "sources.list").write_text(f"deb {uri} {SUITE} main\n")
    (place / "state/status").touch()
    (place / "conf").write_text(
        f'Dir::State "{place}/state";\nDir::State::status "{place}/state/status";\nDir::Cache "{place}/cache";\n'
        f'Dir::Etc::sourcelist "{place}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
        'APT::Sandbox::User "root";\nBinary::apt-get::APT::Keep-Downloaded-Packages "true";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(place / "conf")}
    install = [
        "apt-get",
        "install",
        "-y",
        "--no-install-recommends",
        "--download-only",
        "nix-bin",
        "patchelf",
    ]
    for command in (["apt-get", "update"], install):
        subprocess.run(command, env=environment, check=True, capture_output=True)
