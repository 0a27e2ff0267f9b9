"""One real world for the session: a signed, rebuilt and promoted release whose measurements a policy can use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from compile import realworld


@pytest.fixture(scope="session")
def promoted(tmp_path_factory):
    """A work directory with one release in staging, and a policy about it. Not to be changed."""
    return realworld.make(tmp_path_factory.mktemp("promoted"))


@pytest.fixture
def real(promoted, tmp_path):
    """A copy of it."""
    copy = tmp_path / "copy"
    shutil.copytree(promoted.folder, copy)
    return promoted.moved(Path(copy))


@pytest.fixture
def smaller(monkeypatch):
    """Proofs for Trustee over a domain of a few hundred cases, in one engine."""
    from tallystick.compile.targets.trustee import prove

    monkeypatch.setattr(prove, "MOST_DEVIATIONS", 300)
    monkeypatch.setattr(prove, "second_opinion", lambda: None)
