"""The worked examples under docs/patterns, run: every command of a page, in order, with its exit code.

``tally build`` and ``tally rebuild`` are played here: they take Nix and minutes. Everything else is the real thing: the
commands, the embedded Sigstore, channels, the broker, and TPMs in software that were taken through a boot.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from release import world as worlds
from sbom import builds

from tallystick.attester.tpm import open_tpm
from tallystick.build import recipe as recipes
from tallystick.cli.app import _run
from tallystick.cli.demo.softtpm import TpmMaker, emulator
from tallystick.core.digests import Digest
from tallystick.handshake import initdata
from tallystick.measure import statement
from tallystick.measure.records import Measurement
from tallystick.release import index, keys, links

DOCS = Path(__file__).resolve().parents[2] / "docs/patterns"
PATTERNS = ("inference", "training", "clean-room")
BOOTED = (0, 1, 2, 3, 4, 5, 6, 7, 9, 11)
EMPTY = (12, 13, 14, 15)
pytestmark = pytest.mark.skipif(shutil.which("swtpm_setup") is None, reason="swtpm is not installed")


def _event(image: str, register: int) -> bytes:
    return hashlib.sha256(f"{image} {register}".encode()).digest()


def _registers(image: str, toml: bytes | None) -> dict[str, str]:
    """What a TPM holds after ``image`` booted and measured its init-data."""
    found = {f"pcr{n:02}": hashlib.sha256(bytes(32) + _event(image, n)).hexdigest() for n in BOOTED}
    found |= {f"pcr{n:02}": "0" * 64 for n in EMPTY}
    return found | {"pcr08": "0" * 64 if toml is None else initdata.pcr8(toml).hex()}


class Page:
    """One page's commands, and the folder that they are run in."""

    def __init__(self, name: str, folder: Path, port: int) -> None:
        self.name, self.folder = name, folder
        self.home = folder / "home"
        self.broker = f"http://127.0.0.1:{port}"
        self.port = port
        self.stack = ExitStack()

    def commands(self) -> list[tuple[str, int]]:
        """Every line of the page's ``sh`` blocks with the exit code that it shall have."""
        blocks = re.findall(r"```sh\n(.*?)```", (DOCS / f"{self.name}.md").read_text(), re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines() if line]
        parted = [re.fullmatch(r"(.*?)(?:  # exit (\d+))?", line) for line in lines]
        return [(one[1], int(one[2] or 0)) for one in parted]

    def run(self, command: str) -> int:
        words = shlex.split(os.path.expandvars(command)) if "'" not in command else shlex.split(command)
        words = [os.path.expandvars(word) if word.startswith("$") else word for word in words]
        if words[0] != "tally":
            return subprocess.run(["sh", "-c", command], check=False).returncode
        if words[1:3] == ["broker", "serve"]:
            return self._serve(words[1:-1])
        if words[1] == "build":
            return self._build(words)
        if words[1] == "rebuild":
            return self._rebuild(Path(words[2]))
        return _run(words[1:])

    def _serve(self, words: list[str]) -> int:
        """Serve in a process of its own until the page is over."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tallystick.cli", *words, "--port", str(self.port)],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stack.callback(lambda: (process.terminate(), process.wait(20)))
        for line in process.stderr:
            if "broker ready" in line:
                threading.Thread(target=process.stderr.read, daemon=True).start()
                return 0
        return 1

    def _build(self, words: list[str]) -> int:
        """What ``tally build RECIPE -o DIR [--init-data FILE]`` leaves, of a small made-up build."""
        recipe = recipes.parse(Path(words[2]).read_bytes())
        toml = Path(words[6]).read_bytes() if "--init-data" in words else None
        folder, made = Path(words[4]), builds.make()
        build = replace(made.build, name=recipe.name, version=recipe.version)
        worlds.unsigned(folder, replace(made, build=build), builder_id=worlds.CI, platform="qemu-vtpm")
        (known,) = statement.from_statement(
            worlds.intoto.parse((folder / "statements/measurements.json").read_bytes())
        )
        assert isinstance(known, Measurement)
        values = tuple(sorted(_registers("the release", toml).items()))
        data = statement.to_statement([replace(known, values=values)], "products/uki.efi")
        (folder / "statements/measurements.json").write_bytes(data)
        products = {product.name: product.path for product in build.products}
        made_index = index.make(folder, name=recipe.name, version=recipe.version, products=products)
        (folder / index.FILE).write_bytes(made_index)
        return 0

    def _rebuild(self, folder: Path) -> int:
        """The link of somebody who got the same bytes."""
        found = index.parse((folder / index.FILE).read_bytes())
        who = keys.load(self.home / "people/rebuilder", "rebuilder")
        data = links.make(found.digest, links.expected(found), who)
        worlds.write(folder / links.FOLDER / links.file_name(who.keyid), data)
        return 0


@contextmanager
def _machine(state: Path, image: str):
    """The TPM in ``state`` after it booted ``image``; its place for --tpm."""
    with emulator(state) as place:
        tpm = open_tpm(str(place))
        for register in BOOTED:
            tpm.extend(register, _event(image, register))
        tpm.close()
        yield str(place)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def organisation(tmp_path_factory):
    """A work directory as ``tally init`` makes it, and two TPMs of its maker: made once, copied for each page."""
    folder = tmp_path_factory.mktemp("organisation")
    assert _run(["init", "--workdir", str(folder / "home")]) == 0
    for name in ("TPM", "OTHER_TPM"):
        TpmMaker(folder / "home/tpm-ca").manufacture(folder / name)
    return folder


@pytest.fixture
def page(request, organisation, tmp_path, monkeypatch):
    shutil.copytree(DOCS / request.param, tmp_path / "page")
    made = Page(request.param, tmp_path / "page", _free_port())
    shutil.copytree(organisation / "home", made.home)
    (made.folder / "weights.bin").write_bytes(bytes(range(256)) * 64)
    (made.folder / "tokenizer.json").write_text('{"model": {}}')
    for name in ("dataset.bin", "records.csv", "claims.csv"):
        (made.folder / name).write_text(f"{name}\n" * 100)
    program = tmp_path / "bin/tally"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tallystick.cli "$@"\n')
    program.chmod(0o755)
    memory = made.stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
    machines = {}
    for name, image in (("TPM", "the release"), ("OTHER_TPM", "something else")):
        shutil.copytree(organisation / name, tmp_path / name)
        machines[name] = made.stack.enter_context(_machine(tmp_path / name, image))
    given = {"TALLY_HOME": made.home, "BROKER": made.broker, "MEMORY": memory, "DATASET": f"{memory}/dataset"}
    given |= {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    for name, value in {**given, **machines}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(made.folder)
    with made.stack:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("page", PATTERNS, indirect=True)
def test_every_command_of_the_page_does_what_the_page_says(page, capfd):
    for command, wanted in page.commands():
        got = page.run(command)
        said = capfd.readouterr()
        assert got == wanted, f"{command}\n{said.out}\n{said.err}"


@pytest.mark.parametrize("name", PATTERNS)
def test_recipe_and_policy_are_of_one_name_and_are_well(name, capsys):
    recipe = recipes.parse((DOCS / name / "recipe.yaml").read_bytes())
    text = (DOCS / name / "policy.yaml").read_text()
    assert f"name: {recipe.name}\n" in text
    assert f"releases: [{recipe.name}]" in text
    assert _run(["policy", "check", str(DOCS / name / "policy.yaml")]) == 0


@pytest.mark.parametrize("name", PATTERNS)
def test_a_page_names_no_file_that_is_not_there(name):
    for target in re.findall(rf"\]\(({name}/[^)]+)\)", (DOCS / f"{name}.md").read_text()):
        assert (DOCS / target).is_file()


def test_the_registers_played_here_are_of_two_different_boots():
    assert Digest.of(str(_registers("the release", None)).encode()) != Digest.of(
        str(_registers("x", None)).encode()
    )
