"""The whole story, run for real: Nix builds, a virtual machine boots, and every refusal is tried on a machine too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tallystick.cli.demo import refusals, story
from tallystick.core.errors import Misuse

pytestmark = [pytest.mark.boot, pytest.mark.nix]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The demo, and beside it the machines whose refusals the demo itself only replays."""
    machines = {}
    replayed = refusals.try_all

    def booted_too(scene):
        image = scene.release / "products/uki.efi"
        changed = bytearray(image.read_bytes())
        section = next(s for s in refusals.pe.parse(bytes(changed)).sections if s.name == ".initrd")
        # the padding after the archive: the kernel boots all the same, and what was measured differs
        changed[section.raw_offset + section.virtual_size - 1] ^= 1
        other = scene.steps.workdir / "other.efi"
        other.write_bytes(changed)
        machines["option rom"] = scene.boot(image, option_rom=True)
        machines["command line"] = scene.boot(image, append="console=ttyS0 panic=-1 quiet extra=1")
        machines["more memory"] = scene.boot(image, ram_mib=1024)
        machines["changed initramfs"] = scene.boot(other)
        return replayed(scene)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("PYTHONPATH", str(ROOT / "pipeline"))
        patch.setattr(refusals, "try_all", booted_too)
        found = story.tell(tmp_path_factory.mktemp("story") / "demo")
    return found, machines


def test_the_machine_that_was_released_answers(told):
    found, _ = told
    assert len(found.answer) > 20
    assert {p["target"]: (p["released"], p["accepted"]) for p in found.proofs} == {
        "broker": (1, 1),
        "trustee": (1, 1),
    }
    assert found.products["uki"]["size"] < 20_000_000


WANTED = {
    "a signed release that nobody promoted": "compile.no-release",
    "a forged release with its own trust roots inside": "bundle.log-unknown",
    "a host that adds an option ROM": "tpm.pcr02.mismatch",
    "one changed byte in the initramfs": "tpm.pcr04.mismatch",
    "another kernel command line": "tpm.pcr12.mismatch",
    "good evidence, shown a second time": "nonce.used",
    "good evidence with somebody else's public key": "tpm.nonce.mismatch",
    "an image built from a changed dependency": "tpm.pcr04.mismatch",
    "a policy file edited by hand": "release.channel.target-changed",
    "a revoked release": "release.revoked",
}


def test_every_attempt_is_refused_for_its_own_reason(told):
    found, _ = told
    assert {one.tried: one.code for one in found.refused} == WANTED
    assert all(one.want and one.got for one in found.refused)


def test_the_component_that_changed_is_named(told):
    found, _ = told
    note = next(one.note for one in found.refused if "dependency" in one.tried)
    assert note == "component rfc8785: 0.1.4 -> 0.1.3 (1 file)"


@pytest.mark.parametrize("name", ["option rom", "command line", "more memory", "changed initramfs"])
def test_a_machine_that_differs_boots_and_gets_no_key(told, name):
    """The same refusals on real boots: the guest itself says that the broker refused it, or never comes up."""
    _, machines = told
    outcome = machines[name]
    assert outcome.answer is None
    if name != "changed initramfs":  # a damaged archive may not boot at all, which is a refusal as well
        assert outcome.refusal is not None
        assert outcome.refusal["event"] == "refused"


def test_no_key_and_no_allow_list_reaches_a_console_or_a_log(told):
    found, machines = told
    promoted = json.loads((found.workdir / "release/statements/measurements.json").read_text())
    values = promoted["predicate"]["attributes"][0]["conditions"]["values"]
    for name, outcome in machines.items():
        text = "\n".join(line for _, line in outcome.lines)
        for register in ("pcr04", "pcr11"):
            if name == "changed initramfs":
                assert values[register] not in text, register
    log = (found.workdir / "broker.log").read_text()
    assert values["pcr04"] not in log


def test_the_page_stands_alone(told):
    found, _ = told
    page = Path(found.page).read_text()
    assert found.release.removeprefix("sha256:") in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(Misuse, match="is no demo of ours"):
        story.tell(tmp_path)
    assert (tmp_path / "precious").read_text() == "mine"
