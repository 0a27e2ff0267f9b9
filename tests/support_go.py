"""Programs of other people's that a test runs: found on the path, or built from Go modules whose sums are pinned."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support_corpus import ROOT


def tool(name: str) -> str:
    """Return the path of a program, or skip; in CI, fail."""
    found = shutil.which(name)
    if found is None:
        _missing(f"{name} is not installed")
    return str(found)


def built(name: str, folder: Path) -> Path:
    """Build the Go program in ``tests/foreign/NAME`` into ``folder``; skip where that fails, but in CI."""
    program = folder / name
    command = [tool("go"), "build", "-mod=readonly", "-o", str(program), "."]
    source = ROOT / "tests" / "foreign" / name
    done = subprocess.run(command, cwd=source, capture_output=True, check=False, text=True)
    if done.returncode != 0:
        _missing(f"the Go modules can not be had: {done.stderr.strip()[-300:]}")
    return program


def _missing(reason: str) -> None:
    pytest.skip(reason)
