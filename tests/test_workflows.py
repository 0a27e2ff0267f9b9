"""The workflows are sound: two linters, and every `tally` command in them exists with its options."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.7"


def test_zizmor_finds_nothing():
    zizmor = Path(sys.executable).with_name("zizmor")
    assert len(WORKFLOWS) >= 2
    found = subprocess.run(
        [zizmor, "--offline", "--no-progress", *WORKFLOWS], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.slow
@pytest.mark.net
def test_actionlint_finds_nothing():
    if shutil.which("go") is None:
        reason = "no Go toolchain, which builds actionlint from its module proxy"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    found = subprocess.run(
        ["go", "run", ACTIONLINT, *WORKFLOWS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


COMMAND = re.compile(r"\.venv/bin/tally ([a-z]+)((?: .*)?)$", re.MULTILINE)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda p: p.name)
def test_commands_in_workflows_know_their_options(workflow):
    for name, rest in COMMAND.findall(workflow.read_text()):
        shown = subprocess.run(
            [sys.executable, "-m", "tallystick.cli", name, "--help"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT / "pipeline")},
        )
        assert shown.returncode == 0, name
        for option in re.findall(r" (--[a-z-]+|-o)\b", rest):
            assert option in shown.stdout, (name, option)


def test_every_action_is_pinned_by_commit():
    for workflow in WORKFLOWS:
        for used in re.findall(r"uses: (\S+)", workflow.read_text()):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", used), used
