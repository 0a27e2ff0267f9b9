"""Evidence from the kernel's own interfaces: the files of configfs-tsm and the ioctl of the Nitro module, faked."""

from __future__ import annotations

import array
import ctypes
import json
import os
import struct
import threading
from pathlib import Path

import cbor2
import pytest
from attester.little_broker import LittleBroker, serving
from broker.world import INIT_DATA
from hypothesis import given
from hypothesis import strategies as st

from tallystick.attester import collectors, guest, nsm, tsm
from tallystick.attester.client import KbsClient
from tallystick.core.errors import Malformed, Misuse, Refused, TallystickError, Unreachable, Unsupported
from tallystick.handshake import binding, kbs, snpwire
from tallystick.handshake.fields import unb64


class Kernel:
    """configfs-tsm of one machine: a new folder gets its files, and ``outblob`` answers ``inblob``."""

    def __init__(self, root: Path, provider: str, make, aux: bytes | None = None) -> None:
        self.root, self.provider, self.make, self.aux = root, provider, make, aux
        self.generation = 1
        self.errno = 0
        self.folders: list[Path] = []
        root.mkdir()

    def mkdir(self, folder: Path) -> None:
        if self.errno:
            raise OSError(self.errno, os.strerror(self.errno))
        real_mkdir(folder)
        self.folders.append(folder)
        (folder / "provider").write_text(f"{self.provider}\n")
        (folder / "inblob").write_bytes(b"")
        (folder / "generation").write_text(f"{self.generation}\n")
        if self.aux is not None:
            (folder / "auxblob").write_bytes(self.aux)
        os.mkfifo(folder / "outblob")
        threading.Thread(target=self._answer, args=(folder,), daemon=True).start()

    def _answer(self, folder: Path) -> None:
        with (folder / "outblob").open("wb") as stream:
            stream.write(self.make((folder / "inblob").read_bytes()))

    def rmdir(self, folder: Path) -> None:
        for file in folder.iterdir():  # configfs takes its attributes away with the folder
            file.unlink()
        real_rmdir(folder)


real_mkdir, real_rmdir = os.mkdir, os.rmdir


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    def start(provider, make, aux=None):
        made = Kernel(tmp_path / "report", provider, make, aux)
        monkeypatch.setattr(tsm.os, "mkdir", made.mkdir)
        monkeypatch.setattr(tsm.os, "rmdir", made.rmdir)
        return made

    return start


def _snp(inblob: bytes) -> bytes:
    report = bytearray(1184)
    report[0] = 3
    report[0x50:0x90] = inblob
    return bytes(report)


def _table(*certificates: tuple[str, bytes]) -> bytes:
    import uuid

    names = {name: guid for guid, name in snpwire._CERTIFICATES.items()}
    offset = 24 * (len(certificates) + 1)
    head = body = b""
    for name, der in certificates:
        head += struct.pack("<16sII", uuid.UUID(names[name]).bytes, offset + len(body), len(der))
        body += der
    return head + bytes(24) + body


def test_an_snp_report_with_the_certificates_of_the_host(kernel):
    machine = kernel("sev_guest", _snp, _table(("VCEK", b"leaf"), ("ASK", b"middle")))
    found = tsm.report(b"d" * 48, machine.root)
    sent = json.loads(json.dumps(tsm.evidence(found)))
    report, certificates = snpwire.parse(sent)
    assert report[0x50:0x90] == b"d" * 48 + bytes(16)
    assert certificates == (b"leaf", b"middle")
    assert not machine.folders[0].exists()


def test_an_snp_report_of_a_host_that_gives_no_certificates(kernel):
    machine = kernel("sev_guest", _snp)
    sent = tsm.evidence(tsm.report(bytes(64), machine.root))
    assert snpwire.parse(sent)[1] == ()


def test_a_quote_with_the_event_log(kernel, tmp_path):
    machine = kernel("tdx_guest", lambda inblob: b"quote over " + inblob)
    (tmp_path / "CCEL").write_bytes(b"log")
    sent = tsm.evidence(tsm.report(b"d" * 64, machine.root), tmp_path / "CCEL")
    assert unb64(sent["quote"]) == b"quote over " + b"d" * 64
    assert unb64(sent["cc_eventlog"]) == b"log"
    assert tsm.evidence(tsm.TsmReport(provider="tdx_guest", out=b"q", aux=b""), tmp_path / "none") == {
        "quote": "cQ==",
        "cc_eventlog": None,
    }


def test_a_realm_token(kernel):
    machine = kernel("arm_cca_guest", lambda inblob: b"token" + inblob)
    assert bytes(tsm.evidence(tsm.report(b"d", machine.root))["token"]) == b"token" + b"d".ljust(64, b"\0")


def test_a_request_that_somebody_else_wrote_to_is_not_used(kernel):
    machine = kernel("tdx_guest", lambda inblob: inblob)
    machine.generation = 2
    with pytest.raises(Exception, match="want 1, got 2") as caught:
        tsm.report(b"d", machine.root)
    assert caught.value.code == "tsm.generation"
    assert not machine.folders[0].exists()


def test_an_unknown_provider_and_a_kernel_that_refuses(kernel):
    machine = kernel("some_guest", lambda inblob: inblob)
    with pytest.raises(Unsupported, match="some_guest"):
        tsm.report(b"d", machine.root)
    assert not machine.folders[0].exists()
    machine.errno = 13
    with pytest.raises(Unreachable):
        tsm.report(b"d", machine.root)


def test_more_than_64_bytes_are_a_mistake_of_ours():
    with pytest.raises(ValueError, match="64"):
        tsm.report(bytes(65))


