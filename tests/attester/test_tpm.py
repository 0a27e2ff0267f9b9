"""Raw TPM commands against a real swtpm, and the awkward answers that one seldom gives."""

from __future__ import annotations

import hashlib
import struct

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tallystick.attester import evidence
from tallystick.attester import tpm as attester_tpm
from tallystick.attester.measured import measure
from tallystick.attester.tpm import Tpm, TpmRefused, open_tpm
from tallystick.broker.credential import make_credential
from tallystick.core.errors import Malformed, Refused, Unreachable
from tallystick.formats import tpm as verifier
from tallystick.handshake import initdata, tpmwire

EXTRA = bytes(range(32))


@pytest.fixture
def tpm(socket):
    opened = open_tpm(str(socket))
    yield opened
    opened.shutdown()
    opened.close()


def test_a_tpm_that_was_started_already_may_be_started_again(tpm):
    tpm.startup()


def test_the_certificate_in_nv_is_the_endorsement_keys(tpm, maker):
    certificate = x509.load_der_x509_certificate(tpm.read_nv(tpmwire.EK_CERTIFICATE_INDEX))
    ek, transient = tpm.endorsement_key()
    assert not transient
    assert certificate.public_key().public_numbers().n == tpmwire.rsa_key(ek.area)[0]
    issuer = x509.load_der_x509_certificate(maker.certificates()[1])
    certificate.verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(x509.load_der_x509_certificate(maker.certificates()[0]))


def test_an_endorsement_key_that_is_not_kept_is_made_again_from_its_template(tpm, monkeypatch):
    kept, _ = tpm.endorsement_key()
    monkeypatch.setattr(tpmwire, "EK_HANDLE", 0x81010077)
    made, transient = tpm.endorsement_key()
    assert transient
    assert made.area == kept.area
    with tpm.attestation_key(made) as ak:
        blob, secret = _credential(made.area, ak.area, b"a secret")
        assert tpm.activate(ak, made, blob, secret) == b"a secret"
    tpm.flush(made.handle)


def _credential(ek_area: bytes, ak_area: bytes, secret: bytes) -> tuple[bytes, bytes]:
    ek = load_der_public_key(evidence.spki(ek_area))
    return make_credential(ek, verifier.parse_public(ak_area).name, secret)


def test_the_secret_opens_only_for_the_key_it_names(tpm):
    ek, _ = tpm.endorsement_key()
    with tpm.attestation_key(ek) as one, tpm.attestation_key(ek) as other:
        blob, secret = _credential(ek.area, one.area, b"for one")
        assert tpm.activate(one, ek, blob, secret) == b"for one"
        with pytest.raises(TpmRefused, match="ActivateCredential: response code 0x"):
            tpm.activate(other, ek, blob, secret)


def test_failures_leave_no_session_behind(tpm):
    """swtpm has three sessions (MAX_LOADED_SESSIONS); a fourth that leaked would be refused with 0x903."""
    ek, _ = tpm.endorsement_key()
    with tpm.attestation_key(ek) as ak:
        for _ in range(10):
            with pytest.raises(TpmRefused) as caught:
                tpm.activate(ak, ek, tpmwire.sized(bytes(40)), tpmwire.sized(bytes(256)))
            assert caught.value.rc != 0x903
    with tpm.attestation_key(ek):
        pass


def test_keys_do_not_pile_up(tpm):
    """swtpm holds three transient objects (MAX_LOADED_OBJECTS)."""
    ek, _ = tpm.endorsement_key()
    for _ in range(5):
        with tpm.attestation_key(ek):
            pass


def test_losing_power_often_does_not_lock_the_attestation_key(tpm_state):
    """Without noDA each loss of power after a use counts as a guess, and the TPM soon answers 0x921."""
    from tallystick.cli.demo.softtpm import emulator

    for _ in range(6):
        with emulator(tpm_state) as path:
            tpm = open_tpm(str(path))
            ek, _ = tpm.endorsement_key()
            with tpm.attestation_key(ek) as ak:
                tpm.quote(ak, EXTRA)
            tpm.close()  # and no shutdown


def test_a_quote_covers_all_registers_and_what_it_is_bound_to(tpm):
    tpm.extend(16, hashlib.sha256(b"an event").digest())
    ek, _ = tpm.endorsement_key()
    with tpm.attestation_key(ek) as ak:
        quote = tpm.quote(ak, EXTRA)
        key = load_der_public_key(evidence.spki(ak.area))
    attested = verifier.parse_quote(quote.message)
    (selection,) = attested.selections
    assert (attested.extra_data, selection.registers) == (EXTRA, tuple(range(24)))
    assert attested.pcr_digest == hashlib.sha256(b"".join(quote.pcrs)).digest()
    assert quote.pcrs[16] == hashlib.sha256(bytes(32) + hashlib.sha256(b"an event").digest()).digest()
    assert quote.pcrs[17] == b"\xff" * 32
    signature = verifier.parse_signature(quote.signature)
    key.verify(signature.rsa, quote.message, padding.PKCS1v15(), hashes.SHA256())


