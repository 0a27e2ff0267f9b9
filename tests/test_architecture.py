"""What a quick look can not keep: import arrows, folder rules, the clock, hosts, heavy imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pipeline" / "tallystick"

# DESIGN.md's table, top to bottom: a package imports only packages above it; only `cli` composes.
ORDER = [
    "core",
    "formats",
    "handshake",
    "tlog",
    "build",
    "sbom",
    "provenance",
    "measure",
    "signing",
    "policy",
    "release",
    "evidence",
    "appraisal",
    "compile",
    "attester",
    "broker",
    "report",
    "cli",
]

# What is in the measured image, or has no trust and no I/O, may use only this much.
ONLY = {
    "core": set(),
    "formats": {"core"},
    "handshake": {"core"},
    "attester": {"core", "handshake"},
}


class Import(NamedTuple):
    importer: str  # package
    imported: str  # package
    place: str


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports() -> Iterator[Import]:
    for path in sources():
        relative = path.relative_to(PACKAGE)
        if len(relative.parts) == 1:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
                if node.module == "tallystick":
                    names = [f"tallystick.{alias.name}" for alias in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] == "tallystick" and len(parts) > 1 and parts[1] in ORDER:
                    yield Import(relative.parts[0], parts[1], f"{relative}:{node.lineno}")


def test_every_package_is_in_the_order():
    assert sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()) == sorted(ORDER)


def test_imports_only_look_up():
    late = [i for i in imports() if ORDER.index(i.imported) > ORDER.index(i.importer)]
    assert late == []


def test_what_must_stay_small_imports_little():
    wide = [i for i in imports() if i.importer in ONLY and i.imported not in ONLY[i.importer] | {i.importer}]
    assert wide == []


def test_core_is_standard_library_only():
    foreign = []
    for path in (PACKAGE / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            foreign += [
                (path.name, m)
                for m in modules
                if m.split(".")[0] not in sys.stdlib_module_names | {"tallystick", "__future__"}
            ]
    assert foreign == []


def test_build_is_not_a_package():
    """``build/__init__.py`` would shadow PyPI's ``build`` for ``python -m build``."""
    assert list((ROOT / "build").rglob("*.py")) == []


def test_only_the_edges_read_the_clock():
    """DESIGN.md, invariant 9. Ruff's banned-api says the same; this names the exceptions."""
    clock = re.compile(r"datetime\.now\(|utcnow\(|time\.time\(|time\.time_ns\(|date\.today\(")
    edges = {"cli/clock.py", "broker/clock.py"}
    readers = {str(path.relative_to(PACKAGE)) for path in sources() if clock.search(path.read_text())}
    assert readers <= edges, readers - edges


def committed() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name.decode() for name in names.split(b"\0") if name and (ROOT / name.decode()).is_file()]


def registry_hosts() -> set[str]:
    """The hosts this machine installs from, by its own configuration: no list of them stands here."""
    found: set[str] = set()
    for command in (["pip", "config", "list"], ["apt-get", "indextargets", "--format", "$(SITE)"]):
        try:
            text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        except FileNotFoundError:
            continue
        found |= set(re.findall(r"https?://([A-Za-z0-9.-]+\.[a-z]+)", text))
    return found


def test_no_registry_host_is_committed():
    hosts = registry_hosts()
    bad = []
    for path in committed():
        text = path.read_text(errors="ignore")
        bad += [(str(path.relative_to(ROOT)), host) for host in hosts if host in text]
    assert bad == []


def test_no_private_key_is_committed():
    words = ("BEGIN", "PRIVATE", "KEY")
    marker = re.compile("-----{} ([A-Z]+ )*{} {}-----".format(*words))
    assert [path.name for path in committed() if marker.search(path.read_text(errors="ignore"))] == []


HEAVY = (
    "sigstore",
    "cryptography",
    "tuf",
    "in_toto",
    "jsonschema_rs",
    "regorus",
    "starlette",
    "uvicorn",
    "yaml",
    "rich",
)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    script = (
        "import sys\nfrom tallystick.cli.app import _run\n"
        f"code = _run({arguments!r})\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "sys.stderr.write(repr((code, heavy)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "pipeline"), "PATH": "/usr/bin:/bin"},
    )
    assert result.stderr == "(0, [])"
