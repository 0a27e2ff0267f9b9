"""The command line's contract: exit codes, one JSON document, no traceback for a user's mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tallystick.cli.app import COMMANDS
from tallystick.core.errors import Exit

ROOT = Path(__file__).resolve().parents[1]


def tally(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tallystick.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "pipeline"), **environment},
    )


def test_every_exit_code_has_a_meaning():
    assert [code.meaning != "" for code in Exit] == [True] * 9
    assert [int(code) for code in Exit] == list(range(9))


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_listed_command_answers_help(name):
    result = tally(name, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Usage: tally {name}")


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["verify"], ["verify", "--no-such-option"], ["build"]]
)
def test_misuse_exits_2_without_a_traceback(arguments):
    result = tally(*arguments)
    assert result.returncode == Exit.MISUSE
    assert "Traceback" not in result.stderr
    assert "Usage:" in result.stderr


def test_a_missing_file_is_named_and_exits_2(tmp_path):
    result = tally("verify", str(tmp_path / "absent"), "--trust", str(tmp_path / "none.json"), "--json")
    document = json.loads(result.stdout)
    assert result.returncode == document["error"]["exit"] == Exit.MISUSE
    assert str(tmp_path) in document["error"]["message"]
    assert "Traceback" not in result.stderr


def test_a_bug_says_so_and_hides_values(tmp_path):
    """A bug of ours exits 1, shows no traceback (its locals may be secret), and says how to see one."""
    script = "import tallystick.cli.app as a, typer.main\ndef boom(*x, **y): raise KeyError('s3cret')\n"
    script += "typer.main.get_command = boom\na.run(['--json'])"
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "pipeline")},
    )
    assert result.returncode == Exit.BUG
    assert json.loads(result.stdout)["error"]["code"] == "bug"
    assert "s3cret" not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
