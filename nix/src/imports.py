"""imports.py PROGRAM USERLAND TREE...: import every module of the trees with the guest's own interpreter, and list them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import guest

_CHILD = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        sys.exit(f"{name}: {type(error).__name__}: {error}")
    print(name)
"""
_RUNS_WHEN_IMPORTED = ("__main__",)


def main(program: str, userland: Path, trees: list[Path]) -> None:
    """Fail, naming the module, when one can not be imported from these trees alone."""
    folders = [tree / guest.PACKAGES for tree in trees]
    names = sorted(
        path.relative_to(folder).with_suffix("").as_posix().removesuffix("/__init__").replace("/", ".")
        for folder in folders
        for path in folder.rglob("*.pyc")
        if path.stem not in _RUNS_WHEN_IMPORTED
    )
    libraries = userland / guest.LIBRARIES
    linker = [str(libraries / Path(guest.LINKER).name), "--inhibit-cache", "--library-path", str(libraries)]
    child = [*linker, str(userland / program), "-P", "-S", "-B", "-c", _CHILD, *names]
    environment = {"PYTHONHOME": str(userland / "usr"), "PYTHONPATH": ":".join(map(str, folders))}
    sys.exit(subprocess.run(child, env=environment, check=False).returncode)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(argument) for argument in sys.argv[3:]])
