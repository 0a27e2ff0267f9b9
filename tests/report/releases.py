"""Unsigned release directories made up at test time, and the command line run on them in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from release import world
from sbom import builds

from tallystick.cli import app
from tallystick.release import index

BUILDER = "https://tallystick.local/builders/ci"


def write(folder: Path, files: Any = builds.FILES, change: Any = None) -> Path:
    """Write a release into ``folder``; ``change`` edits it before the index is made."""
    made = builds.make(files)
    world.unsigned(folder, made, builder_id=BUILDER, platform="qemu-vtpm")
    if change is not None:
        change(folder)
    reindex(folder)
    return folder


def reindex(folder: Path) -> None:
    """Make the index of what lies in ``folder`` now."""
    (folder / index.FILE).unlink(missing_ok=True)
    products = {"initramfs": "products/initramfs.cpio.xz", "uki": "products/uki.efi"}
    data = index.make(folder, name="demo", version="1.2.3", products=products)
    (folder / index.FILE).write_bytes(data)


def edit(path: Path, change: Any) -> None:
    """Change the JSON document at ``path``."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document), "utf-8")


def tally(capsys: Any, *arguments: str) -> tuple[int, Any]:
    """Run ``tally`` with ``--json`` and return its exit code and its one document."""
    code = app._run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)
