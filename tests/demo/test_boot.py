"""The built image in a real virtual machine: it proves itself and answers; what a host adds shows."""

from __future__ import annotations

import base64
import hashlib

import pytest
import support_artifacts
from attester.little_broker import LittleBroker, serving
from support_machine import release_file

from tallystick.cli.demo import model
from tallystick.cli.demo.machine import GUEST_BROKER_URL, Machine, write_disk
from tallystick.cli.demo.optionrom import driver
from tallystick.cli.demo.replay import recorded, replayed
from tallystick.core.digests import Digest
from tallystick.formats import pe, uki
from tallystick.measure import qemu
from tallystick.measure.shapes import LaunchShape
from tallystick.measure.uki import image_events

KEYS = {
    "weights": ("confidential-inference/weights/v1", bytes(range(32))),
    "tokenizer": ("confidential-inference/tokenizer/v1", bytes(range(100, 132))),
}
SHAPE = LaunchShape.of(qemu.PLATFORM, {"ram_mib": 512, "vcpus": 1, "vmm": qemu.VMM})

pytestmark = pytest.mark.boot


@pytest.fixture(scope="module")
def deployment():
    weights, tokenizer = model.train(model.corpus())
    return support_artifacts.seal(
        {"weights": weights, "tokenizer": tokenizer}, KEYS, broker_url=GUEST_BROKER_URL
    )


def boot(tpm_state, folder, deployment, *, prompt, **differs):
    write_disk(folder / "disk", deployment.init_data, deployment.files, prompt=prompt)
    with serving(LittleBroker(dict(KEYS.values()))) as broker:
        machine = Machine(
            uki=release_file("products/uki.efi"),
            firmware=release_file("firmware/ovmf.fd"),
            disk=folder / "disk",
            tpm_state=tpm_state,
            broker_port=int(broker.url.rsplit(":", 1)[1]),
            **differs,
        )
        return machine.boot(), broker.attestation


def quoted(attestation) -> dict[str, str]:
    values = attestation.primary_evidence["tpm_quote"]["pcrs"]
    return {f"pcr{number:02}": value for number, value in enumerate(values)}


def predicted(deployment) -> dict[str, str]:
    firmware = qemu.MeasuredFirmware.of(release_file("firmware/ovmf.fd").read_bytes())
    image = image_events(uki.parse(release_file("products/uki.efi").read_bytes()))
    digest = Digest.of(deployment.init_data)
    return dict(qemu.pcr_claims(qemu.boot_events(image, firmware, qemu.machine(SHAPE), digest)))


def test_the_image_proves_itself_gets_its_keys_and_answers(tpm_state, deployment, tmp_path):
    outcome, attestation = boot(tpm_state, tmp_path, deployment, prompt="why is a key like")
    assert outcome.refusal is None, outcome.lines[-5:]
    names = [event["event"] for _, event in outcome.events]
    assert names == ["started", "measured", "attested", "opened", "opened", "answer", "done"]
    assert len(outcome.answer) == 120
    assert not outcome.timed_out
    registers = quoted(attestation)
    want = predicted(deployment)
    assert {name: registers[name] for name in want} == want
    said = "\n".join(text for _, text in outcome.lines)
    assert not any(key.hex() in said for _, key in KEYS.values())
    log = attestation.primary_evidence["event_log"]
    assert log
    with replayed(tpm_state, recorded(base64.b64decode(log))) as machine:
        again = machine.tpm.read_pcrs()
    firmware_registers = (0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12)
    assert {n: again[n].hex() for n in firmware_registers} == {
        n: registers[f"pcr{n:02}"] for n in firmware_registers
    }


def test_code_and_a_command_line_of_the_hosts_show_in_their_registers(tpm_state, deployment, tmp_path):
    """The option ROM in PCR 2, the command line in PCR 9 and 12; IMA's 10 follows, and the rest stays."""
    outcome, attestation = boot(
        tpm_state,
        tmp_path,
        deployment,
        prompt=None,
        option_rom=True,
        append="console=ttyS0 panic=-1 quiet printk.devkmsg=off",
        prompts=("why?", "who?"),
    )
    registers, want = quoted(attestation), predicted(deployment)
    changed = {name for name, value in want.items() if registers[name] != value}
    assert changed == {"pcr02", "pcr09", "pcr10", "pcr12"}
    separator = hashlib.sha256(bytes(4)).digest()
    after_driver = hashlib.sha256(bytes(32) + pe.authenticode(pe.parse(driver())).value).digest()
    assert registers["pcr02"] == hashlib.sha256(after_driver + separator).hexdigest()
    answers = [event for _, event in outcome.events if event["event"] == "answer"]
    assert [event["prompt"] for event in answers] == ["why?", "who?"]
