"""Assemble the corpus of other people's evidence and conformance cases from its public sources.

``sources.tsv`` names each file's repository, path, commit and digest. A file whose digest is another is not kept.
Some files were put together from several sources or made on a machine: their row says how, and they are left out;
the tests that read them then skip with that reason.

Usage: ``assemble.py FOLDER [--base URL]``. Exit codes: 0 everything that has a source is there, 7 something is not.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("sources.tsv")
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PLAIN_PATH = re.compile(r"[^\s;()*]+")
_TIMEOUT_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One row of the table."""

    file: str  # where it lies in the corpus: "evidence/nitro/…"
    repository: str  # "owner/name"
    path: str
    commit: str
    sha256: str

    @property
    def public(self) -> bool:
        """Whether the file is one file of one commit of a repository."""
        patterns = ((_REPOSITORY, self.repository), (_COMMIT, self.commit), (_PLAIN_PATH, self.path))
        return all(pattern.fullmatch(text) for pattern, text in patterns)


def sources(table: Path = TABLE) -> list[Source]:
    """Return the rows of ``table``."""
    with table.open(encoding="utf-8", newline="") as stream:
        return [
            Source(
                file=row["file"],
                repository=row["source_repository"],
                path=row["source_path"],
                commit=row["commit"],
                sha256=row["sha256"],
            )
            for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]


def assemble(rows: list[Source], folder: Path, base: str) -> list[str]:
    """Write every public file of ``rows`` below ``folder``; what is there already and right is not fetched again.

    Returns:
        One sentence for each file that could not be had.
    """
    wanted: dict[tuple[str, str], list[Source]] = defaultdict(list)
    for row in rows:
        if row.public and not _there(row, folder):
            wanted[row.repository, row.commit].append(row)
    failed: list[str] = []
    for number, ((repository, commit), group) in enumerate(sorted(wanted.items()), 1):
        print(f"[{number}/{len(wanted)}] {repository} {commit[:12]}: {len(group)} file(s)", file=sys.stderr)
        failed += _from_commit(f"{base.rstrip('/')}/{repository}", commit, group, folder)
    return failed


def _there(row: Source, folder: Path) -> bool:
    place = folder / row.file
    return place.is_file() and hashlib.sha256(place.read_bytes()).hexdigest() == row.sha256


def _from_commit(url: str, commit: str, group: list[Source], folder: Path) -> list[str]:
    with tempfile.TemporaryDirectory() as work:
        fetched = _git(work, "init", "-q", "--bare", ".")
        fetched = fetched if fetched.returncode else _git(work, "fetch", "-q", "--depth", "1", url, commit)
        if fetched.returncode:
            reason = fetched.stderr.decode("utf-8", "replace").strip() or "git failed"
            return [f"{row.file}: {url}: {reason}" for row in group]
        return [sentence for row in group if (sentence := _one(work, commit, row, folder))]


def _one(work: str, commit: str, row: Source, folder: Path) -> str | None:
    shown = _git(work, "cat-file", "blob", f"{commit}:{row.path}")
    if shown.returncode:
        return f"{row.file}: {row.repository} has no {row.path} at {commit}"
    got = hashlib.sha256(shown.stdout).hexdigest()
    if got != row.sha256:
        return f"{row.file}: want sha256 {row.sha256}, got {got}"
    place = folder / row.file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(shown.stdout)
    return None


def _git(folder: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-C", folder, *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, b"", f"no answer in {_TIMEOUT_SECONDS} s".encode())


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", default="https://github.com", help="where OWNER/NAME repositories lie")
    given = parser.parse_args()
    rows = sources()
    failed = assemble(rows, given.folder, given.base)
    missing = sorted(row.file for row in rows if not row.public and not _there(row, given.folder))
    print(f"{sum(_there(row, given.folder) for row in rows)} of {len(rows)} files are in {given.folder}")
    for file in missing:
        print(f"not one public file: {file} (sources.tsv says how it was made)")
    for sentence in failed:
        print(f"failed: {sentence}", file=sys.stderr)
    return 7 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
