"""Fetching endorsements from a server that speaks the PCS's and the KDS's API on this machine."""

from __future__ import annotations

import http.server
import threading
import urllib.parse
from contextlib import contextmanager

import pytest
import support_dcap
import support_snp
from cryptography.hazmat.primitives.serialization import Encoding

from tallystick.core.errors import Malformed, Misuse, Unreachable
from tallystick.evidence import pccs, quote, snp_report


@contextmanager
def served(answers):
    """Serve {path: (status, headers, body)}; give the base URL and the list of what was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, headers, body = answers.get(urllib.parse.urlsplit(self.path).path, (404, {}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def pcs(maker, tee="TDX"):
    name = tee.lower()
    chain = urllib.parse.quote(maker.tcb_signer.pem + maker.root.pem)
    pck = {"SGX-PCK-CRL-Issuer-Chain": urllib.parse.quote(maker.platform_ca.pem + maker.root.pem)}
    return {
        f"/{name}/certification/v4/tcb": (
            200,
            {"TCB-Info-Issuer-Chain": chain},
            maker.signed("tcbInfo", maker.tcb_info(tee)),
        ),
        f"/{name}/certification/v4/qe/identity": (
            200,
            {"SGX-Enclave-Identity-Issuer-Chain": chain},
            maker.signed("enclaveIdentity", maker.qe_identity(tee)),
        ),
        "/sgx/certification/v4/pckcrl": (200, pck, maker.crl(maker.platform_ca)),
        "/sgx/certification/v4/rootcacrl": (
            200,
            {},
            maker.crl(maker.root).hex().encode(),
        ),  # as a PCCS writes it
    }


@pytest.fixture(scope="module")
def maker():
    return support_dcap.Maker()


@pytest.mark.parametrize("tee", ["TDX", "SGX"])
def test_what_is_fetched_verifies_the_quote(maker, tee, monkeypatch):
    body = support_dcap.td(b"r") if tee == "TDX" else support_dcap.enclave(b"r")
    made = maker.quote(body, 4 if tee == "TDX" else 3)
    with served(pcs(maker, tee)) as (base, asked):
        found = pccs.collateral(made, pccs.Source(base=base))
    assert f"/{tee.lower()}/certification/v4/tcb?fmspc={support_dcap.FMSPC.hex()}&update=standard" in asked
    assert "/sgx/certification/v4/pckcrl?ca=platform&encoding=der" in asked
    support_dcap.believe(monkeypatch, maker)
    claims = quote.verify(f"{tee.lower()}-quote", made, [found], nonce=None, at=support_dcap.AT)
    assert claims.values["tcb_status"] == "UpToDate"


def test_the_parts_as_files_verify_it_too(maker, monkeypatch):
    answers = pcs(maker)
    support_dcap.believe(monkeypatch, maker)
    files = [body for _, _, body in answers.values()] + [(maker.tcb_signer.pem + maker.root.pem).encode()]
    made = maker.quote(support_dcap.td(b"r"))
    claims = quote.verify("tdx-quote", made, files, nonce=None, at=support_dcap.AT)
    assert claims.values["tcb_status"] == "UpToDate"


def test_what_is_missing_or_broken_there_is_said(maker):
    made = maker.quote(support_dcap.td(b"r"))
    good = pcs(maker)
    for path in good:
        with served({**good, path: (500, {}, b"")}) as (base, _):
            with pytest.raises(Unreachable, match="the service answers 500") as refused:
                pccs.collateral(made, pccs.Source(base=base))
            assert refused.value.code == "fetch.status"
        broken = {**good, path: (200, {}, b"<html>")}
        with served(broken) as (base, _), pytest.raises(Malformed):
            pccs.collateral(made, pccs.Source(base=base))
    elsewhere = {path: (302, {"Location": "https://example.org/"}, b"") for path in good}
    with served(elsewhere) as (base, _), pytest.raises(Unreachable, match="302"):
        pccs.collateral(made, pccs.Source(base=base))


def test_another_familys_answer_is_refused(maker):
    made = maker.quote(support_dcap.td(b"r"))
    other = maker.signed("tcbInfo", maker.tcb_info("TDX", fmspc="00906ED50000"))
    answers = pcs(maker)
    answers["/tdx/certification/v4/tcb"] = (*answers["/tdx/certification/v4/tcb"][:2], other)
    with served(answers) as (base, _), pytest.raises(Malformed, match="fmspc: want 10a06d070000"):
        pccs.collateral(made, pccs.Source(base=base))


def test_nobody_there_and_what_is_no_url(maker):
    made = maker.quote(support_dcap.td(b"r"))
    with pytest.raises(Unreachable) as refused:
        pccs.collateral(made, pccs.Source(base="http://127.0.0.1:1"))
    assert refused.value.code == "fetch.unreachable"
    with pytest.raises(Misuse, match="want an https URL"):
        pccs.collateral(made, pccs.Source(base="file:///etc"))


def test_a_vcek_is_asked_for_by_chip_and_tcb(monkeypatch):
    amd = support_snp.Maker()
    report = amd.report()
    path = f"/vcek/v1/Milan/{amd.chip.hex()}"
    chain = amd.ask.public_bytes(Encoding.PEM) + amd.ark.public_bytes(Encoding.PEM)
    answers = {
        path: (200, {}, amd.vcek.public_bytes(Encoding.DER)),
        "/vcek/v1/Milan/cert_chain": (200, {}, chain),
        "/vcek/v1/Milan/crl": (200, {}, amd.crl),
    }
    with served(answers) as (base, asked):
        files = pccs.vcek(report, pccs.Source(base=base))
    assert asked[0] == f"{path}?blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219"
    support_snp.believe(monkeypatch, amd)
    assert snp_report.verify(report, list(files.values()), nonce=None, at=support_snp.AT).roots == ("amd",)
    with pytest.raises(Misuse, match="version 2"):
        pccs.vcek(amd.report(version=2), pccs.Source(base="http://127.0.0.1:1"))
    with pytest.raises(Misuse, match="with a chip id"):
        pccs.vcek(amd.report(chip=bytes(64)), pccs.Source(base="http://127.0.0.1:1"))
