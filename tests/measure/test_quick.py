"""Plain commands that skip the command-line library say exactly what it would have said."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from measure.launches import snp_firmware

from tallystick.cli import app, quick

PIPELINE = Path(__file__).resolve().parents[2] / "pipeline"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "fw").write_bytes(snp_firmware())
    (folder / "kernel").write_bytes(b"kernel" * 999)
    (folder / "initrd").write_bytes(b"initrd" * 999)
    return folder


PLAIN = [
    ["{}/fw", "--vcpu-type", "EPYC-Milan"],
    ["--ovmf", "{}/fw", "--vcpu-type", "EPYC-Milan,EPYC-Genoa", "--vcpus", "1,2,9", "--json"],
    ["--json", "--firmware", "{}/fw", "--vcpu-sig", "0x800f12", "--kernel", "{}/kernel"],
    [
        "--ovmf",
        "{}/fw",
        "--vmm",
        "ec2",
        "--kernel",
        "{}/kernel",
        "--initrd",
        "{}/initrd",
        "--append",
        "a=b c",
    ],
    [
        "--ovmf",
        "{}/fw",
        "--vmm-type",
        "gce",
        "--guest-features",
        "0x21",
        "--cmdline",
        "x",
        "--kernel",
        "{}/kernel",
    ],
]


@pytest.mark.parametrize("arguments", PLAIN)
def test_the_short_way_prints_what_the_long_way_prints(files, capsys, arguments):
    words = ["measure", "snp", *(one.format(files) for one in arguments)]
    said = quick.run(words)
    assert said is not None
    assert app._run(words) == 0
    assert capsys.readouterr().out == said


def test_the_version_is_the_librarys(capsys):
    assert app._run(["--version"]) == 0
    assert quick.run(["--version"]) == capsys.readouterr().out


def test_options_are_those_of_the_command():
    """Every option of the short way is one of the command's, under the same name, with the same default."""
    from tallystick.cli import measure

    known = {spelled: one for one in measure.command("snp").params for spelled in one.opts}
    for spelled, name in quick.SNP_OPTIONS.items():
        assert known[spelled].name == name
        if name in quick.SNP_DEFAULTS:
            assert known[spelled].default == quick.SNP_DEFAULTS[name]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["measure"],
        ["measure", "snp"],
        ["measure", "snp", "--help"],
        ["measure", "snp", "{}/fw", "--help"],
        ["measure", "snp", "{}/fw"],
        ["measure", "snp", "{}/fw", "{}/fw", "--vcpu-type", "EPYC"],
        ["measure", "snp", "{}/fw", "--vcpu-type=EPYC"],
        ["measure", "snp", "{}/fw", "--vcpu-type"],
        ["measure", "snp", "{}/fw", "--vcpu-type", "--json"],
        ["measure", "snp", "{}/fw", "--vcpu-type", "EPYC", "--explain"],
        ["measure", "snp", "{}/fw", "--vcpu-type", "EPYC", "--svsm", "{}/fw"],
        ["measure", "snp", "{}/fw", "--vcpu-type", "EPYC-Naples"],
        ["measure", "snp", "{}/fw", "--vcpu-type", "EPYC", "--vcpus", "0"],
        ["measure", "snp", "{}/fw", "--vcpu-type", "EPYC", "--initrd", "{}/initrd"],
        ["measure", "snp", "{}/fw", "--vcpu-type", "EPYC", "--append", "x"],
        ["measure", "snp", "{}/fw", "--vcpu-type", "EPYC", "--kernel", "{}/none"],
        ["measure", "snp", "{}/none", "--vcpu-type", "EPYC"],
        ["measure", "snp", "{}/kernel", "--vcpu-type", "EPYC"],
        ["measure", "snp", "{}", "--vcpu-type", "EPYC"],
        ["measure", "snp", "/dev/zero", "--vcpu-type", "EPYC"],
        ["measure", "snp", "{}/fw", "--vcpu-type", "EPYC", "--kernel", "/dev/zero"],
        ["measure", "tdx", "{}/fw"],
    ],
)
def test_whatever_is_not_plain_goes_the_long_way(files, arguments):
    assert quick.run([one.format(files) for one in arguments]) is None


@given(
    st.lists(st.sampled_from([*quick.SNP_OPTIONS, "--json", "--", "-x", "", "0", "1,2", "/dev/null", "EPYC"]))
)
def test_any_words_are_printed_for_or_left(words):
    """Garbage is never printed for, and never ends in an exception."""
    assert quick.run(["measure", "snp", *words]) is None


@pytest.mark.parametrize("arguments", [["measure", "snp", "{}/none", "--vcpu-type", "EPYC", "--json"]])
def test_errors_are_the_contracts(files, arguments):
    command = [sys.executable, "-m", "tallystick.cli", *(one.format(files) for one in arguments)]
    found = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONPATH": str(PIPELINE)})
    assert (found.returncode, json.loads(found.stdout)["error"]["code"]) == (2, "file.missing")


def test_the_short_way_loads_no_command_line_library(files):
    code = (
        "import sys; from tallystick.cli import quick;"
        f"assert quick.run(['measure', 'snp', '{files}/fw', '--vcpu-type', 'EPYC']);"
        "print([name for name in ('typer', 'pydantic', 'cryptography', 'shutil', 'json') if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PIPELINE)},
    )
    assert found.stdout.strip() == "[]", found.stderr


def test_the_group_lists_every_command_that_its_modules_register():
    from tallystick.cli import measure

    registered = set()
    for path in (PIPELINE / "tallystick/cli").glob("measure_*.py"):
        module = importlib.import_module(f"tallystick.cli.{path.stem}")
        if hasattr(module, "register"):
            one = typer.Typer()
            module.register(one)
            registered |= {(measure._name(info), path.stem) for info in one.registered_commands}
    assert registered == set(measure.MODULES.items())
    assert [measure.command(name).name for name in measure.MODULES] == list(measure.MODULES)
