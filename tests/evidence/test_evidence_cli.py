"""``tally evidence``: what it prints, and its exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support_eventlog import ACTION, legacy, log
from support_tpm_evidence import EVENTS, NONCE, Made, authority, der, made

from tallystick.core.errors import Exit
from tallystick.evidence import kinds

PIPELINE = Path(__file__).resolve().parents[2] / "pipeline"
AT = "2026-11-22T12:00:00Z"


def tally(*arguments: object, as_json: bool = True) -> tuple[int, object]:
    command = [sys.executable, "-m", "tallystick.cli", "evidence", *map(str, arguments)]
    command += ["--json"] if as_json else []
    run = subprocess.run(
        command, capture_output=True, env={**os.environ, "PYTHONPATH": str(PIPELINE)}, check=False
    )
    assert b"Traceback" not in run.stderr
    return run.returncode, (json.loads(run.stdout) if as_json and run.stdout else run.stdout.decode())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "quote.json").write_bytes(made())
    (tmp_path / "ca.der").write_bytes(der(authority()))
    (tmp_path / "log").write_bytes(log(EVENTS, ("sha1", "sha256")))
    return tmp_path


def test_genuine_evidence_prints_its_claims(folder):
    arguments = ("verify", folder / "quote.json", "--kind", "tpm-quote", "--endorsements", folder / "ca.der")
    code, document = tally(*arguments, "--nonce", NONCE.hex(), "--at", AT)
    assert code == 0
    assert (document["kind"], document["genuine"], document["findings"]) == ("tpm-quote", True, [])
    assert document["claims"]["pcr04"] == Made().registers()[4].hex()
    assert document["claims"]["safe"] is True
    code, words = tally(*arguments, "--at", AT, as_json=False)
    assert code == 0
    assert words.startswith("genuine tpm-quote, on the word of sha256:")
    assert "[tpm.nonce.not-given]" in words


def test_each_refusal_has_its_exit_code(folder):
    quote, trust = folder / "quote.json", ("--endorsements", folder / "ca.der")
    kind = ("--kind", "tpm-quote")
    table = {
        (quote, *kind, *trust, "--nonce", "00", "--at", AT): (Exit.NOT_GENUINE, "tpm.nonce.mismatch"),
        (quote, *kind, "--at", AT): (Exit.NOT_GENUINE, "tpm.ak-certificate.untrusted"),
        (quote, *kind, *trust, "--at", "2027-01-01T00:00:00Z"): (
            Exit.NOT_GENUINE,
            "tpm.ak-certificate.expired",
        ),
        (folder / "ca.der", *kind, *trust): (Exit.MALFORMED, "malformed"),
        (quote, *kind, "--endorsements", quote): (Exit.MALFORMED, "malformed"),
        (quote, "--kind", "magic"): (Exit.UNSUPPORTED, "evidence.kind"),
        (folder / "none", *kind): (Exit.MISUSE, "file.missing"),
        (quote, *kind, "--nonce", "xyz"): (Exit.MISUSE, "nonce.malformed"),
        (quote, *kind, "--at", "yesterday"): (Exit.MISUSE, "time.malformed"),
    }
    got = {}
    for arguments in table:
        code, document = tally("verify", *arguments)
        got[arguments] = (code, document["error"]["code"])
    assert got == table


def test_a_log_replays_bank_by_bank(folder):
    code, document = tally("eventlog", folder / "log")
    assert code == 0
    assert sorted(document) == ["banks"]
    assert sorted(document["banks"]) == ["sha1", "sha256"]
    want = hashlib.sha256(bytes(32) + hashlib.sha256(b"image").digest()).hexdigest()
    assert document["banks"]["sha256"]["4"] == want
    events = tally("eventlog", folder / "log", "--events")[1]["events"]
    assert [event["data"] for event in events] == [data.decode() for _, _, data in EVENTS]
    assert "image" in tally("eventlog", folder / "log", "--events", as_json=False)[1]


def test_a_broken_log_exits_3(folder):
    (folder / "log").write_bytes(legacy(0, ACTION, b"x")[:-1])
    code, document = tally("eventlog", folder / "log")
    assert (code, document["error"]["code"]) == (Exit.MALFORMED, "malformed")


def test_show_finds_the_kind_by_itself_and_says_that_nothing_is_verified(folder):
    code, document = tally("show", folder / "quote.json")
    assert code == 0
    assert (document["kind"], document["verified"]) == ("tpm-quote", False)
    assert document["quote"]["reset_count"] == 5
    assert (
        "quote.reset_count: 5"
        in tally("show", folder / "quote.json", "--kind", "tpm-quote", as_json=False)[1]
    )
    code, document = tally("show", folder / "ca.der", "--kind", "tpm-quote")
    assert code == Exit.MALFORMED
    (folder / "nothing").write_bytes(b"nothing at all")
    code, document = tally("show", folder / "nothing")
    assert (code, document["error"]["code"]) == (Exit.UNSUPPORTED, "evidence.kind")


def test_every_kind_of_the_design_is_in_the_table_and_each_module_says_which_it_is():
    assert set(kinds.MODULES) == {
        *("snp-report", "azure-snp-vtpm", "azure-tdx-vtpm", "tdx-quote", "sgx-quote", "nitro", "cca-token"),
        *("nvidia-gpu", "nvidia-switch", "tpm-quote", "gcp-token", "azure-maa-token", "ita-token", "ear"),
    }
    for kind in kinds.supported():
        module = kinds._module(kind)
        assert kind in getattr(module, "KINDS", (getattr(module, "KIND", ""),)), kind
