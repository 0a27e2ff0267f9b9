"""A small GitLab runner: a component's inputs filled in, and a job's script executed with the variables given."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

INPUT = re.compile(r"\$\[\[ inputs\.([\w-]+) \]\]")


def filled(template: Path, inputs: Mapping[str, str]) -> str:
    """Return the component's document with ``inputs`` in it; one that is missing or not declared is an error."""
    head, _, body = template.read_text().partition("\n---\n")
    declared = yaml.safe_load(head)["spec"]["inputs"]
    assert set(inputs) <= set(declared)
    values = {name: inputs.get(name, one.get("default")) for name, one in declared.items()}
    for name, one in declared.items():
        assert values[name] is not None, name
        assert re.search(one.get("regex", ""), values[name]), name
    return INPUT.sub(lambda found: values[found[1]], body)


def execute(
    document: Mapping[str, Any], name: str, folder: Path, variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Execute the job ``name`` in ``folder`` as GitLab's shell does: one script, which ends at the first failure."""
    base = document[document[name]["extends"]]
    job = {
        **base,
        **document[name],
        "variables": {**base["variables"], **document[name].get("variables", {})},
    }
    environment = dict(variables)
    for key, value in job["variables"].items():
        environment[key] = re.sub(r"\$([A-Z_]+)", lambda found: environment.get(found[1], ""), value)
    lines = "\n".join([*job["before_script"], *job["script"]])
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", lines],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
