"""``tally attest run`` on a machine with a software TPM."""

from __future__ import annotations

import json
import stat
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from attester.little_broker import LittleBroker, serving

from tallystick.cli.app import run
from tallystick.handshake import initdata, kbs, shares

KEY = "confidential-inference/weights/v1"
SECRET = bytes(range(32))
TOML = initdata.make({"note": "hello"})


@pytest.fixture
def broker():
    with serving(LittleBroker({KEY: SECRET})) as running:
        yield running


@pytest.fixture
def memory():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def tally(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        run([str(argument) for argument in arguments])
    return int(stop.value.code)


def attest(broker, socket, *arguments: object) -> int:
    return tally("attest", "run", "--broker", broker.url, "--key", KEY, "--tpm", socket, *arguments)


def test_a_key_goes_to_a_file_that_only_its_owner_reads(broker, socket, memory, capsys):
    assert attest(broker, socket, "-o", memory / "key", "--json") == 0
    assert (memory / "key").read_bytes() == SECRET
    assert stat.S_IMODE((memory / "key").stat().st_mode) == 0o400
    document = json.loads(capsys.readouterr().out)
    assert document == {"key": KEY, "broker": broker.url, "file": str(memory / "key"), "size": 32}


def test_a_key_goes_to_standard_output_only_when_asked(broker, socket, capsysbinary):
    assert attest(broker, socket, "--stdout") == 0
    assert capsysbinary.readouterr().out == SECRET


def test_init_data_is_measured_first_and_once(broker, socket, tmp_path, memory):
    (tmp_path / "init.toml").write_bytes(TOML)
    for number in range(2):
        assert (
            attest(broker, socket, "-o", memory / f"key{number}", "--init-data", tmp_path / "init.toml") == 0
        )
    pcrs = broker.attestation.primary_evidence["tpm_quote"]["pcrs"]
    assert pcrs[8] == initdata.pcr8(TOML).hex()


def test_other_init_data_than_was_measured_is_refused(broker, socket, tmp_path, memory, capsys):
    for number, text in enumerate((TOML, initdata.make({"note": "other"}))):
        (tmp_path / f"{number}.toml").write_bytes(text)
    assert attest(broker, socket, "-o", memory / "key", "--init-data", tmp_path / "0.toml") == 0
    assert attest(broker, socket, "-o", memory / "k2", "--init-data", tmp_path / "1.toml", "--json") == 6
    assert json.loads(capsys.readouterr().out.partition("\n")[2])["error"]["code"] == "init-data.register"


def test_init_data_that_is_none_is_refused_before_it_is_measured(broker, socket, tmp_path, memory):
    (tmp_path / "init.toml").write_bytes(b"x = 1")
    assert attest(broker, socket, "-o", memory / "key", "--init-data", tmp_path / "init.toml") == 3
    assert broker.seen == []


@pytest.mark.parametrize("more", [[], ["-o", "key", "--stdout"], ["--stdout", "--json"]])
def test_one_destination_and_none_in_json(broker, socket, tmp_path, monkeypatch, more, capsys):
    monkeypatch.chdir(tmp_path)
    assert attest(broker, socket, *more) == 2
    captured = capsys.readouterr()
    assert "attest.destination" in captured.out + captured.err
    assert broker.seen == []


def test_no_file_is_overwritten_and_no_key_asked_for_it(broker, socket, memory):
    (memory / "key").write_text("mine")
    assert attest(broker, socket, "-o", memory / "key") == 2
    assert attest(broker, socket, "-o", memory / "none" / "key") == 2
    assert (memory / "key").read_text() == "mine"
    assert broker.seen == []


def test_the_reason_of_a_refusal_is_printed(broker, socket, memory, capsys):
    broker.denied[KEY] = kbs.ErrorDocument(
        kind="PolicyDeny", detail="not this machine", code="tpm.pcr04.mismatch"
    )
    assert attest(broker, socket, "-o", memory / "key") == 6
    assert "PolicyDeny: not this machine  [tpm.pcr04.mismatch]" in capsys.readouterr().err
    assert not (memory / "key").exists()


def test_without_a_tpm_it_says_so(broker, memory, capsys):
    assert attest(broker, memory / "tpmrm0", "-o", memory / "key") == 7
    assert "tpm.unreachable" in capsys.readouterr().err


def test_a_key_that_is_no_path_is_malformed(broker, socket, memory):
    arguments = ["--broker", broker.url, "--tpm", socket, "-o", memory / "key"]
    assert tally("attest", "run", "--key", "weights", *arguments) == 3


def test_a_disk_is_no_place_for_a_key(broker, socket, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tallystick.attester.handover.filesystem", lambda folder, mounts: "ext4")
    assert attest(broker, socket, "-o", tmp_path / "key") == 2
    assert "want a folder in memory" in capsys.readouterr().err
    assert broker.seen == []


SHOW = "import os, sys; sys.stdout.buffer.write(os.read(int(os.environ['TALLY_KEY_FD']), 99)); sys.exit(5)"


def test_a_command_gets_the_key_and_its_code_is_ours(broker, socket, capfdbinary):
    assert attest(broker, socket, "--", sys.executable, "-c", SHOW) == 5
    assert capfdbinary.readouterr().out == SECRET


def test_a_command_lives_as_long_as_its_machine_is_given_the_key(broker, socket, tmp_path, capsys):
    seen = tmp_path / "seen"
    wait = f"import pathlib, time; pathlib.Path({str(seen)!r}).touch(); time.sleep(60)"
    real = broker.answer

    def answer(method, path, body, cookie):
        if seen.exists():
            broker.denied[KEY] = kbs.ErrorDocument(
                kind="PolicyDeny", detail="revoked", code="release.revoked"
            )
        return real(method, path, body, cookie)

    broker.answer = answer
    assert attest(broker, socket, "--every", "1", "--", sys.executable, "-c", wait) == 6
    assert "release.revoked" in capsys.readouterr().err


def test_a_command_that_ends_by_itself_while_attesting_goes_on(broker, socket):
    assert (
        attest(broker, socket, "--every", "1", "--", sys.executable, "-c", "import time; time.sleep(1.2)")
        == 0
    )
    assert len([path for path, _ in broker.seen if path == kbs.RESOURCE_PATH + KEY]) >= 2


def test_a_broker_that_comes_late_is_waited_for(broker, socket, memory):
    broker.broken = 6  # more than one request's tries
    assert attest(broker, socket, "-o", memory / "key", "--wait", "30") == 0


@pytest.mark.parametrize(
    "more", [["--every", "5", "--stdout"], ["--json", "--", "true"], ["--stdout", "--", "true"]]
)
def test_options_that_do_not_go_together(broker, socket, more):
    assert attest(broker, socket, *more) == 2
    assert broker.seen == []


def test_a_shared_key_is_gathered_from_the_brokers_that_release_a_share(socket, tmp_path, capsysbinary):
    shared, parts = shares.split(KEY, SECRET, threshold=2, count=3)
    _, lies = shares.split(KEY, b"another", threshold=2, count=3)
    (tmp_path / "id.toml").write_bytes(initdata.make({"weights.json": shared.encode().decode()}))
    words = ["--key", KEY, "--tpm", socket, "--init-data", tmp_path / "id.toml", "--shared", "weights.json"]
    with ExitStack() as stack:
        given = (lies[1], parts[0], parts[2])
        found = [stack.enter_context(serving(LittleBroker({KEY: one.encode()}))) for one in given]
        urls = [word for one in found for word in ("--broker", one.url)]
        assert tally("attest", "run", *urls, *words, "--stdout") == 0
        said = capsysbinary.readouterr()
        assert said.out == SECRET
        assert f"no share from {found[0].url}: share 2 is not the one that was given out".encode() in said.err
        pcrs = [one.attestation.primary_evidence["tpm_quote"]["pcrs"][8] for one in found]
        assert pcrs == [initdata.pcr8((tmp_path / "id.toml").read_bytes()).hex()] * 3
        assert tally("attest", "run", *urls[:4], *words, "--stdout") == 5
        assert capsysbinary.readouterr().out == b""
