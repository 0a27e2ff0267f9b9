"""guest.py SPEC OUT CONTENTS: one tree of the guest's root, and the list of where its files came from.

Python modules are shipped as byte code alone: under emulation, compiling them at every boot costs seconds.
"""

from __future__ import annotations

import fnmatch
import json
import marshal
import re
import stat
import struct
import sys
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path
from typing import Any

import contents
import elf
import nar

PACKAGES = "usr/lib/tallystick"  # wheels and this project; the init script puts it on PYTHONPATH
PROJECT = "tallystick"
LIBRARIES = "usr/lib/x86_64-linux-gnu"  # in the dynamic linker's built-in search path (Debian multiarch)
LINKER = "lib64/ld-linux-x86-64.so.2"  # System V ABI, AMD64 supplement
DEVICES = {
    "dev/console": (5, 1)
}  # the kernel opens it before /init could make it (Documentation/admin-guide/devices.txt)
_UNCHECKED_HASH = 0b01  # PEP 552: a hash-based .pyc whose source is not looked at
_MARSHAL_VERSION = 2  # newer versions write what is shared, which depends on what else the process holds


class Root:
    """The tree in memory: path -> (mode, bytes or link target, component)."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[int, bytes, str]] = {}

    def add(self, path: str, mode: int, data: bytes, component: str) -> None:
        """Add one file; two components must not claim one path."""
        known = self.files.get(path)
        if known is not None and known[1] != data:
            raise SystemExit(f"{path}: both {known[2]} and {component} bring it")
        self.files[path] = (mode, data, component)

    def file(self, path: str, data: bytes, component: str, *, executable: bool = False) -> None:
        """Add a regular file."""
        self.add(path, stat.S_IFREG | (0o755 if executable else 0o644), data, component)

    def link(self, path: str, target: str, component: str) -> None:
        """Add a symbolic link."""
        self.add(path, stat.S_IFLNK | 0o777, target.encode(), component)

    def module(self, path: str, source: bytes, component: str) -> None:
        """Add ``path`` (.py) as byte code without docstrings, the same bytes whatever was compiled before it."""
        code = compile(source, f"/{path}", "exec", dont_inherit=True, optimize=2)
        head = MAGIC_NUMBER + struct.pack("<I", _UNCHECKED_HASH) + source_hash(source)
        self.file(path + "c", head + marshal.dumps(code, _MARSHAL_VERSION), component)


def lines(path: str) -> list[str]:
    """Return the lines of a list file without comments."""
    text = Path(path).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def add_busybox(root: Root, spec: dict[str, Any]) -> None:
    """Add busybox and the names under which it is found."""
    for tree, ref in pieces(spec, "busybox"):
        root.file("usr/bin/busybox", (tree / "bin/busybox").read_bytes(), ref, executable=True)
        for name in lines(spec["applets"]):
            root.link(f"usr/bin/{name}", "busybox", ref)


def add_python(root: Root, spec: dict[str, Any]) -> None:
    """Add the interpreter and the modules of the list, each from the package that has it."""
    home, program = spec["python"]["home"], spec["python"]["program"]
    found = pieces(spec, "python")
    for tree, ref in found:
        if (tree / program).is_file():
            root.file(program, (tree / program).read_bytes(), ref, executable=True)
            root.link("usr/bin/python3", Path(program).name, ref)
    for name in lines(spec["stdlib"]):
        if not any(_add_module(root, tree / home, home, name, ref) for tree, ref in found):
            raise SystemExit(f"stdlib.txt: no Python package has the module {name}")


def _add_module(root: Root, home: Path, to: str, name: str, ref: str) -> bool:
    stem = name.replace(".", "/")
    for path in (f"{stem}.py", f"{stem}/__init__.py"):
        if (home / path).is_file():
            root.module(f"{to}/{path}", (home / path).read_bytes(), ref)
            return True
    for extension in sorted(home.glob(f"lib-dynload/{stem}.*.so")):
        root.file(f"{to}/lib-dynload/{extension.name}", extension.read_bytes(), ref)
        return True
    return False


def add_packages(root: Root, tree: Path, ref: str, left_out: list[str]) -> None:
    """Add a tree of importable packages without the files that match ``left_out``."""
    for path in sorted(p for p in tree.rglob("*") if p.is_file()):
        name = path.relative_to(tree).as_posix()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in left_out):
            continue
        if name.endswith(".py"):
            root.module(f"{PACKAGES}/{name}", path.read_bytes(), ref)
        else:
            root.file(f"{PACKAGES}/{name}", path.read_bytes(), ref)


def add_libraries(root: Root, spec: dict[str, Any]) -> None:
    """Add the libraries of the list, and every library that some ELF file of the root names."""
    offered: dict[str, tuple[bytes, str]] = {}
    for tree, ref in [*pieces(spec, "python"), *pieces(spec, "library")]:
        for path in sorted(tree.rglob("*.so*")):
            target = path.parent / path.readlink() if path.is_symlink() else path
            if "lib-dynload" not in path.parts and target.is_file():
                offered.setdefault(path.name, (target.read_bytes(), ref))
    binaries = [data for mode, data, _ in root.files.values() if stat.S_ISREG(mode) and elf.is_elf(data)]
    waiting = [*lines(spec["libraries"]), *(name for data in binaries for name in elf.needed(data))]
    linker = Path(LINKER).name
    while waiting:
        name = waiting.pop()
        if f"{LIBRARIES}/{name}" in root.files:
            continue
        if name not in offered:
            raise SystemExit(f"no package of the toolkit has the shared library {name}")
        data, ref = offered[name]
        root.file(f"{LIBRARIES}/{name}", data, ref, executable=name == linker)
        waiting += elf.needed(data)
    root.link(f"usr/{LINKER}", f"../{LIBRARIES.removeprefix('usr/')}/{linker}", offered[linker][1])


def add_project(root: Root, spec: dict[str, Any], ref: str) -> None:
    """Add the project's modules, the init script, and the links that a merged /usr has."""
    add_packages(root, Path(spec["source"]), ref, [])
    root.file("init", Path(spec["init"]).read_bytes(), ref, executable=True)
    for name in ("bin", "lib", "lib64"):
        root.link(name, f"usr/{name}", ref)
    root.link("sbin", "usr/bin", ref)


