"""Another implementation reads the EIF that this project writes (docs/decisions/0088)."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tallystick.formats import eif
from tallystick.measure import nitro

ROOT = Path(__file__).resolve().parents[2]


def writer(monkeypatch):
    """The module that runs inside Nix, imported from where it lies."""
    monkeypatch.syspath_prepend(str(ROOT / "nix/src"))
    spec = importlib.util.spec_from_file_location("tally_eif_writer", ROOT / "nix/src/eif.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules.pop("contents", None)
    spec.loader.exec_module(module)
    return module


def made(monkeypatch, ramdisks=(b"bootstrap", b"application")):
    module = writer(monkeypatch)
    metadata = module.metadata({"name": "test", "version": "1"}, "6.12")
    return module.image(
        [(1, b"kernel" * 999), (2, b"quiet"), (5, metadata), *((3, data * 333) for data in ramdisks)]
    )


@pytest.mark.parametrize("ramdisks", [(b"one",), (b"one", b"two")])
def test_the_writers_image_is_read_back(monkeypatch, ramdisks):
    image = eif.parse(made(monkeypatch, ramdisks))
    assert [bytes(data) for data in image.every(eif.Kind.RAMDISK)] == [data * 333 for data in ramdisks]
    assert json.loads(bytes(image.only(eif.Kind.METADATA)))["ImageName"] == "test"


def test_awss_own_command_says_the_same(monkeypatch, tmp_path):
    command = shutil.which("nitro-cli")
    if command is None:
        pytest.skip(
            "no nitro-cli: AWS's reader has read this format once, docs/decisions/0088 has what it said"
        )
    path = tmp_path / "image.eif"
    path.write_bytes(made(monkeypatch))
    run = subprocess.run(
        [command, "describe-eif", "--eif-path", str(path)], capture_output=True, check=True, text=True
    )
    said, ours = json.loads(run.stdout), nitro.pcrs(eif.parse(path.read_bytes()))
    assert said["CheckCRC"] is True
    assert said["Measurements"]["PCR0"] == ours.pcr0.hex
    assert said["Measurements"]["PCR1"] == ours.pcr1.hex
    assert said["Measurements"]["PCR2"] == ours.pcr2.hex
