"""imports.py PROGRAM USERLAND TREE...: import every module of the trees with the guest's interpreter; list them."""

from __future__ import annotations

import dis
import importlib.util
import marshal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

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
_MAY_BE_MISSING = ("ctypes", "ssl")  # attester/nvml.py and client.py say so, and go on without GPUs or https
_PYC_HEADER_BYTES = 16  # PEP 552


def names_imported(code: CodeType, package: str) -> Iterator[str]:
    """Yield every module that ``code`` imports anywhere, inside functions too."""
    stack: list[object] = []
    for step in dis.get_instructions(code):
        if step.opname == "LOAD_CONST":
            stack.append(step.argval)
        elif step.opname == "IMPORT_NAME":
            level = stack[-2]  # IMPORT_NAME takes the level and the names from the stack
            assert isinstance(level, int)
            yield importlib.util.resolve_name("." * level + step.argval, package) if level else step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_imported(constant, package)


def main(program: str, userland: Path, trees: list[Path]) -> None:
    """Fail, naming the module, when one can not be imported from these trees alone.

    Of this project's own modules, what they import only inside a function counts as well.
    """
    folders = [tree / guest.PACKAGES for tree in trees]
    names: set[str] = set()
    for folder in folders:
        for path in folder.rglob("*.pyc"):
            relative = path.relative_to(folder).with_suffix("")
            name = relative.as_posix().removesuffix("/__init__").replace("/", ".")
            if path.stem not in _RUNS_WHEN_IMPORTED:
                names.add(name)
            if relative.parts[0] == guest.PROJECT:
                package = name if path.stem == "__init__" else name.rpartition(".")[0]
                names.update(names_imported(marshal.loads(path.read_bytes()[_PYC_HEADER_BYTES:]), package))  # noqa: S302  made by guest.py
    libraries = userland / guest.LIBRARIES
    linker = [str(libraries / Path(guest.LINKER).name), "--inhibit-cache", "--library-path", str(libraries)]
    wanted = sorted(names.difference(_MAY_BE_MISSING))
    child = [*linker, str(userland / program), "-P", "-S", "-B", "-c", _CHILD, *wanted]
    environment = {"PYTHONHOME": str(userland / "usr"), "PYTHONPATH": ":".join(map(str, folders))}
    sys.exit(subprocess.run(child, env=environment, check=False).returncode)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(argument) for argument in sys.argv[3:]])
