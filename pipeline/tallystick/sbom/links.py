"""Which component needs which at run time, read from the files of a product themselves.

Programs and libraries name what they load in their own tables, and scripts name their interpreter; that is
looked up here. What a program opens by itself later is not, so the edges are complete only as far as they go.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from tallystick.build.records import Contents
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import elf
from tallystick.sbom.scan import Found

_SCRIPT = re.compile(rb"#![ \t]*([^ \t\n]+)")
_MAX_LINKS = 40  # as the kernel follows in one path (MAXSYMLINKS)


def links(contents: Contents, files: Iterable[Found]) -> dict[str, set[str]]:
    """Return, for every component with programs or scripts, the other components that they need.

    Args:
        files: what was found in the product that ``contents`` lists.
    """
    owners = {file.path: file.component for file in contents.files if file.component}
    found = {file.path: file for file in files}
    names: dict[str, set[str]] = {}
    for path in owners:
        names.setdefault(PurePosixPath(path).name, set()).add(path)
    edges: dict[str, set[str]] = {}
    for path, file in found.items():
        wanted = list(_wanted(file))
        if path not in owners or not wanted:
            continue
        used = edges.setdefault(owners[path], set())
        for name in wanted:
            places = {name.lstrip("/")} if "/" in name else names.get(name, set())
            for place in places:
                target = _resolve(place, found)
                if target in owners and owners[target] != owners[path]:
                    used.add(owners[target])
    return edges


def _wanted(file: Found) -> Iterator[str]:
    """The interpreter by its path and libraries by their names, as the file itself has them."""
    if not stat.S_ISREG(int(file.mode, 8)):
        return
    if elf.is_elf(file.data):
        try:
            read = elf.parse(file.data)
        except (Malformed, Unsupported):  # kernel modules and foreign machines ask for nothing here
            return
        if read.interpreter:
            yield read.interpreter
        yield from read.needed
    elif match := _SCRIPT.match(bytes(file.data[:256])):
        yield match[1].decode("utf-8", "replace")


def _resolve(path: str, found: Mapping[str, Found]) -> str:
    """Return the file that ``path`` leads to when symbolic links inside the product are followed."""
    for _ in range(_MAX_LINKS):
        parts = path.split("/")
        for size in range(1, len(parts) + 1):
            link = found.get("/".join(parts[:size]))
            if link is not None and stat.S_ISLNK(int(link.mode, 8)):
                target = bytes(link.data).decode("utf-8", "surrogateescape")
                path = _normal([*parts[: size - 1], target, *parts[size:]])
                break
        else:
            return path
    return path


def _normal(parts: list[str]) -> str:
    """Return the parts as one plain path; an absolute part starts again at the root, and ".." stops there."""
    kept: list[str] = []
    for part in parts:
        if part.startswith("/"):
            kept.clear()
        for name in part.split("/"):
            if name == ".." and kept:
                kept.pop()
            elif name not in ("", ".", ".."):
                kept.append(name)
    return "/".join(kept)
