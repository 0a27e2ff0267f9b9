"""The documents are true: generated pages are what the program says, links lead somewhere, commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tallystick.cli.app import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(p for p in ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("name", ["reference.md", "exit-codes.md"])
def test_generated_pages_are_fresh(name):
    """In a process of its own: a help text is laid out for the terminal's width when it is imported."""
    script = "import sys; sys.path.insert(0, 'docs'); import generate; "
    script += f"sys.stdout.write(generate.PAGES[{name!r}]())"
    made = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "pipeline"), "PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "utf-8"},
    )
    assert (ROOT / "docs" / name).read_text() == made.stdout, "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    broken = [
        target
        for target in re.findall(r"\]\(([^)\s]+)\)", text)
        if not re.match(r"[a-z]+:|#", target) and not (page.parent / target.split("#")[0]).exists()
    ]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_that_documents_name_exist(page):
    named = set(re.findall(r"(?:^|`|\$ )tally ([a-z]+)", page.read_text(), flags=re.MULTILINE))
    assert named - set(COMMANDS) == set()


def test_readme_shows_the_two_commands_on_its_first_screen():
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    assert "make demo" in first_screen
    assert "make test" in first_screen


def test_decisions_state_what_a_decision_states():
    for page in (ROOT / "docs" / "decisions").glob("[0-9]*.md"):
        text = page.read_text().lower()
        missing = [
            word for word in ("status", "date", "context", "outcome", "what gets worse") if word not in text
        ]
        assert (page.name, missing) == (page.name, [])
