"""A commit is named only when the files are its own, where git can be asked."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tallystick.build import git
from tallystick.core.errors import Misuse, NotGenuine, Unreachable

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="no git here")


@pytest.fixture
def checkout(tmp_path):
    for name in ("nix/a.nix", "pipeline/tallystick/b.py", "docs/c.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    def run(*arguments):
        settings = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main")
        done = subprocess.run(
            ["git", *settings, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    run("init", "-q")
    run("add", ".")
    run("commit", "-q", "-m", "one")
    return tmp_path, run("rev-parse", "HEAD")


def folders(root):
    return root / "nix", root / "pipeline/tallystick"


def test_unchanged_files_are_the_commits_and_other_folders_do_not_count(checkout):
    root, commit = checkout
    (root / "docs/c.md").write_text("changed")
    git.check(commit, folders(root))


def test_changed_new_and_removed_files_are_named(checkout):
    root, commit = checkout
    (root / "nix/a.nix").write_text("changed")
    (root / "nix/new.nix").write_text("new")
    (root / "pipeline/tallystick/b.py").unlink()
    with pytest.raises(NotGenuine, match=r"3 file\(s\) are not those of commit") as caught:
        git.check(commit, folders(root))
    assert [one.where for one in caught.value.findings] == [
        "nix/a.nix",
        "nix/new.nix",
        "pipeline/tallystick/b.py",
    ]
    assert {one.code for one in caught.value.findings} == {"build.source.differs"}


@pytest.mark.parametrize("commit", ["", "HEAD", "main", "abc", "A" * 40, "--help", "0" * 40])
def test_what_names_no_commit_of_the_checkout_is_refused(checkout, commit):
    root, _ = checkout
    with pytest.raises(Misuse, match="commit"):
        git.check(commit, folders(root))


def test_outside_of_a_checkout_there_is_nothing_to_ask(tmp_path):
    (tmp_path / "nix").mkdir()
    git.check("0" * 40, (tmp_path / "nix",))


def test_a_checkout_without_git_is_said(checkout, monkeypatch):
    root, commit = checkout
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Unreachable, match="git is not on this machine"):
        git.check(commit, folders(root))
