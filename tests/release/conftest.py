"""One small world for the session, and copies of its release for tests that damage them."""

from __future__ import annotations

import shutil

import pytest
from release import world as worlds


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A world with a release that nothing was done to yet. Not to be changed."""
    folder = tmp_path_factory.mktemp("base")
    made = worlds.make(folder / "work")
    made.release(folder / "release")
    return made, folder


@pytest.fixture
def world(base, tmp_path):
    """A copy of the world, with channels of its own, and its release folder."""
    made, folder = base
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    copy = worlds.World(
        workdir=tmp_path / "work",
        trust=made.trust,
        signatories=made.signatories,
        online=made.online,
    )
    return copy, tmp_path / "release"
