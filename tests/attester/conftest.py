"""A software TPM for the attester's tests: a real swtpm, made once, with a private authority."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tallystick.cli.demo.softtpm import TpmMaker, emulator


@pytest.fixture(scope="session")
def maker(tmp_path_factory) -> TpmMaker:
    if shutil.which("swtpm_setup") is None:
        pytest.skip("swtpm is not installed")
    return TpmMaker(tmp_path_factory.mktemp("tpm-ca"))


@pytest.fixture(scope="session")
def tpm_state(maker, tmp_path_factory) -> Path:
    state = tmp_path_factory.mktemp("tpm")
    maker.manufacture(state)
    return state


@pytest.fixture
def socket(tpm_state):
    with emulator(tpm_state) as path:
        yield path
