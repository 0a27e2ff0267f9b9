"""From prediction to claims without a virtual machine: a real TPM is extended by the predicted events."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support_eventlog import log_of_digests
from support_firmware import image as firmware_image
from support_pe import uki
from support_tpm import sized, software_tpm
from support_tpm_evidence import NONCE, NOW, text

from tallystick.core.digests import Digest
from tallystick.core.errors import NotGenuine
from tallystick.evidence import tpm_quote
from tallystick.measure import firmwares, qemu
from tallystick.measure.predict import measure_release
from tallystick.measure.records import Event, Measurement
from tallystick.measure.shapes import LaunchShape

FIRMWARE = firmware_image()
SHAPE = LaunchShape.of("qemu-vtpm", {"ram_mib": 512, "vcpus": 1, "vmm": "qemu"})
INIT_DATA = Digest.of(b"init-data")


@pytest.fixture
def predicted(monkeypatch) -> Measurement:
    model = replace(firmwares._MODELS[0], name="made here", digest=Digest.of(FIRMWARE))
    monkeypatch.setattr(firmwares, "_MODELS", (model,))
    (one,) = measure_release(uki(), FIRMWARE, [SHAPE], INIT_DATA, "test")
    return one


def evidence(machine, events: tuple[Event, ...], logged: tuple[Event, ...]) -> tuple[bytes, bytes]:
    """Return evidence of a machine that booted by ``events``, and its key's public area."""
    for event in events:
        machine.extend(event.register, event.digest.value)
    parent, _ = machine.endorsement_key()
    with machine.attestation_key(parent) as key:
        quote = machine.quote(key, NONCE)
    firmware_log = [e for e in logged if e.register not in (qemu.INIT_DATA_PCR, qemu.IMA_PCR)]
    document = {
        "ak_public_area": text(key.area),
        "tpm_quote": {
            "message": text(quote.message),
            "signature": text(quote.signature),
            "pcrs": [value.hex() for value in quote.pcrs],
        },
        "event_log": text(log_of_digests((e.register, e.digest.value, e.what) for e in firmware_log)),
    }
    return json.dumps(document).encode(), sized(key.area)


def verify(sent: bytes, key: bytes):
    trust = tpm_quote.endorsement(key, "software-tpm")
    return tpm_quote.verify_under(sent, trust, nonce=NONCE, init_data=INIT_DATA.value, at=NOW)


def test_the_claims_are_the_predicted_tuple(predicted, tmp_path):
    with software_tpm(tmp_path / "tpm") as machine:
        claims = verify(*evidence(machine, predicted.events, predicted.events))
    assert {name: claims.values[name] for name, _ in predicted.values} == dict(predicted.values)
    assert claims.values["pcr10"] == dict(qemu.pcr_claims(predicted.events))["pcr10"]
    assert claims.notes == ()


def test_an_event_that_the_log_hides_is_named_by_its_register(predicted, tmp_path):
    option_rom = Event(register=2, digest=Digest.of(b"an option ROM"), what="EV_EFI_BOOT_SERVICES_DRIVER")
    events = (*predicted.events[:10], option_rom, *predicted.events[10:])
    with software_tpm(tmp_path / "tpm") as machine, pytest.raises(NotGenuine, match="PCR 2") as caught:
        verify(*evidence(machine, events, predicted.events))
    assert [finding.code for finding in caught.value.findings] == ["tpm.eventlog.pcr02"]


def test_an_event_that_the_log_tells_is_genuine_and_another_tuple(predicted, tmp_path):
    option_rom = Event(register=2, digest=Digest.of(b"an option ROM"), what="EV_EFI_BOOT_SERVICES_DRIVER")
    events = (*predicted.events[:10], option_rom, *predicted.events[10:])
    with software_tpm(tmp_path / "tpm") as machine:
        claims = verify(*evidence(machine, events, events))
    assert [name for name, value in predicted.values if claims.values[name] != value] == ["pcr02"]