@pytest.mark.parametrize("cut", [1, 23, 24, 30, 47])
def test_a_certificate_table_that_is_cut_is_refused(cut):
    with pytest.raises(Malformed):
        snpwire.certificate_table(_table(("VCEK", b"leaf"))[:cut])


@given(st.binary(max_size=200))
def test_no_certificate_table_ends_in_a_traceback(data):
    try:
        snpwire.certificate_table(data)
    except Malformed:
        return


# The Nitro Security Module: what the driver does with the two buffers, over memory of this process.
class Module:
    """Answers the ioctl: reads the request where it points, writes the answer and its length."""

    def __init__(self, answer) -> None:
        self.answer = answer
        self.asked: list[object] = []

    def ioctl(self, handle, number, message):
        assert number == 0xC0200A00
        assert isinstance(message, array.array)
        at, size, to, room = message
        self.asked.append(cbor2.loads(ctypes.string_at(at, size)))
        data = self.answer(self.asked[-1])
        assert len(data) <= room
        ctypes.memmove(to, data, len(data))
        message[3] = len(data)
        return 0


@pytest.fixture
def module(tmp_path, monkeypatch):
    import fcntl

    def start(answer):
        made = Module(answer)
        monkeypatch.setattr(fcntl, "ioctl", made.ioctl)
        (tmp_path / "nsm").write_bytes(b"")
        return made, tmp_path / "nsm"

    return start


def _document(asked):
    return cbor2.dumps({"Attestation": {"document": b"signed " + asked["Attestation"]["nonce"]}})


@pytest.mark.parametrize("size", [0, 1, 23, 24, 48, 255, 256, 512])
def test_a_nitro_document_over_a_nonce(module, size):
    made, device = module(_document)
    assert nsm.document(b"n" * size, device) == b"signed " + b"n" * size
    assert made.asked == [{"Attestation": {"user_data": None, "nonce": b"n" * size, "public_key": None}}]


def test_the_module_refuses_or_is_not_there(module, tmp_path):
    _, device = module(lambda asked: cbor2.dumps({"Error": "InvalidArgument"}))
    with pytest.raises(Refused, match="InvalidArgument"):
        nsm.document(b"n", device)
    with pytest.raises(Unreachable):
        nsm.document(b"n", tmp_path / "none")
    with pytest.raises(ValueError, match="512"):
        nsm.document(bytes(513), device)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"Attestation": {}},
        {"Attestation": {"document": "text"}},
        {"Attestation": {"other": b""}},
        {"Attestation": {"document": b""}, "x": 1},
        {"Other": b""},
        [],
        "text",
    ],
)
def test_another_answer_is_malformed(answer):
    with pytest.raises(Malformed):
        nsm.parse_response(cbor2.dumps(answer))


def test_trailing_bytes_and_indefinite_lengths_are_malformed():
    good = cbor2.dumps({"Attestation": {"document": b"d"}})
    assert nsm.parse_response(good) == b"d"
    for bad in (good + b"\0", good[:-1], b"\xbf" + good[1:] + b"\xff", b""):
        with pytest.raises(Malformed):
            nsm.parse_response(bad)


@given(st.binary(max_size=100))
def test_no_answer_ends_in_a_traceback(data):
    try:
        nsm.parse_response(data)
    except TallystickError:
        return


# Which of them, and the whole handshake.
@pytest.fixture
def nothing(tmp_path):
    return collectors.Devices(
        reports=tmp_path / "report",
        ccel=tmp_path / "CCEL",
        nsm=tmp_path / "nsm",
        tpm=str(tmp_path / "tpm"),
        event_log=tmp_path / "log",
    )


def test_what_the_machine_has_decides(kernel, nothing, tmp_path):
    with pytest.raises(Unreachable) as caught:
        collectors.detect(nothing)
    assert caught.value.code == "attest.no-device"
    (tmp_path / "tpm").write_bytes(b"")
    assert collectors.detect(nothing) == "tpm"
    machine = kernel("tdx_guest", lambda inblob: inblob)
    assert collectors.detect(nothing) == "tdx"
    machine.errno = 6  # no TEE behind the interface
    assert collectors.detect(nothing) == "tpm"
    (tmp_path / "nsm").write_bytes(b"")
    assert collectors.detect(nothing) == "nitro"


def test_another_tee_than_was_asked_for(kernel, nothing):
    kernel("tdx_guest", lambda inblob: inblob)
    client = KbsClient("http://127.0.0.1:1", tee="snp")
    with collectors.prover(client, "snp", nothing) as prove, pytest.raises(Misuse, match="tdx, not snp"):
        prove(b"d")
    with pytest.raises(Unsupported), collectors.prover(client, "sgx", nothing):
        pass


class Recording(LittleBroker):
    """Takes any evidence and remembers it."""

    def _attest(self, message, cookie):
        self.attestation = message
        self._sessions[cookie] = message.tee_pubkey
        return 200, kbs.Token(token="an.ear.token").document(), {}


def test_the_guest_asks_with_the_processors_evidence(kernel, nothing):
    machine = kernel("sev_guest", _snp)
    with serving(Recording({"a/b/c": b"k" * 32})) as broker:
        broker.hash_algorithm = "sha384"
        whole = guest.Machine(tpm=None, tee="snp", devices=nothing)
        client = KbsClient(broker.url, tee=whole.tee)
        with whole.prover(client) as prove:
            client.attest(prove, init_data=INIT_DATA)
        assert client.fetch("a/b/c") == b"k" * 32
    sent = broker.attestation
    report, _ = snpwire.parse(sent.primary_evidence)
    digest = binding.report_data(sent.nonce, sent.tee_pubkey, algorithm="sha384")
    assert report[0x50:0x90] == digest + bytes(16)
    assert len(machine.folders) == 1
