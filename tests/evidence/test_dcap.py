"""Quotes of this suite's own maker: every version and TEE, and what no public sample shows."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from datetime import timedelta

import pytest
import support_dcap
from support_dcap import AT, Maker, enclave, td
from support_eventlog import ACTION, log

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.evidence import dcap, quote
from tallystick.formats import dcap_quote

SHAPES = [
    ("sgx-quote", enclave(b"r"), 3),
    ("sgx-quote", enclave(b"r"), 4),
    ("sgx-quote", enclave(b"r"), 5),
    ("tdx-quote", td(b"r"), 4),
    ("tdx-quote", td(b"r"), 5),
    ("tdx-quote", td(b"r", v15=True), 5),
]


@pytest.fixture(scope="module")
def maker():
    return Maker()


@pytest.fixture(autouse=True)
def believed(maker, monkeypatch):
    support_dcap.believe(monkeypatch, maker)
    yield
    dcap.forget()


def verify(data, *endorsements, kind="tdx-quote", at=AT, nonce=None):
    return quote.verify(kind, data, list(endorsements), nonce=nonce, at=at)


def codes(data, *endorsements, **options):
    with pytest.raises(NotGenuine) as refused:
        verify(data, *endorsements, **options)
    return sorted({finding.code for finding in refused.value.findings})


@pytest.mark.parametrize(("kind", "body", "version"), SHAPES)
def test_every_version_and_tee(maker, kind, body, version):
    collateral = maker.collateral("TDX" if kind == "tdx-quote" else "SGX")
    claims = verify(maker.quote(body, version), collateral, kind=kind, nonce=b"r".ljust(64, b"\0"))
    assert (claims.values["tcb_status"], claims.values["tcb_eval_num"]) == ("UpToDate", 18)
    assert ("mr_servicetd" in claims.values.get("quote", {}).get("body", {})) == (len(body) == 648)


@pytest.mark.parametrize(("kind", "body", "version"), SHAPES)
def test_flipped_bytes_are_refused(maker, kind, body, version):
    data, collateral = maker.quote(body, version), maker.collateral("TDX" if kind == "tdx-quote" else "SGX")
    verify(data, collateral, kind=kind)
    signed = len(dcap_quote.parse(data).signed)
    for place in (*range(0, signed, 37), *range(signed, len(data) - 1, 101)):
        damaged = bytearray(data)
        damaged[place] ^= 0x20
        with suppress(Malformed, Unsupported, NotGenuine):
            verify(bytes(damaged), collateral, kind=kind)
            pytest.fail(f"byte {place}")


def test_debug_is_a_claim(maker):
    claims = verify(maker.quote(td(b"r", attributes=1)), maker.collateral())
    assert claims.values["debug"] is True
    sgx = maker.quote(enclave(b"r", debug=True), 3)
    assert verify(sgx, maker.collateral("SGX"), kind="sgx-quote").values["debug"] is True


def test_levels_advisories_and_the_quoting_enclaves_age(maker):
    info = maker.tcb_info("TDX", "ConfigurationNeeded")
    info["tcbLevels"][0]["advisoryIDs"] = ["INTEL-SA-00001"]
    claims = verify(maker.quote(td(b"r")), maker.collateral(info=info))
    assert (claims.values["tcb_status"], claims.values["advisory_ids"]) == (
        "ConfigurationNeeded",
        ["INTEL-SA-00001"],
    )
    old = maker.quote(td(b"r"), qe_svn=3)
    assert verify(old, maker.collateral()).values["tcb_status"] == "OutOfDate"
    assert verify(old, maker.collateral(info=info)).values["tcb_status"] == "OutOfDateConfigurationNeeded"
    assert codes(maker.quote(td(b"r"), qe_svn=0), maker.collateral()) == ["dcap.qe.unrecognised"]
    assert codes(maker.quote(td(b"r")), maker.collateral(info=maker.tcb_info("TDX", "Revoked"))) == [
        "dcap.tcb.revoked"
    ]
    higher = maker.tcb_info("TDX")
    higher["tcbLevels"][0]["tcb"]["pcesvn"] = 12
    assert codes(maker.quote(td(b"r")), maker.collateral(info=higher)) == ["dcap.tcb.unrecognised"]


def test_the_tcb_info_of_version_2(maker):
    info = maker.tcb_info("SGX")
    del info["id"]
    info["tcbLevels"][0]["tcb"] = {f"sgxtcbcomp{i:02}svn": 3 for i in range(1, 17)} | {"pcesvn": 11}
    data = maker.quote(enclave(b"r"), 3)
    claims = verify(data, maker.collateral("SGX", info=info), kind="sgx-quote")
    assert claims.values["tcb_status"] == "UpToDate"


@pytest.mark.parametrize(
    ("who", "code"),
    [
        ("pck", "dcap.certificate.revoked"),
        ("platform_ca", "dcap.certificate.revoked"),
        ("tcb_signer", "dcap.collateral.revoked"),
    ],
)
def test_revoked_certificates(maker, who, code):
    collateral = maker.collateral(revoked=(getattr(maker, who),))
    assert codes(maker.quote(td(b"r")), collateral) == [code]


def test_modules_and_enclaves_of_others(maker):
    for field in ("tdxModuleIdentities",):
        assert codes(maker.quote(td(b"r")), maker.collateral(info=maker.tcb_info("TDX", **{field: []}))) == [
            "dcap.module.unrecognised"
        ]
    other = maker.qe_identity("TDX", mrsigner="00" * 32)
    assert codes(maker.quote(td(b"r")), maker.collateral(identity=other)) == ["dcap.qe.identity"]
    wrong = maker.collateral(identity=maker.qe_identity("SGX"))
    assert codes(maker.quote(td(b"r")), wrong) == ["dcap.qe.identity"]


def test_of_several_windows_the_one_that_holds_is_taken(maker):
    data, now = maker.quote(td(b"r")), maker.collateral()
    old = maker.tcb_info("TDX", nextUpdate=support_dcap.stamp(AT - timedelta(days=1)))
    past = maker.collateral(info=old)
    assert verify(data, past, now).values["tcb_status"] == "UpToDate"
    assert codes(data, past) == ["dcap.collateral.expired"]
    assert codes(data, now, at=AT + timedelta(days=21)) == [
        "dcap.certificate.crl.expired",
        "dcap.collateral.crl.expired",
        "dcap.collateral.expired",
    ]


def test_what_was_verified_before_is_never_trusted_past_its_time(maker):
    data, collateral = maker.quote(td(b"r")), maker.collateral()
    for _ in range(2):
        until = verify(data, collateral).valid_until
        verify(data, collateral, at=until)
        assert "dcap.collateral.expired" in codes(data, collateral, at=until + timedelta(seconds=1))


def test_a_cc_event_log_must_lead_to_the_rtmrs(maker):
    events = ((1, ACTION, b"hob"), (2, ACTION, b"kernel"))
    registers = [hashlib.sha384(bytes(48) + hashlib.sha384(data).digest()).digest() for _, _, data in events]
    data, collateral = maker.quote(td(b"r", rtmr=tuple(registers))), maker.collateral()
    verify(data, collateral, log(events, ("sha384",)) + b"\xff" * 64)
    assert codes(data, collateral, log(events[:1], ("sha384",))) == ["quote.eventlog.rtmr1"]


def test_a_signature_of_another_maker(maker):
    other = Maker()
    assert codes(other.quote(td(b"r")), maker.collateral()) == ["dcap.certificate.chain"]
    assert codes(maker.quote(td(b"r")), other.collateral()) == ["dcap.certificate.chain"]
    document = json.loads(maker.collateral())
    document["qe_identity_signature"] = "00" * 64
    assert codes(maker.quote(td(b"r")), json.dumps(document).encode()) == ["dcap.collateral.signature"]


def test_a_second_opinion_on_this_makers_quotes(maker):
    qvl = pytest.importorskip("dcap_qvl")
    from cryptography.hazmat.primitives.serialization import Encoding

    root = maker.root.made.public_bytes(Encoding.DER)
    for kind, body, version in (SHAPES[0], *SHAPES[3:]):  # it takes SGX quotes of version 3 alone
        collateral = maker.collateral("TDX" if kind == "tdx-quote" else "SGX")
        theirs = qvl.QuoteCollateralV3.from_json(collateral.decode())
        found = qvl.verify_with_root_ca(maker.quote(body, version), theirs, root, int(AT.timestamp()))
        assert found.status == "UpToDate"


def test_collateral_is_signed_by_the_tcb_signer_alone(maker):
    """A PCK chains to Intel's root as well, and whoever has a machine has its signatures."""
    document = json.loads(maker.collateral())
    document["tcb_info_issuer_chain"] = maker.pck_chain
    text = document["tcb_info"].encode()
    document["tcb_info_signature"] = support_dcap.raw(maker.pck.key, text).hex()
    assert codes(maker.quote(td(b"r")), json.dumps(document).encode()) == ["dcap.collateral.signer"]
