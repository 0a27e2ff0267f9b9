"""``tally measure uki``: its JSON, its refusals, its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support_firmware import image as firmware_image
from support_pe import uki

from tallystick.core.errors import Exit

PIPELINE = Path(__file__).resolve().parents[2] / "pipeline"


def tally(*arguments: object) -> tuple[int, dict]:
    command = [sys.executable, "-m", "tallystick.cli", "measure", "uki", *map(str, arguments), "--json"]
    run = subprocess.run(
        command, capture_output=True, env={**os.environ, "PYTHONPATH": str(PIPELINE)}, check=False
    )
    return run.returncode, json.loads(run.stdout) if run.stdout else {}


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "uki.efi"
    path.write_bytes(uki())
    return path


def test_the_image_alone_gives_three_registers(image):
    code, document = tally(image)
    assert (code, sorted(document)) == (0, ["pcr11", "pcr4", "pcr9"])
    code, told = tally(image, "--explain")
    assert code == 0
    assert {name: told[name] for name in document} == document
    assert {event["register"] for event in told["events"]} == {4, 9, 11}
    assert set(told["events"][0]) == {"register", "digest", "what"}


def test_the_boot_path_moves_register_4_alone(image):
    kernel, disk = tally(image)[1], tally(image, "--boot", "disk")[1]
    assert [name for name in kernel if kernel[name] != disk[name]] == ["pcr4"]


def refusals(folder):
    firmware, text = folder / "firmware.fd", folder / "initdata.toml"
    firmware.write_bytes(firmware_image())
    text.write_text("no init-data")
    shape = ("--ram-mib", 512, "--vcpus", 1)
    return {
        ("--firmware", firmware): (Exit.MISUSE, "measure.shape-incomplete"),
        ("--ram-mib", 512): (Exit.MISUSE, "measure.shape-incomplete"),
        ("--initdata", text): (Exit.MISUSE, "measure.initdata"),
        ("--firmware", firmware, *shape, "--boot", "disk"): (Exit.MISUSE, "measure.boot"),
        ("--firmware", firmware, *shape, "--initdata", text): (Exit.MALFORMED, "malformed"),
        ("--firmware", firmware, *shape): (Exit.UNSUPPORTED, "firmware.unknown"),
        ("--firmware", folder / "none.fd", *shape): (Exit.MISUSE, "file.missing"),
        ("--firmware", firmware, "--ram-mib", 1, "--vcpus", 1): (Exit.MISUSE, "shape.ram-mib"),
    }


def test_each_refusal_has_its_code(image, tmp_path):
    got = {}
    for arguments in (table := refusals(tmp_path)):
        code, document = tally(image, *arguments)
        got[arguments] = (code, document["error"]["code"])
    assert got == table


def test_what_is_no_image_exits_3(tmp_path):
    path = tmp_path / "text"
    path.write_text("hello")
    code, document = tally(path)
    assert (code, document["error"]["exit"]) == (Exit.MALFORMED, Exit.MALFORMED)
