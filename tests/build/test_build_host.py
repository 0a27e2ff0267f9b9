"""What the machine must have, and what is said when it has not: with stand-ins for the tools, no Nix is run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tallystick.build import host, nix
from tallystick.build.nix import BuildFailed, Nix, Store
from tallystick.core.errors import Exit, Misuse, NotGenuine, Unreachable, Unsupported

ROOT = Path(__file__).resolve().parents[2]


def tool(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def tools(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.fixture
def place(tmp_path) -> tuple[Nix, Store]:
    store = Store(root=tmp_path / "store", work=tmp_path / "work")
    store.work.mkdir()
    return Nix(version="2.8.0", configuration=tmp_path, home=tmp_path, prefix=()), store


def test_without_nix_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        Unreachable, match="Nix is not on this machine: install the package nix-bin"
    ) as caught:
        host.prepare(tmp_path / "state")
    assert caught.value.code == "nix.missing"


@pytest.mark.parametrize("version", ["2.3.16", "1.11", "2.7.9", "something"])
def test_an_older_nix_is_refused(version, tools, tmp_path):
    for name in ("nix-store", "nix-instantiate"):
        tool(tools, name, f"echo 'nix-instantiate (Nix) {version}'")
    with pytest.raises(Unsupported, match=r"Nix: version: want 2\.8 or newer") as caught:
        host.prepare(tmp_path / "state")
    assert caught.value.code == "nix.too-old"


@pytest.mark.parametrize(
    ("text", "numbers"), [("2.8.0", (2, 8, 0)), ("2.34.8pre1", (2, 34, 8)), ("2.18", (2, 18)), ("x", ())]
)
def test_versions_are_read_as_numbers(text, numbers):
    assert nix.version_of(text) == numbers


def test_without_root_or_sudo_the_reason_is_said(tools, tmp_path, monkeypatch):
    for name in ("nix-store", "nix-instantiate"):
        tool(tools, name, "echo 'nix (Nix) 2.8.0'")
    tool(tools, "sudo", "exit 1")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Misuse, match="building needs root, or sudo without a password") as caught:
        host.prepare(tmp_path / "state")
    assert caught.value.code == "nix.no-root"


@pytest.mark.parametrize(
    ("said", "error", "code", "status"),
    [
        ("error: writing to file: No space left on device", Unreachable, "build.no-space", Exit.UNREACHABLE),
        (
            "error: this system does not support the kernel namespaces that are required for sandboxing",
            Unsupported,
            "nix.no-sandbox",
            Exit.UNSUPPORTED,
        ),
        ("error: builder failed with exit code 1", BuildFailed, "build.failed", Exit.MALFORMED),
    ],
)
def test_what_nix_says_becomes_an_error_of_ours(said, error, code, status, tools, place):
    tool(tools, "nix-store", f"echo '{said}' >&2; exit 1")
    with pytest.raises(error) as caught:
        nix.realise(*place, ["/nix/store/x.drv"], lambda _: None)
    assert (caught.value.code, caught.value.exit) == (code, status)


def test_a_failing_step_is_quoted(tools, place):
    tool(tools, "nix-store", "echo 'guest-imports: tallystick.x: No module named y' >&2; exit 1")
    with pytest.raises(BuildFailed, match="No module named y"):
        nix.realise(*place, ["/nix/store/x.drv"], lambda _: None)


def test_a_store_path_that_changed_is_a_finding(tools, place):
    line = "path '/nix/store/abc-x' was modified! expected hash 'sha256:1', got 'sha256:2'"
    tool(tools, "nix-store", f'echo "{line}" >&2; exit 1')
    with pytest.raises(NotGenuine, match="1 store path") as caught:
        nix.verify(*place, ["/nix/store/abc-x"])
    (finding,) = caught.value.findings
    assert (finding.code, finding.where, finding.want, finding.got) == (
        "store.modified",
        "/nix/store/abc-x",
        "sha256:1",
        "sha256:2",
    )


def test_nix_sees_only_the_environment_that_it_is_given(tools, place, monkeypatch):
    monkeypatch.setenv("NIX_PATH", "nixpkgs=/somewhere")
    monkeypatch.setenv("NIX_REMOTE", "daemon")
    tool(tools, "nix-store", "env")
    said = nix.run(*place, "nix-store", "--version")
    assert "NIX_PATH" not in said
    assert "NIX_REMOTE" not in said
    assert f"NIX_CONF_DIR={place[0].configuration}" in said


@pytest.mark.parametrize("path", ["/a b/c", '/q"uote', "/dollar${x}", "/back\\slash"])
def test_odd_paths_reach_nix_as_they_are(path):
    expression = nix._path_expression(Path(path))
    assert expression.startswith('(/. + "')
    inner = expression.removeprefix('(/. + "').removesuffix('")')
    for escaped, plain in (("\\${", "${"), ('\\"', '"'), ("\\\\", "\\")):
        inner = inner.replace(escaped, plain)
    assert inner == path


INTERRUPTED = """
import sys
from pathlib import Path
from tallystick.build import host, nix
from tallystick.build.nix import Nix, Store
folder = Path(sys.argv[1])
store = Store(root=folder, work=folder)
one = Nix(version="2.8.0", configuration=folder, home=folder, prefix=())
try:
    with host.stopping_cleanly():
        nix.realise(one, store, ["x"], lambda _: print("building", flush=True))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_nix_and_wait_for_it(number, tools, tmp_path):
    line = "building '/nix/store/" + "0" * 32 + "-slow.drv'..."
    text = f"trap 'touch {tmp_path}/stopped; exit 1' INT\necho \"{line}\" >&2\nwhile :; do sleep 0.05; done"
    tool(tools, "nix-store", text)
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "pipeline")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "building\n"
    child.send_signal(number)
    assert child.wait(20) == 130
    assert (tmp_path / "stopped").exists()
    child.stdout.close()


def test_what_a_killed_run_left_is_taken_away(place, tmp_path):
    state = tmp_path / "state"
    old, own = state / "second-999999999", state / f"second-{os.getpid()}"
    for folder in (old, own):
        folder.mkdir(parents=True)
    host._clear_old(place[0], state)
    assert (old.exists(), own.exists()) == (False, True)
