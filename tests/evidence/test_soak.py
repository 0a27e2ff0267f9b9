"""Long counts: every byte of every signed region, and fuzzing with coverage. The fast suite has samples."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

import pytest
import support_dcap
import support_snp
from support_corpus import ROOT, corpus
from support_tpm_evidence import NOW, authority, der, made

from tallystick import evidence
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.evidence import dcap, nitro, snp_report
from tallystick.formats import dcap_quote, dstack

SECONDS = 120  # of fuzzing, for each target
FUZZ = ROOT / "tests" / "fuzz" / "evidence.py"


def every_byte(verify, data, places):
    """Return the places where a changed byte went unseen."""
    unseen = []
    for place in places:
        for bit in (0x01, 0x80):
            damaged = bytearray(data)
            damaged[place] ^= bit
            with suppress(Malformed, Unsupported, NotGenuine):
                verify(bytes(damaged))
                unseen.append(place)
    return unseen


@pytest.mark.soak
def test_every_byte_of_a_report(monkeypatch):
    maker = support_snp.Maker()
    support_snp.believe(monkeypatch, maker)
    data = maker.report()

    def verify(copy):
        snp_report.verify(copy, maker.endorsements(), nonce=None, at=support_snp.AT)

    verify(data)
    assert every_byte(verify, data, range(len(data))) == []


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "body", "version"),
    [
        ("sgx-quote", support_dcap.enclave(b"r"), 3),
        ("tdx-quote", support_dcap.td(b"r"), 4),
        ("tdx-quote", support_dcap.td(b"r", v15=True), 5),
    ],
)
def test_every_byte_of_a_quote(monkeypatch, kind, body, version):
    maker = support_dcap.Maker()
    support_dcap.believe(monkeypatch, maker)
    data, collateral = maker.quote(body, version), maker.collateral("TDX" if kind == "tdx-quote" else "SGX")

    def verify(copy):
        evidence.verify(kind, copy, [collateral], nonce=None, at=support_dcap.AT)

    verify(data)
    signed = len(dcap_quote.parse(data).signed)
    end = data.index(b"-----BEGIN")  # of the PEM, the white space may change
    assert every_byte(verify, data, range(end)) == []
    assert signed < end
    dcap.forget()


@pytest.mark.soak
def test_every_byte_of_a_tpms_quote():
    import base64
    import json

    document = json.loads(made())
    message = base64.b64decode(document["tpm_quote"]["message"])

    def verify(copy):
        document["tpm_quote"]["message"] = base64.b64encode(copy).decode()
        data = json.dumps(document).encode()
        evidence.verify("tpm-quote", data, [der(authority())], nonce=None, at=NOW)

    verify(message)
    assert every_byte(verify, message, range(len(message))) == []


REAL = [
    ("nitro", "nitro/dstack_nsm-qvl_nitro_attestation.bin", []),
    ("cca-token", "cca/tf-rmm_cca_token.cbor", ["cca/tf-rmm_cca_platform.pub"]),
]


@pytest.mark.soak
@pytest.mark.corpus
@pytest.mark.parametrize(("kind", "path", "endorsements"), REAL)
def test_every_byte_of_real_evidence(kind, path, endorsements):
    from datetime import UTC, datetime

    data = corpus(f"evidence/{path}").read_bytes()
    files = [corpus(f"evidence/{one}").read_bytes() for one in endorsements]
    at = datetime(2026, 1, 1, tzinfo=UTC)
    if kind == "nitro":
        at = datetime.fromtimestamp(nitro.show(data)["timestamp"] / 1000, UTC)
        data = dstack.unwrapped(data)  # what stands around the document is not signed

    def verify(copy):
        evidence.verify(kind, copy, files, nonce=None, at=at)

    verify(data)
    assert every_byte(verify, data, range(len(data))) == []


def names():
    sys.path.insert(0, str(FUZZ.parent))
    import importlib.util

    spec = importlib.util.spec_from_file_location("fuzz_evidence", FUZZ)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return sorted(module.targets())


@pytest.mark.soak
@pytest.mark.parametrize("target", names())
def test_fuzzing_finds_no_crash(target, tmp_path):
    pytest.importorskip("atheris")
    limits = [
        f"-max_total_time={SECONDS}",
        "-timeout=10",
        "-rss_limit_mb=2048",
        f"-artifact_prefix={tmp_path}/",
    ]
    run = subprocess.run(
        [sys.executable, FUZZ, target, tmp_path / "corpus", *limits],
        capture_output=True,
        check=False,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
