"""The corpus is assembled from commits, and only what has the recorded digest is kept."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace

import pytest
from corpus.assemble import Source, assemble, sources
from support_corpus import CORPUS


@pytest.fixture
def public(tmp_path):
    """One public repository ``someone/something`` with one commit; its row, and the address of its host."""
    host = tmp_path / "host"
    place = host / "someone/something"
    place.mkdir(parents=True)

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        command = ["git", "-C", str(place), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (place / "report.bin").write_bytes(b"report")
    git("add", ".")
    git("commit", "-qm", "evidence")
    git("config", "uploadpack.allowAnySHA1InWant", "true")
    row = Source(
        file="evidence/x/report.bin",
        repository="someone/something",
        path="report.bin",
        commit=git("rev-parse", "HEAD"),
        sha256=hashlib.sha256(b"report").hexdigest(),
    )
    return row, f"file://{host}"


def test_a_file_comes_from_its_commit_and_is_not_fetched_twice(public, tmp_path):
    row, base = public
    out = tmp_path / "corpus"
    assert assemble([row], out, base) == []
    assert (out / row.file).read_bytes() == b"report"
    assert assemble([row], out, "file:///nowhere") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "0" * 64}, "want sha256 000"),
        ({"path": "other.bin"}, "has no other.bin"),
        ({"commit": "1" * 40}, "1111"),
    ],
)
def test_what_is_not_the_recorded_file_is_not_kept(public, tmp_path, change, said):
    row, base = public
    out = tmp_path / "corpus"
    (failed,) = assemble([replace(row, **change)], out, base)
    assert said in failed
    assert not (out / row.file).exists()


def test_a_file_without_one_public_source_is_left_out(public, tmp_path):
    row, base = public
    row = replace(row, repository="(generated here)")
    assert not row.public
    assert assemble([row], tmp_path / "corpus", base) == []


def test_the_table_names_the_corpus_of_this_machine():
    if not CORPUS.is_dir():
        pytest.skip(f"no corpus at {CORPUS}")
    rows = sources()
    assert len({row.file for row in rows}) == len(rows) > 600
    assert sum(row.public for row in rows) > 590
    wrong = [
        row.file
        for row in rows
        if (place := CORPUS / row.file).is_file()
        and hashlib.sha256(place.read_bytes()).hexdigest() != row.sha256
    ]
    assert wrong == []
