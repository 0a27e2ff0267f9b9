"""The workflows are sound: two linters, and every `tally` command in them exists with its options."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ci import gitlab

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))
TEMPLATES = sorted((ROOT / "templates").glob("*.yml"))
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"
# GitHub's syntax and context of 2026 that this actionlint does not know yet
INPUTS = {
    "tallystick": "https://example.org/tallystick.git",
    "commit": "0" * 40,
    "recipe": "build/confidential-inference.yaml",
    "place": "oci://registry.example/team/image",
}
NEWER = (
    r'"\$/\S+" (in invalid format|at "uses" is not following)',
    'property "workflow_ref" is not defined',
)


def test_zizmor_finds_nothing():
    zizmor = Path(sys.executable).with_name("zizmor")
    assert len(WORKFLOWS) >= 2
    found = subprocess.run(
        [zizmor, "--offline", "--no-progress", *WORKFLOWS, *ACTIONS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.slow
@pytest.mark.net
def test_actionlint_finds_nothing():
    if shutil.which("go") is None:
        reason = "no Go toolchain, which builds actionlint from its module proxy"
        pytest.skip(reason)
    found = subprocess.run(
        ["go", "run", ACTIONLINT, *(f"-ignore={pattern}" for pattern in NEWER), *WORKFLOWS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_schemas_know_the_files():
    """The schemas of GitHub and GitLab, as check-jsonschema carries them."""
    for schema, files in (("github-workflows", WORKFLOWS), ("github-actions", ACTIONS)):
        _check_schema(schema, files)


def test_the_gitlab_template_is_valid_with_its_inputs(tmp_path):
    for path in TEMPLATES:
        (tmp_path / path.name).write_text(gitlab.filled(path, INPUTS))
        _check_schema("gitlab-ci", [tmp_path / path.name])


def _check_schema(name, files):
    assert files
    program = Path(sys.executable).with_name("check-jsonschema")
    found = subprocess.run(
        [program, "--builtin-schema", f"vendor.{name}", *files], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


COMMAND = re.compile(r"\btally ((?:--[a-z-]+ \S+ )*)([a-z]+)([^\n]*(?:\\\n[^\n]*)*)")


@pytest.mark.parametrize("file", [*WORKFLOWS, *TEMPLATES], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_commands_know_their_options(file):
    shell = "\n".join(line for line in file.read_text().splitlines() if not line.strip().startswith("#"))
    known: dict[str, str] = {}
    for _, name, rest in COMMAND.findall(shell):
        if name not in known:
            shown = subprocess.run(
                [sys.executable, "-m", "tallystick.cli", name, "--help"],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PYTHONPATH": str(ROOT / "pipeline")},
            )
            assert shown.returncode == 0, name
            known[name] = shown.stdout
        for option in re.findall(r" (--[a-z-]+|-o)\b", rest):
            assert option in known[name], (name, option)


def test_every_action_is_pinned_by_commit():
    for path in (*WORKFLOWS, *ACTIONS):
        for used in re.findall(r"uses: (\S+)", path.read_text()):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}|\$/[\w./-]+", used), used