def test_a_register_that_moves_during_a_quote_is_read_again(tpm, monkeypatch):
    ek, _ = tpm.endorsement_key()
    real, left = tpm.read_pcrs, [1]

    def moving():
        if left:
            tpm.extend(16, bytes([left.pop()]) * 32)
        return real()

    monkeypatch.setattr(tpm, "read_pcrs", moving)
    with tpm.attestation_key(ek) as ak:
        assert verifier.parse_quote(tpm.quote(ak, EXTRA).message).pcr_digest == _digest(real())
        left += [2, 3, 4, 5]
        with pytest.raises(Unreachable, match="the registers changed during every quote") as caught:
            tpm.quote(ak, EXTRA)
    assert caught.value.code == "tpm.pcrs-moving"


def _digest(pcrs) -> bytes:
    return hashlib.sha256(b"".join(pcrs)).digest()


def test_init_data_is_measured_once_and_by_trustees_rule(tpm):
    measure(tpm, b"the text")
    assert tpm.read_pcrs()[8] == initdata.pcr8(b"the text")
    measure(tpm, b"the text")
    assert tpm.read_pcrs()[8] == initdata.pcr8(b"the text")
    with pytest.raises(Refused, match="PCR 8: want not extended yet") as caught:
        measure(tpm, b"another")
    assert caught.value.code == "init-data.register"


def test_a_refused_command_names_itself(tpm):
    with pytest.raises(TpmRefused, match="TPM: NV_ReadPublic: response code 0x18b"):
        tpm.read_nv(0x01C0FFFF)


def test_no_tpm_is_unreachable(tmp_path):
    with pytest.raises(Unreachable, match=r"tpm0: No such file or directory") as caught:
        open_tpm(str(tmp_path / "tpm0"))
    assert caught.value.code == "tpm.unreachable"


def test_a_device_is_written_and_read_whole(tmp_path):
    """A character device answers one read for each write; a file that stands in gives back its bytes."""
    path = tmp_path / "tpmrm0"
    path.write_bytes(b"")
    transport = attester_tpm.DeviceTransport(str(path))
    assert transport.exchange(b"a command") == b""
    transport.close()
    assert path.read_bytes() == b"a command"


class Scripted:
    """A TPM that gives the answers it was told to."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)

    def exchange(self, command: bytes) -> bytes:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        pass


def answer(rc: int, body: bytes = b"") -> bytes:
    return struct.pack(">HII", 0x8001, 10 + len(body), rc) + body


@pytest.mark.parametrize("busy", [tpmwire.RC_RETRY, tpmwire.RC_YIELDED, tpmwire.RC_TESTING])
def test_a_busy_tpm_is_asked_again(busy):
    scripted = Scripted(answer(busy), answer(busy), answer(0))
    Tpm(scripted).flush(1)
    assert scripted.answers == []


def test_a_tpm_that_stays_busy_is_given_up(monkeypatch):
    monkeypatch.setattr(attester_tpm, "_RETRY_SECONDS", 0)
    with pytest.raises(Unreachable, match="FlushContext: still busy after 200 tries") as caught:
        Tpm(Scripted(*[answer(tpmwire.RC_RETRY)] * 200)).flush(1)
    assert caught.value.code == "tpm.busy"


@pytest.mark.parametrize("trouble", [ConnectionError("gone"), OSError(5, "Input/output error")])
def test_a_tpm_that_goes_away_is_unreachable(trouble):
    with pytest.raises(Unreachable, match=r"TPM: FlushContext: (gone|Input/output error)"):
        Tpm(Scripted(trouble)).flush(1)


@pytest.mark.parametrize("cut", [b"", b"\x80\x01\0\0", answer(0)[:9]])
def test_a_short_answer_is_malformed(cut):
    with pytest.raises(Malformed, match="TPM structure"):
        Tpm(Scripted(cut)).flush(1)


def test_a_tpm_without_a_sha256_bank_is_malformed():
    nothing = struct.pack(">II", 1, 0) + struct.pack(">I", 0)
    with pytest.raises(Malformed, match="PCR_Read: want a SHA-256 bank"):
        Tpm(Scripted(answer(0, nothing))).read_pcrs()


def test_an_emulator_that_hangs_up_is_unreachable(tmp_path):
    import socket as sockets
    import threading

    path = tmp_path / "server"
    server = sockets.socket(sockets.AF_UNIX)
    server.bind(str(path))
    server.listen()
    threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
    with pytest.raises(Unreachable, match="TPM: Startup"):
        open_tpm(str(path))
    server.close()
