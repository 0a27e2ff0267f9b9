"""``tally attest run`` on a machine with a software TPM."""

from __future__ import annotations

import json
import stat

import pytest
from attester.little_broker import LittleBroker, serving

from tallystick.cli.app import run
from tallystick.handshake import initdata, kbs

KEY = "confidential-inference/weights/v1"
SECRET = bytes(range(32))
TOML = initdata.make({"note": "hello"})


@pytest.fixture
def broker():
    with serving(LittleBroker({KEY: SECRET})) as running:
        yield running


def tally(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        run([str(argument) for argument in arguments])
    return int(stop.value.code)


def attest(broker, socket, *arguments: object) -> int:
    return tally("attest", "run", "--broker", broker.url, "--key", KEY, "--tpm", socket, *arguments)


def test_a_key_goes_to_a_file_that_only_its_owner_reads(broker, socket, tmp_path, capsys):
    assert attest(broker, socket, "-o", tmp_path / "key", "--json") == 0
    assert (tmp_path / "key").read_bytes() == SECRET
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o400
    document = json.loads(capsys.readouterr().out)
    assert document == {"key": KEY, "broker": broker.url, "file": str(tmp_path / "key"), "size": 32}


def test_a_key_goes_to_standard_output_only_when_asked(broker, socket, capsysbinary):
    assert attest(broker, socket, "--stdout") == 0
    assert capsysbinary.readouterr().out == SECRET


def test_init_data_is_measured_first_and_once(broker, socket, tmp_path):
    (tmp_path / "init.toml").write_bytes(TOML)
    for number in range(2):
        assert (
            attest(broker, socket, "-o", tmp_path / f"key{number}", "--init-data", tmp_path / "init.toml")
            == 0
        )
    pcrs = broker.attestation.primary_evidence["tpm_quote"]["pcrs"]
    assert pcrs[8] == initdata.pcr8(TOML).hex()


def test_other_init_data_than_was_measured_is_refused(broker, socket, tmp_path, capsys):
    for number, text in enumerate((TOML, initdata.make({"note": "other"}))):
        (tmp_path / f"{number}.toml").write_bytes(text)
    assert attest(broker, socket, "-o", tmp_path / "key", "--init-data", tmp_path / "0.toml") == 0
    assert attest(broker, socket, "-o", tmp_path / "k2", "--init-data", tmp_path / "1.toml", "--json") == 6
    assert json.loads(capsys.readouterr().out.partition("\n")[2])["error"]["code"] == "init-data.register"


def test_init_data_that_is_none_is_refused_before_it_is_measured(broker, socket, tmp_path):
    (tmp_path / "init.toml").write_bytes(b"x = 1")
    assert attest(broker, socket, "-o", tmp_path / "key", "--init-data", tmp_path / "init.toml") == 3
    assert broker.seen == []


@pytest.mark.parametrize("more", [[], ["-o", "key", "--stdout"], ["--stdout", "--json"]])
def test_one_destination_and_none_in_json(broker, socket, tmp_path, monkeypatch, more, capsys):
    monkeypatch.chdir(tmp_path)
    assert attest(broker, socket, *more) == 2
    captured = capsys.readouterr()
    assert "attest.destination" in captured.out + captured.err
    assert broker.seen == []


def test_no_file_is_overwritten_and_no_key_asked_for_it(broker, socket, tmp_path):
    (tmp_path / "key").write_text("mine")
    assert attest(broker, socket, "-o", tmp_path / "key") == 2
    assert attest(broker, socket, "-o", tmp_path / "none" / "key") == 2
    assert (tmp_path / "key").read_text() == "mine"
    assert broker.seen == []


def test_the_reason_of_a_refusal_is_printed(broker, socket, tmp_path, capsys):
    broker.denied[KEY] = kbs.ErrorDocument(
        kind="PolicyDeny", detail="not this machine", code="tpm.pcr04.mismatch"
    )
    assert attest(broker, socket, "-o", tmp_path / "key") == 6
    assert "PolicyDeny: not this machine  [tpm.pcr04.mismatch]" in capsys.readouterr().err
    assert not (tmp_path / "key").exists()


def test_without_a_tpm_it_says_so(broker, tmp_path, capsys):
    assert attest(broker, tmp_path / "tpmrm0", "-o", tmp_path / "key") == 7
    assert "tpm.unreachable" in capsys.readouterr().err


def test_a_key_that_is_no_path_is_malformed(broker, socket, tmp_path):
    arguments = ["--broker", broker.url, "--tpm", socket, "-o", tmp_path / "key"]
    assert tally("attest", "run", "--key", "weights", *arguments) == 3
