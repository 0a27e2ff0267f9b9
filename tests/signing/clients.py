"""Other people's Sigstore clients: from PATH, or installed through their own package manager into a cache."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

# Pinned: what these tests were run with. Go builds from source: minutes the first time.
GO = {
    "cosign": "github.com/sigstore/cosign/v3/cmd/cosign@v3.1.1",
    "sigstore-go-verification": "github.com/sigstore/sigstore-go/examples/sigstore-go-verification@v1.3.0",
}
NPM = {
    "sigstore": "4.1.1",
    "@sigstore/verify": "3.1.1",
    "@sigstore/protobuf-specs": "0.5.2",
    "@sigstore/bundle": "4.0.0",
}
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tallystick-clients"


@cache
def binary(name: str) -> Path:
    """The program ``name``; the test is skipped where it is not and can not be built."""
    found = shutil.which(name, path=os.pathsep.join([str(CACHE / "bin"), os.environ.get("PATH", "")]))
    if found:
        return Path(found)
    if shutil.which("go") is None:
        pytest.skip(f"no {name} on PATH, and no Go to build it with")
    environment = os.environ | {"GOBIN": str(CACHE / "bin"), "GOFLAGS": "-mod=mod"}
    made = subprocess.run(
        ["go", "install", GO[name]], env=environment, capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"{name} does not build: {made.stderr.strip().splitlines()[-1:]}")
    return CACHE / "bin" / name


@cache
def node_modules() -> Path:
    """A folder with sigstore-js in node_modules."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no node and npm for sigstore-js")
    folder = CACHE / "js"
    if not (folder / "node_modules" / "sigstore").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}')
        wanted = [f"{name}@{version}" for name, version in NPM.items()]
        made = subprocess.run(
            ["npm", "install", "--silent", *wanted], cwd=folder, capture_output=True, text=True, check=False
        )
        if made.returncode:
            pytest.skip(f"sigstore-js does not install: {made.stderr.strip()[-200:]}")
    return folder


def run(*command: object, ok: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a client; ``ok`` False when its refusal is what is asked about."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, cwd=cwd, timeout=120
    )
    assert done.returncode == 0 or not ok, done.stderr[-2000:]
    return done
