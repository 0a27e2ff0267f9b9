"""``tally evidence`` on the files that go with evidence: bundles, forecasts, event logs, dumps, fetching."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import support_dcap
import support_snp
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from support_corpus import corpus
from support_eventlog import ACTION, log
from support_tpm_evidence import authority, der, made

from tallystick import evidence
from tallystick.core.errors import Exit, Malformed, Unsupported
from tallystick.evidence import bundle
from tallystick.evidence.explained import explain
from tallystick.signing import keyfile

PIPELINE = Path(__file__).resolve().parents[2] / "pipeline"
AT = "2026-11-22T12:00:00Z"


def tally(*arguments, as_json=True):
    command = [sys.executable, "-m", "tallystick.cli", "evidence", *map(str, arguments)]
    command += ["--json"] if as_json else []
    run = subprocess.run(
        command, capture_output=True, env={**os.environ, "PYTHONPATH": str(PIPELINE)}, check=False
    )
    assert b"Traceback" not in run.stderr
    return run.returncode, (json.loads(run.stdout) if as_json and run.stdout else run.stdout.decode())


@pytest.fixture
def folder(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    keyfile.write(tmp_path / "key.pem", key)
    (tmp_path / "pub.pem").write_text(keyfile.public_pem(key))
    (tmp_path / "quote.json").write_bytes(made())
    (tmp_path / "ca.der").write_bytes(der(authority()))
    (tmp_path / "vcek.der").write_bytes(support_snp.Maker().vcek.public_bytes(Encoding.DER))
    return tmp_path


def test_a_bundle_is_made_forecast_and_used(folder):
    code, document = tally(
        "bundle",
        folder / "ca.der",
        folder / "vcek.der",
        "--key",
        folder / "key.pem",
        "-o",
        folder / "b",
        "--at",
        AT,
    )
    assert code == 0
    assert document["forecast"][0]["valid"] is False  # the VCEK of that maker ended in 2025
    assert "certificate SEV-VCEK" in document["forecast"][0]["what"]
    use = ("verify", folder / "quote.json", "--kind", "tpm-quote", "--endorsements", folder / "b", "--at", AT)
    code, document = tally(*use, "--bundle-key", folder / "pub.pem")
    assert (code, document["genuine"]) == (0, True)
    assert tally(*use)[0] == Exit.MISUSE
    keyfile.write(folder / "other.pem", ec.generate_private_key(ec.SECP256R1()))
    other = keyfile.public_pem(keyfile.read(folder / "other.pem"))
    (folder / "other.pub").write_text(other)
    code, document = tally(*use, "--bundle-key", folder / "other.pub")
    assert (code, document["error"]["code"]) == (Exit.NOT_GENUINE, "bundle.signer")
    code, document = tally("forecast", folder / "b", "--bundle-key", folder / "pub.pem", "--at", AT)
    assert (code, [one["part"] for one in document["expired"]]) == (0, ["vcek.der"])
    assert "EXPIRED" in tally("forecast", folder / "b", "--bundle-key", folder / "pub.pem", as_json=False)[1]


def test_what_a_bundle_can_not_hold_is_said(folder):
    rest = ("--key", folder / "key.pem", "-o", folder / "b")
    assert tally("bundle", folder / "pub.pem", *rest)[1]["error"]["code"] == "bundle.kind"
    assert tally("bundle", f"cca-token={folder / 'pub.pem'}", *rest)[0] == 0
    assert tally("bundle", folder / "missing", *rest)[0] == Exit.MISUSE
    (folder / "broken").write_bytes(bundle.PAYLOAD_TYPE.encode().join([b"{", b"}"]))
    assert tally("forecast", folder / "broken", "--bundle-key", folder / "pub.pem")[0] == Exit.MALFORMED


def test_a_cc_event_log_replays_to_rtmrs(folder):
    events = ((1, ACTION, b"hob"), (2, ACTION, b"kernel"), (2, ACTION, b"more"))
    (folder / "ccel").write_bytes(log(events, ("sha384",)) + b"\xff" * 512)
    code, document = tally("eventlog", folder / "ccel")
    assert (code, list(document["banks"]), list(document["banks"]["sha384"])) == (
        0,
        ["sha384"],
        ["0", "1", "2", "3"],
    )
    first = hashlib.sha384(bytes(48) + hashlib.sha384(b"hob").digest()).hexdigest()
    assert document["banks"]["sha384"]["0"] == first
    assert document["banks"]["sha384"]["3"] == "00" * 48
    assert tally("eventlog", folder / "ccel", as_json=False)[1].startswith("sha384 RTMR  0")
    (folder / "tpm").write_bytes(log(((0, ACTION, b"crtm"), (1, ACTION, b"x")), ("sha384",)))
    assert list(tally("eventlog", folder / "tpm")[1]["banks"]["sha384"]) == ["0", "1"]


def test_fetching_from_nobody_is_exit_7(folder):
    maker = support_dcap.Maker()
    (folder / "quote").write_bytes(maker.quote(support_dcap.td(b"r")))
    where = ("--url", "http://127.0.0.1:1", "-o", folder / "out")
    code, document = tally("fetch", folder / "quote", "--kind", "tdx-quote", *where)
    assert (code, document["error"]["code"]) == (Exit.UNREACHABLE, "fetch.unreachable")
    assert tally("fetch", folder / "quote", "--kind", "nitro", *where)[0] == Exit.UNSUPPORTED
    assert tally("fetch", folder / "ca.der", "--kind", "tdx-quote", *where)[0] in (
        Exit.MALFORMED,
        Exit.UNSUPPORTED,
    )
    assert not (folder / "out").exists()


def test_each_kind_of_the_test_makers_can_be_shown():
    dcap = support_dcap.Maker()
    shown = {
        "snp-report": support_snp.Maker().report(),
        "tdx-quote": dcap.quote(support_dcap.td(b"r")),
        "sgx-quote": dcap.quote(support_dcap.enclave(b"r"), 3),
        "tpm-quote": made(),
    }
    for kind, data in shown.items():
        fields = evidence.show(kind, data)
        json.dumps(fields)
        others = []
        for other in evidence.supported():
            try:
                evidence.show(other, data)
            except (Malformed, Unsupported):
                continue
            others.append(other)
        assert others == [kind]
    assert explain("snp-report", "measurement") != explain("tpm-quote", "measurement")


SAMPLES = {
    "nitro/blocky_nitro_attestation.b64": "nitro",
    "cca/tf-rmm_cca_token.cbor": "cca-token",
    "tokens/gcp_cs_pki_tdx_2025-09.jwt": "gcp-token",
    "tokens/maa_sevsnpvm_sharedweu_2023.jwt": "azure-maa-token",
    "tokens/ita_sgx_2023.jwt": "ita-token",
    "azure/snp/evidence-v2.json": "azure-snp-vtpm",
    "azure/tdx/evidence-v0.json": "azure-tdx-vtpm",
    "tpm/gce/attestations/gce-cos-85-nonce9009.pb": "tpm-quote",
}


@pytest.mark.corpus
@pytest.mark.parametrize("path", SAMPLES)
def test_real_evidence_is_recognised_and_shown(path):
    file = corpus(f"evidence/{path}")
    code, document = tally("show", file)
    assert (code, document["kind"], document["verified"]) == (0, SAMPLES[path], False)