def project_component(source: Path) -> dict[str, str]:
    """Return the component that this project's own source is."""
    text = (source / "tallystick/__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if version is None:
        raise SystemExit("tallystick/__init__.py states no __version__")
    purl = f"pkg:generic/tallystick@{version[1]}"
    return {
        "ref": purl,
        "kind": "project",
        "name": "tallystick",
        "version": version[1],
        "purl": purl,
        "licence": "Apache-2.0",
        "seed": "",
        "sha256": nar.sha256(source),
    }


def pieces(spec: dict[str, Any], role: str) -> list[tuple[Path, str]]:
    """Return (tree, component reference) of the pieces with ``role``."""
    return [(Path(p["tree"]), p["component"]["ref"]) for p in spec["pieces"] if p["role"] == role]


def write_tree(root: Root, out: Path) -> None:
    """Write the files and links below ``out``."""
    for path, (mode, data, _) in root.files.items():
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISLNK(mode):
            target.symlink_to(data.decode())
        else:
            target.write_bytes(data)
            target.chmod(mode & 0o777)


def main(spec: dict[str, Any], out: Path, listing: Path) -> None:
    """Write the tree that ``spec`` describes and its contents list."""
    root = Root()
    components = [piece["component"] for piece in spec["pieces"]]
    if "stdlib" in spec:
        add_busybox(root, spec)
        add_python(root, spec)
        add_libraries(root, spec)
    for tree, ref in pieces(spec, "wheel"):
        add_packages(root, tree, ref, lines(spec["left_out"]))
    if "source" in spec:
        project = project_component(Path(spec["source"]))
        add_project(root, spec, project["ref"])
        components.append(project)
    write_tree(root, out)
    records = [contents.file_record(path, data, mode, ref) for path, (mode, data, ref) in root.files.items()]
    if "source" in spec:
        records += [contents.file_record(path, b"", stat.S_IFCHR | 0o600, project["ref"]) for path in DEVICES]
    contents.write(listing, spec["name"], records, components)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]), Path(sys.argv[3]))
