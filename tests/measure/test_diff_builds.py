"""Recipes built for real with one change each: ``tally measure diff`` names it first, and names nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tallystick.build import host

pytestmark = [pytest.mark.nix, pytest.mark.soak]

ROOT = Path(__file__).resolve().parents[2]
RECIPE = (ROOT / "build/confidential-inference.yaml").read_text()


def edited(old: str, new: str) -> str:
    assert RECIPE.count(old) == 1, old
    return RECIPE.replace(old, new)


CHANGES = {
    "command line": (edited("panic=-1 quiet", "panic=-1 quiet loglevel=3"), ("image", "command-line", "uki")),
    "dependency": (
        edited("wheels: wheels", "wheels: wheels-rfc8785-0.1.3"),
        ("image", "component", "rfc8785"),
    ),
    "name in os-release": (edited("version: 0.1.0", "version: 0.1.1"), ("image", "file", "uki: .osrel")),
    "vcpus": (edited("vcpus: [1]\n", "vcpus: [3]\n"), ("host", "vcpus", "vcpus")),
    "ram": (edited("ram_mib: 512", "ram_mib: 1024"), ("host", "ram_mib", "ram_mib")),
}


def tally(place: Path, *arguments: object) -> dict:
    command = [sys.executable, "-m", "tallystick.cli", *map(str, arguments), "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "pipeline"), "TALLY_STATE": str(place / "state")}
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    return json.loads(found.stdout)


@pytest.fixture(scope="module")
def place():
    base = ROOT / ".state"
    base.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="diff-builds-", dir=base))
    folder.chmod(0o755)
    yield folder
    host.remove(host.prepare(folder / "state"), folder)


@pytest.fixture(scope="module")
def base(place):
    tally(place, "build", ROOT / "build/confidential-inference.yaml", "-o", place / "base")
    return place / "base"


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_recipe_is_named_from_the_builds(base, place, name):
    text, right = CHANGES[name]
    recipe = place / f"{name.replace(' ', '-')}.yaml"
    recipe.write_text(text)
    after = place / recipe.stem
    tally(place, "build", recipe, "-o", after)
    found = tally(place, "measure", "diff", base, after)
    assert not found["same"]
    for launch in found["launches"]:
        assert launch["unexplained"] == []
        assert [(one["where"], one["kind"], one["name"]) for one in launch["causes"]] == [right]
        assert right[0] == "host" or launch["causes"][0]["inputs"]  # the derivations that differ
