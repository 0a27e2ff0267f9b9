"""Whether a build's files are those of the commit that it names: asked of git, where the project is a checkout."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tallystick.core.errors import Misuse, NotGenuine, Unreachable
from tallystick.core.findings import Finding

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHOWN = 20


def check(commit: str, folders: tuple[Path, ...]) -> None:
    """Do nothing when every file below ``folders`` is as ``commit`` has it, and no other file is there.

    Outside of a checkout there is nothing to ask, and the commit stays the builder's claim.

    Raises:
        Misuse: no full commit id, or one that the checkout does not have.
        NotGenuine: files that differ (``build.source.differs``), each a finding.
        Unreachable: there is a checkout and no git.
    """
    if not _COMMIT.fullmatch(commit):
        raise Misuse(f"{commit!r} is no full commit id in lower-case hex", code="build.source.commit")
    root = next((folder for folder in folders[0].resolve().parents if (folder / ".git").exists()), None)
    if root is None:
        return
    paths = [str(folder.resolve().relative_to(root)) for folder in folders]
    if _git(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        raise Misuse(f"{root} has no commit {commit}", code="build.source.commit")
    changed = _git(root, "diff", "--name-only", "-z", commit, "--", *paths) or ""
    others = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *paths) or ""
    names = sorted({name for name in (changed + others).split("\0") if name})
    if names:
        findings = [
            Finding("build.source.differs", name, want=f"as commit {commit[:12]} has it", got="another file")
            for name in names[:_SHOWN]
        ]
        raise NotGenuine(f"{len(names)} file(s) are not those of commit {commit[:12]}", findings=findings)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise Unreachable(
            "git is not on this machine, and --source-commit is checked with it", code="git.missing"
        ) from None
    return done.stdout if done.returncode == 0 else None
