"""One embedded Sigstore for all tests that only read from it or append to its log."""

from __future__ import annotations

import pytest
from signing.boxes import Box


@pytest.fixture(scope="session")
def box(tmp_path_factory):
    return Box.make(tmp_path_factory.mktemp("box"))


@pytest.fixture(scope="session")
def bundle(box):
    return box.sign()
