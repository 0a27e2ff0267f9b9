"""The threat model names a test for each claim, and the tests exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "threat-model.md").read_text()
ROWS = [row for row in re.findall(r"^\| (.+) \| (.+) \|$", TEXT, re.MULTILINE) if row != ("claim", "test")]


def tests():
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.add(node.name)
    return found


EXISTING = tests()


@pytest.mark.parametrize(("claim", "named"), ROWS)
def test_each_claim_has_its_tests(claim, named):
    names = re.findall(r"`(test_\w+)`", named)
    assert names, f"{claim}: no test"
    assert [name for name in names if name not in EXISTING] == []


def test_there_are_claims():
    assert len(ROWS) > 30
