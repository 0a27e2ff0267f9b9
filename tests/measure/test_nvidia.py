"""Reference values out of signed RIM files, and the command that prints them."""

from __future__ import annotations

import json

import pytest
import support_nvidia as made
from support_corpus import corpus
from typer.testing import CliRunner

from tallystick.cli.measure import app
from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, NotGenuine
from tallystick.evidence import rim as verifier
from tallystick.evidence import roots
from tallystick.formats import rim as rim_format
from tallystick.formats import safexml
from tallystick.measure.nvidia import reference_values

RUN = CliRunner()


def manifest(**fields):
    text = made.rim_xml(**fields).encode()
    return rim_format.read(safexml.parse(text, "RIM")), Digest.of(text)


DRIVER = manifest(active={8: [b"a" * 48, b"b" * 48]})
VBIOS = manifest(version=made.VBIOS, active={1: [b"c" * 48]})


def test_a_gpus_two_manifests_go_together():
    found = reference_values([DRIVER, VBIOS])
    assert (found.kind, found.complete) == ("nvidia-gpu", True)
    assert [(m.index, len(m.values)) for m in found.measurements] == [(1, 1), (8, 2)]
    assert dict(found.claims) == {
        "measres": "success",
        "x-nvidia-gpu-driver-version": made.DRIVER,
        "x-nvidia-gpu-driver-rim-digest": str(DRIVER[1]),
        "x-nvidia-gpu-vbios-version": made.VBIOS,
        "x-nvidia-gpu-vbios-rim-digest": str(VBIOS[1]),
    }


def test_one_of_two_is_not_everything_and_a_switchs_one_is():
    assert not reference_values([DRIVER]).complete
    switch = reference_values([manifest(version=made.VBIOS, edition="SWITCH", product="LS10")])
    assert (switch.kind, switch.complete) == ("nvidia-switch", True)
    assert "x-nvidia-switch-bios-rim-digest" in dict(switch.claims)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no RIM"),
        ([DRIVER, DRIVER], "want one driver's and one VBIOS's RIM of one product"),
        ([DRIVER, manifest(version=made.VBIOS, product="GB100")], "of one product"),
        ([DRIVER, manifest(version=made.VBIOS, active={8: [b"c" * 48]})], "index 8 is active in both RIMs"),
        ([manifest(edition="SWITCH")], "a SWITCH has no RIM of a driver"),
    ],
)
def test_manifests_that_do_not_go_together(given, message):
    with pytest.raises(Misuse, match=message):
        reference_values(given)


@pytest.fixture
def maker(monkeypatch):
    found = made.RimMaker(begins=-1000, ends=1000)
    verifier.verify.cache_clear()
    monkeypatch.setattr(roots, "certificate", lambda name: found.authority.root)
    yield found
    verifier.verify.cache_clear()


def test_the_command_verifies_before_it_prints(maker, tmp_path):
    files = []
    for name, fields in (
        ("driver", {"active": {8: [b"a" * 48]}}),
        ("vbios", {"version": made.VBIOS, "active": {1: [b"c" * 48]}}),
    ):
        files.append(tmp_path / f"{name}.xml")
        files[-1].write_bytes(maker.rim(**fields))
    at = ["--at", made.AT.isoformat()]
    result = RUN.invoke(app, ["nvidia", *map(str, files), "--json", *at])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["complete"] is True
    assert document["measurements"] == {"1": [(b"c" * 48).hex()], "8": [(b"a" * 48).hex()]}
    assert [one["source"] for one in document["rims"]] == ["driver", "vbios"]
    assert "one is missing" in RUN.invoke(app, ["nvidia", str(files[0]), *at]).stdout
    files[0].write_bytes(files[0].read_bytes().replace(b"61" * 48, b"62" * 48))
    result = RUN.invoke(app, ["nvidia", *map(str, files), *at])
    assert isinstance(result.exception, NotGenuine)


def test_a_file_that_is_not_signed(tmp_path):
    path = tmp_path / "rim.xml"
    path.write_text(made.rim_xml())
    assert "Signature: want one" in str(RUN.invoke(app, ["nvidia", str(path)]).exception)


@pytest.mark.corpus
def test_a_real_manifest():
    path = corpus("evidence/nvidia/rims/switchVBIOSRim_NV_SWITCH_BIOS_5612_0002_890_9610550001.xml")
    result = RUN.invoke(app, ["nvidia", str(path), "--json", "--at", "2026-11-22T00:00:00Z"])
    document = json.loads(result.stdout)
    assert (document["kind"], len(document["measurements"])) == ("nvidia-switch", 31)
    assert document["claims"]["x-nvidia-switch-bios-version"] == "96.10.55.00.01"
