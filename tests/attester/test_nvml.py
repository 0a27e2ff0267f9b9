"""GPUs through the driver's library: a fake one, compiled here, that has NVML's real symbols and structures."""

from __future__ import annotations

import ctypes.util
import dataclasses
import json
import shutil
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import support_nvidia as nvidia
import support_snp as snp

from tallystick.attester import collectors, nvml
from tallystick.attester.client import bound
from tallystick.core.errors import Malformed, NotGenuine, Unreachable
from tallystick.evidence import composite, nvidia_device, nvidia_forms, roots
from tallystick.evidence import nvidia as verifier
from tallystick.handshake import kbs, snpwire
from tallystick.handshake.fields import unb64
from tallystick.handshake.jwe import TeeKeyPair

NONCE = bytes(range(32))
SOURCE = Path(__file__).with_name("fake_nvml.c")


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    made = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", made, SOURCE], check=True)
    return str(made)


@pytest.fixture(scope="module")
def authority():
    return nvidia.Authority("NVIDIA Device Identity CA", ("NVIDIA GH100 Identity",))


class Gpus:
    """What answers the fake library: devices of the tests' own maker."""

    def __init__(self, devices) -> None:
        self.devices = devices
        self.count = len(devices)
        self.silent: set[int] = set()  # not in a confidential mode
        self.arch = 9
        self.chain: bytes | None = None

    def answer(self, what: str, index: int, more: bytes) -> bytes:
        if what == "count":
            return str(self.count).encode()
        if what == "arch":
            return str(self.arch).encode()
        device = self.devices[index]
        if what == "chain":
            return device.chain() if self.chain is None else self.chain
        assert what == "report"
        return b"" if index in self.silent else device.report(nonce=more)


@pytest.fixture
def gpus(library, authority, tmp_path, monkeypatch):
    held = Gpus([nvidia.Device(authority), nvidia.Device(authority)])

    class Answer(socketserver.StreamRequestHandler):
        def handle(self):
            what, index = self.rfile.readline().split()
            self.wfile.write(held.answer(what.decode(), int(index), self.rfile.read()))

    place = tmp_path / "s"
    with socketserver.UnixStreamServer(str(place), Answer) as server:
        monkeypatch.setenv("FAKE_NVML", str(place))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield held
        server.shutdown()
        thread.join()


@pytest.fixture
def believed(authority, monkeypatch):
    real = roots.certificate
    monkeypatch.setattr(
        roots,
        "certificate",
        lambda name: authority.root if name == "NVIDIA-Device-Identity-CA" else real(name),
    )
    nvidia_device._endorsed.cache_clear()
    yield
    nvidia_device._endorsed.cache_clear()


def _listed(text: str):
    return json.loads(text)["nvidia"]["device_evidence_list"]


def test_reports_of_every_gpu_that_the_verifier_takes(gpus, library, believed):
    text = nvml.evidence(NONCE, library)
    devices = nvidia_forms.from_document(json.loads(text)["nvidia"])
    assert [device.uuid for device in devices] == [
        f"GPU-0000000{n}-0000-0000-0000-000000000000" for n in (0, 1)
    ]
    assert {device.arch for device in devices} == {"HOPPER"}
    judged, _ = verifier.judge(None, devices, verifier.sort((), nvidia.AT), nonce=NONCE, at=nvidia.AT)
    assert len(verifier.each(judged)) == 2


def test_a_gpu_outside_of_a_confidential_mode_is_left_out(gpus, library):
    gpus.silent = {0}
    (only,) = _listed(nvml.evidence(NONCE, library))
    assert only["uuid"].startswith("GPU-00000001")
    gpus.silent = {0, 1}
    assert nvml.evidence(NONCE, library) == ""
    gpus.count = 0
    assert nvml.evidence(NONCE, library) == ""


def test_an_architecture_that_is_not_known_is_told_as_it_is(gpus, library):
    gpus.arch = 77
    assert {one["arch"] for one in _listed(nvml.evidence(NONCE, library))} == {"architecture 77"}


def test_without_the_driver_there_is_nothing_to_show(tmp_path, monkeypatch):
    assert nvml.evidence(NONCE, str(tmp_path / "none.so")) == ""
    monkeypatch.setitem(sys.modules, "ctypes", None)  # as in the measured image
    assert nvml.evidence(NONCE, str(tmp_path / "none.so")) == ""


def test_a_driver_that_fails_or_is_another_library_is_said(gpus, library, monkeypatch):
    monkeypatch.setenv("FAKE_NVML_BROKEN", "1")
    with pytest.raises(Unreachable, match="nvmlInit_v2 gives error 999"):
        nvml.evidence(NONCE, library)
    with pytest.raises(Unreachable, match="the driver has no nvmlInit_v2"):
        nvml.evidence(NONCE, ctypes.util.find_library("c") or "libc.so.6")


def test_an_empty_chain_and_a_count_beyond_reason_are_malformed(gpus, library):
    gpus.chain = b""
    with pytest.raises(Malformed, match="attestationCertChain"):
        nvml.evidence(NONCE, library)
    gpus.count = 65
    with pytest.raises(Malformed, match="device count"):
        nvml.evidence(NONCE, library)


def test_a_nonce_has_32_bytes():
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        nvml.evidence(bytes(31))


def test_the_report_is_of_this_nonce(gpus, library):
    (first, _) = _listed(nvml.evidence(NONCE, library))
    assert unb64(first["evidence"])[4:36] == NONCE
    assert first["nonce"] == NONCE.hex()


def test_the_processor_covers_the_gpus_and_both_the_challenge(gpus, library, believed, monkeypatch):
    """The message that the attester makes, taken by the verifier that the broker uses."""
    monkeypatch.setattr(snp, "AT", nvidia.AT)
    maker = snp.Maker()
    real = roots.certificate
    monkeypatch.setattr(
        roots, "certificate", lambda name: maker.ark if name.startswith("ARK-") else real(name)
    )
    certificates = dict(zip(("VCEK", "ASK"), maker.endorsements(), strict=True))

    def prove(digest):
        return snpwire.document(maker.report(report_data=digest.ljust(64, b"\0")), certificates)

    challenge = kbs.Challenge(nonce="bm9uY2U=", hash_algorithm="sha384")
    show = collectors.shower(collectors.Devices(nvml=library))
    made = bound(challenge, TeeKeyPair.make().public, prove, init_data=None, show=show)

    def verified(message):
        return composite.verify_message("snp-report", message, (), algorithm="sha384", at=nvidia.AT)

    assert [device.kind for device in verified(made).devices] == ["nvidia-gpu", "nvidia-gpu"]
    alone = dataclasses.replace(made, additional_evidence="")
    with pytest.raises(NotGenuine):  # a host that takes the GPUs' evidence away
        verified(alone)
