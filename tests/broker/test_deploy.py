"""The service's unit and manifests: systemd reads the one, the other is what the restricted profile asks for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "docs" / "deploy"
UNIT = DEPLOY / "tallystick-broker.service"


def _options(words):
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def _known():
    env = {**os.environ, "PYTHONPATH": str(ROOT / "pipeline"), "COLUMNS": "200"}
    command = [sys.executable, "-m", "tallystick.cli", "broker", "serve", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return set(re.findall(r"--[a-z-]+", shown.stdout))


def _manifests(name="kubernetes.yaml"):
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def _pod(manifests):
    (found,) = (m for m in manifests if m["kind"] in ("StatefulSet", "Deployment"))
    return found["spec"]["template"]["spec"]


def test_all_start_the_service_with_options_that_it_has():
    start = re.search(r"ExecStart=(.*?)\n[A-Z]", UNIT.read_text(), re.DOTALL)[1]
    pods = [_pod(_manifests()), _pod(_manifests("kubernetes-replicas.yaml"))]
    for words in (start.split(), *(pod["containers"][0]["args"] for pod in pods)):
        assert len(_options(words)) > 7
        assert _options(words) <= _known()


def test_the_gate_is_started_with_options_that_it_has_and_probed_where_it_answers():
    from tallystick.cli import front

    deployment = next(iter(yaml.safe_load_all((DEPLOY / "gate.yaml").read_text())))
    workload, gate = deployment["spec"]["template"]["spec"]["containers"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "pipeline"), "COLUMNS": "200"}
    command = [sys.executable, "-m", "tallystick.cli", *gate["args"][:2], "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert _options(gate["args"]) <= set(re.findall(r"--[a-z-]+", shown.stdout))
    probe = gate["readinessProbe"]["httpGet"]
    assert (probe["path"], gate["livenessProbe"]["httpGet"]["path"]) == (front.READY_PATH, front.HEALTH_PATH)
    assert "--host=127.0.0.1" in workload["args"]  # nothing reaches it but through the gate


def test_systemd_takes_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    text = (
        UNIT.read_text()
        .replace("/opt/tallystick/bin/tally", "/bin/true")
        .replace("User=tallystick", "User=daemon")
    )
    place = tmp_path / UNIT.name
    place.write_text(text.replace("Group=tallystick", "Group=daemon"))
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", place], capture_output=True, text=True, check=False
    )
    ours = [line for line in said.stderr.splitlines() if UNIT.name in line]
    assert (said.returncode, ours) == (0, []), said.stderr


def test_systemd_finds_little_that_the_service_may_do(tmp_path):
    """Its own score, from 0 to 100: what is left is the network, sockets and the host's files, read-only."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    place = tmp_path / UNIT.name
    place.write_text(UNIT.read_text().replace("/opt/tallystick/bin/tally", "/bin/true"))
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=12", "--no-pager", place]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


def test_the_unit_keeps_keys_in_the_process():
    lines = set(UNIT.read_text().splitlines())
    for line in (
        "User=tallystick",
        "LimitCORE=0",
        "MemorySwapMax=0",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "UMask=0077",
        "StateDirectoryMode=0700",
    ):
        assert line in lines


@pytest.mark.parametrize("name", ["kubernetes.yaml", "kubernetes-replicas.yaml"])
def test_the_pods_are_restricted(name):
    """Kubernetes, Pod Security Standards, "Restricted"; and no token, secrets in memory alone."""
    pod = _pod(_manifests(name))
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["containers"], *pod["initContainers"]):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        volumes = {volume["name"] for volume in pod["volumes"]} | {"state"}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    kinds = {volume["name"]: volume for volume in pod["volumes"]}
    secret = "credentials" if name == "kubernetes.yaml" else "home"
    assert kinds[secret]["emptyDir"] == {"medium": "Memory"}
    (probe,) = (container["readinessProbe"] for container in pod["containers"])
    assert probe["httpGet"]["path"] == "/readyz"


def test_one_broker_asks_nobody_and_replicas_their_database_and_witness_alone():
    alone, replicas = (
        next(m for m in _manifests(name) if m["kind"] == "NetworkPolicy")["spec"]
        for name in ("kubernetes.yaml", "kubernetes-replicas.yaml")
    )
    assert alone["egress"] == []
    assert {port["port"] for rule in replicas["egress"] for port in rule["ports"]} == {5432, 443, 53}
    assert all(rule["to"] for rule in replicas["egress"])


def test_what_the_readme_calls_are_commands():
    """Every option of `tally broker` that the page shows is one."""
    from typer.main import get_command

    from tallystick.cli.broker import app

    text = (DEPLOY / "README.md").read_text()
    known = get_command(app).commands
    for name, rest in re.findall(r"^tally broker (\w+) (.*?)(?:#.*)?$", text, re.MULTILINE):
        command = known[name]
        options = (
            {option for parameter in command.params for option in parameter.opts}
            if not hasattr(command, "commands")
            else None
        )
        assert options is None or _options(rest.split()) <= options, name
