"""A small GitHub runner: executes the steps of a workflow's job with the environment that a real runner sets.

Of actions it knows those that the workflows use: checkout, upload and download of artifacts, and the project's own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SHELLS = {None: ["bash", "-e"], "bash": ["bash", "--noprofile", "--norc", "-eo", "pipefail"]}
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


class Failed(Exception):
    """A step ended with another code than 0."""


@dataclass(kw_only=True)
class Run:
    """One run of a reusable workflow, over jobs on machines of their own."""

    folder: Path
    repository: Path  # what checkout brings
    inputs: Mapping[str, str]
    secrets: Mapping[str, str]
    environment: Mapping[str, str]
    event: Mapping[str, Any]
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)  # of jobs' steps
    log: list[str] = field(default_factory=list)
    machines: list[Path] = field(default_factory=list)

    def job(self, workflow: Path, name: str) -> Path:
        """Execute the job ``name`` in a fresh workspace, and return that.

        Raises:
            Failed: a step did.
        """
        document = yaml.safe_load(workflow.read_text())
        declared = document[True]["workflow_call"]["inputs"]  # YAML 1.1 reads the key `on` as true
        assert set(self.inputs) <= set(declared)
        job = document["jobs"][name]
        machine = _Machine(self, name, {key: one.get("default", "") for key, one in declared.items()})
        assert machine.holds(job.get("if", "true")), f"the job {name} would not run"
        for step in job["steps"]:
            machine.step(step)
        return machine.workspace


class _Machine:
    """A fresh machine of a job."""

    def __init__(self, run: Run, job: str, defaults: Mapping[str, str]) -> None:
        self._run, self._job = run, job
        self._home = run.folder / f"{len(run.machines)}-{job}"
        run.machines.append(self._home)
        self.workspace = self._home / "workspace"
        for path in (self.workspace, self._home / "temp", self._home / "files"):
            path.mkdir(parents=True)
        self._steps: dict[str, dict[str, str]] = {}
        self._path: list[str] = []
        self._contexts = {
            "inputs": {**defaults, **run.inputs},
            "secrets": run.secrets,
            "vars": {},
            "github": {"token": "the-token", **run.event},
            "job": {"workflow_ref": run.environment["TEST_WORKFLOW_REF"]},
        }

    def step(self, step: Mapping[str, Any], action: Path | None = None) -> None:
        """Execute one step of the job, or of a composite action in the folder ``action``."""
        if not self.holds(step.get("if", "true")):
            return
        if "uses" in step:
            self._use(step["uses"], {key: self.filled(value) for key, value in step.get("with", {}).items()})
            return
        files = {
            name: self._home / "files" / name
            for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")
        }
        for name, path in files.items():
            if name != "GITHUB_STEP_SUMMARY":
                path.write_text("")
        environment = {
            **self._run.environment,
            **{name: str(path) for name, path in files.items()},
            **{key: self.filled(value) for key, value in step.get("env", {}).items()},
            "RUNNER_TEMP": str(self._home / "temp"),
            "HOME": str(self._home),
            "PATH": os.pathsep.join([*self._path, self._run.environment["PATH"]]),
        }
        if action is not None:
            environment["GITHUB_ACTION_PATH"] = str(action)
        script = self._home / "temp" / "script.sh"
        script.write_text(self.filled(step["run"]))
        done = subprocess.run(
            [*SHELLS[step.get("shell")], str(script)],
            cwd=self.workspace, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = f"{self._job}: {step.get('name')}\n{done.stdout}{done.stderr}"
        self._run.log.append(said)
        if done.returncode != 0:
            raise Failed(f"exit {done.returncode}: {said}")
        self._path += files["GITHUB_PATH"].read_text().splitlines()
        if "id" in step:
            lines = files["GITHUB_OUTPUT"].read_text().splitlines()
            self._steps[step["id"]] = self._run.outputs[step["id"]] = dict(
                line.split("=", 1) for line in lines
            )

    def _use(self, name: str, given: Mapping[str, str]) -> None:
        artifacts = self._run.folder / "artifacts"
        known = name.partition("@")[0]
        if name.startswith("$/"):
            folder = ROOT / name.removeprefix("$/")
            for step in yaml.safe_load((folder / "action.yml").read_text())["runs"]["steps"]:
                self.step(step, folder)
        elif known == "actions/checkout":
            shutil.copytree(self._run.repository, self.workspace / given.get("path", "."), dirs_exist_ok=True)
        elif known == "actions/upload-artifact":
            shutil.copytree(self.workspace / given["path"], artifacts / given["name"])
        elif known == "actions/download-artifact":
            shutil.copytree(artifacts / given["name"], self.workspace / given["path"], dirs_exist_ok=True)
        else:
            raise AssertionError(f"an action that this runner does not know: {name}")

    def filled(self, text: object) -> str:
        """Return ``text`` with its expressions replaced; one that is not known is an error of the test."""
        return EXPRESSION.sub(lambda found: str(self._value(found[1])), str(text))

    def holds(self, condition: str) -> bool:
        """Return whether the ``if`` of a job or step holds: comparisons joined by ``&&``."""
        return all(self._compare(part.strip()) for part in condition.split("&&"))

    def _compare(self, text: str) -> bool:
        if text == "true":
            return True
        left, operator, right = re.fullmatch(r"(.+?) (==|!=) (.+)", text).groups()  # type: ignore[union-attr]
        return (self._value(left) == self._value(right)) == (operator == "==")

    def _value(self, expression: str) -> Any:
        if quoted := re.fullmatch(r"'([^']*)'", expression):
            return quoted[1]
        if step := re.fullmatch(r"steps\.([\w-]+)\.outputs\.([\w-]+)", expression):
            return self._steps[step[1]][step[2]]
        context, *path = expression.split(".")
        value: Any = self._contexts[context]
        for key in path:
            value = value.get(key, "") if context in ("secrets", "vars") else value[key]
        return value
