"""unpack.py SEED OUT PATTERN...: the files of a .deb or wheel that match, as a tree."""

from __future__ import annotations

import fnmatch
import stat
import sys
from pathlib import Path

import deb


def main(seed: Path, out: Path, patterns: list[str]) -> None:
    """Write what matches; fail when nothing does, so that a package's new layout is noticed."""
    out.mkdir()
    written = 0
    for name, mode, data in deb.members(seed):
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        target = out / name
        if not target.resolve().is_relative_to(out.resolve()):
            raise SystemExit(f"{seed.name}: {name} leaves the tree")
        target.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISLNK(mode):
            target.symlink_to(data.decode())
        else:
            target.write_bytes(data)
            target.chmod(0o755 if mode & 0o111 else 0o644)
        written += 1
    if not written:
        raise SystemExit(f"{seed.name}: no file matches {' '.join(patterns)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
