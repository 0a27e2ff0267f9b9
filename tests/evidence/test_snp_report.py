"""SNP reports: real ones, damaged ones, and a test maker's for what no public sample shows."""

from __future__ import annotations

import json
import struct
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
import support_snp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from support_corpus import corpus
from support_snp import AT, Maker

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.evidence import roots, snp_report
from tallystick.formats.snp_report import certificate_table


@pytest.fixture(scope="module")
def milan():
    return Maker()


@pytest.fixture
def believe(monkeypatch):
    """Believe a test maker's root in place of AMD's."""

    def use(maker):
        support_snp.believe(monkeypatch, maker)

    yield use
    snp_report._endorsed.cache_clear()


def codes(error):
    return [finding.code for finding in error.value.findings]


def test_a_report_of_the_test_maker_is_genuine(milan, believe):
    believe(milan)
    claims = snp_report.verify(milan.report(), milan.endorsements(), nonce=b"n" * 64, at=AT)
    assert claims.values["measurement"] == (b"m" * 48).hex()
    assert claims.values["reported_tcb_microcode"] == 219
    assert claims.values["debug"] is False
    assert claims.roots == ("amd",)
    assert [note.code for note in claims.notes] == ["snp.certificate.crl.missing"] * 2


def test_turin_lays_its_tcb_out_otherwise(believe):
    turin = Maker("Turin", tcb=(1, 2, 3, 77), fmc=9, chip=bytes(range(8)))
    believe(turin)
    report = turin.report(
        version=5, cpuid=(0x1A, 2, 1), tcb=bytes([9, 1, 2, 3, 0, 0, 0, 77]), chip=bytes(range(8)) + bytes(56)
    )
    values = snp_report.verify(report, turin.endorsements(), nonce=None, at=AT).values
    assert [values[f"reported_tcb_{n}"] for n in ("fmc", "bootloader", "tee", "snp", "microcode")] == [
        9,
        1,
        2,
        3,
        77,
    ]


def test_a_debug_guest_is_genuine_and_says_so(milan, believe):
    believe(milan)
    claims = snp_report.verify(milan.report(policy=0xB0000), milan.endorsements(), nonce=None, at=AT)
    assert claims.values["policy_debug_allowed"] is True


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"tcb": bytes([4, 0, 0, 0, 0, 0, 23, 219])}, "snp.tcb.mismatch"),
        ({"chip": bytes(63) + b"\1"}, "snp.chip-id.mismatch"),
        ({"cpuid": (0x19, 0x11, 1)}, "snp.product.mismatch"),
    ],
)
def test_a_report_that_its_own_certificate_contradicts(milan, believe, fields, code):
    believe(milan)
    with pytest.raises(NotGenuine, match="not genuine") as refused:
        snp_report.verify(milan.report(**fields), milan.endorsements(), nonce=None, at=AT)
    assert codes(refused) == [code]


@pytest.mark.parametrize(
    ("days", "code"), [(-31, "snp.certificate.not-yet-valid"), (31, "snp.certificate.expired")]
)
def test_certificates_are_judged_at_the_given_time(milan, believe, days, code):
    believe(milan)
    with pytest.raises(NotGenuine, match="not genuine") as refused:
        snp_report.verify(milan.report(), milan.endorsements(), nonce=None, at=AT + timedelta(days=days))
    assert set(codes(refused)) == {code}


def test_a_revoked_key_is_refused_and_a_clean_list_is_no_finding(believe):
    for revoke, want in ((True, ["snp.certificate.revoked"]), (False, [])):
        maker = Maker(revoke=revoke)
        believe(maker)
        endorsements = [*maker.endorsements(), maker.crl]
        found = []
        try:
            claims = snp_report.verify(maker.report(), endorsements, nonce=None, at=AT)
            assert [n.code for n in claims.notes] == ["snp.certificate.crl.missing"]  # of the ARK
        except NotGenuine as refused:
            found = [f.code for f in refused.findings]
        assert found == want


def test_another_nonce_is_refused(milan, believe):
    believe(milan)
    with pytest.raises(NotGenuine, match="not genuine") as refused:
        snp_report.verify(milan.report(), milan.endorsements(), nonce=b"x" * 64, at=AT)
    assert codes(refused) == ["snp.report-data.mismatch"]


def test_a_maker_that_is_not_amd_is_refused(milan):
    with pytest.raises(NotGenuine, match="does not chain to AMD"):
        snp_report.verify(milan.report(), milan.endorsements(), nonce=None, at=AT)


def test_a_missing_endorsement_is_named():
    with pytest.raises(NotGenuine, match="signed by a VCEK, and none was given"):
        snp_report.verify(Maker().report(), [], nonce=None, at=AT)


def test_every_flipped_byte_of_the_report_is_refused(milan, believe):
    believe(milan)
    report = milan.report()
    snp_report.verify(report, milan.endorsements(), nonce=None, at=AT)
    for at in range(0, len(report), 3):
        damaged = bytearray(report)
        damaged[at] ^= 0x40
        with pytest.raises((NotGenuine, Malformed, Unsupported)):
            snp_report.verify(bytes(damaged), milan.endorsements(), nonce=None, at=AT)


def test_certificates_in_a_ghcb_table(milan, believe):
    believe(milan)
    der = [c.public_bytes(serialization.Encoding.DER) for c in (milan.vcek, milan.ask)]
    guids = ["63da758d-e664-4564-adc5-f4b93be8accd", "4ab7b379-bbac-4fe4-a02f-05aef327c782"]
    table, at = b"", 24 * 3
    for guid, data in zip(guids, der, strict=True):
        table += uuid.UUID(guid).bytes + struct.pack("<II", at, len(data))
        at += len(data)
    table += bytes(24) + b"".join(der)
    assert snp_report.verify(milan.report(), [table], nonce=None, at=AT).kind == "snp-report"
    assert snp_report.verify(milan.report() + table, [], nonce=None, at=AT).kind == "snp-report"


SAMPLES = [
    ("gosevguest_milan_v2_DEBUG.report.bin", "gosevguest_milan_v2_DEBUG.vcek.der", True, 0),
    ("trustee_milan_v2.report.bin", "trustee_milan_v2.vcek.der", False, 0),
    ("trustee_vlek_milan_v3_vmpl1.report.bin", "trustee_vlek_milan_v3_vmpl1.vlek.der", False, 1),
]


@pytest.mark.corpus
@pytest.mark.parametrize(("report", "key", "debug", "vmpl"), SAMPLES)
def test_real_reports(report, key, debug, vmpl):
    folder = corpus("evidence/snp/reports")
    values = snp_report.verify(
        (folder / report).read_bytes(), [(folder / key).read_bytes()], nonce=None, at=AT
    ).values
    assert (values["debug"], values["vmpl"]) == (debug, vmpl)


@pytest.mark.corpus
def test_real_keys_that_expired_or_were_tampered_with():
    folder = corpus("evidence/snp/reports")
    vlek = [(folder / "trustee_vlek_milan_v3_vmpl1.vlek.der").read_bytes()]
    report = (folder / "trustee_vlek_milan_v3_vmpl1.report.bin").read_bytes()
    with pytest.raises(NotGenuine, match="not genuine") as refused:
        snp_report.verify(report, vlek, nonce=None, at=datetime(2026, 1, 1, tzinfo=UTC))
    assert codes(refused) == ["snp.certificate.expired"]
    assert "2025-12-10" in refused.value.findings[0].got
    tampered = [(folder / "NEG_trustee_vcek_invalid_legacy.der").read_bytes()]
    with pytest.raises(NotGenuine, match="does not chain"):
        snp_report.verify((folder / "trustee_milan_v2.report.bin").read_bytes(), tampered, nonce=None, at=AT)


def test_the_embedded_roots_are_the_reviewed_ones():
    assert len(roots.names()) >= 9
    for name in roots.names():
        roots.certificate(name)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=1300), st.binary(max_size=200))
def test_no_bytes_crash_the_parsers(data, table):
    with suppress(Malformed, Unsupported, NotGenuine):
        snp_report.verify(data, [table], nonce=None, at=AT)
    with suppress(Malformed):
        certificate_table(table)


def test_of_several_keys_the_one_for_this_chip_and_tcb_is_taken(milan, believe, monkeypatch):
    believe(milan)
    other = Maker(chip=bytes(64)[1:] + b"o")
    files = [other.vcek.public_bytes(serialization.Encoding.PEM), *milan.endorsements()]
    assert snp_report.verify(milan.report(), files, nonce=None, at=AT).values["product"] == "Milan"


def test_a_list_that_is_not_whole_is_no_list(milan, believe):
    believe(milan)
    delta = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(milan.ask.subject)
        .last_update(AT - timedelta(days=1))
        .next_update(AT + timedelta(days=1))
        .add_extension(x509.DeltaCRLIndicator(1), critical=True)
        .sign(milan.ask_key, hashes.SHA384())
    ).public_bytes(serialization.Encoding.DER)
    with pytest.raises(NotGenuine, match="not genuine") as refused:
        snp_report.verify(milan.report(), [*milan.endorsements(), delta], nonce=None, at=AT)
    assert codes(refused) == ["snp.certificate.crl.extension"]


def test_mitigation_vectors_exist_from_version_5_on(milan, believe):
    believe(milan)
    report = bytearray(milan.report())
    report[0x1F8] = 1
    with pytest.raises(Malformed, match="all zero before version 5"):
        snp_report.verify(bytes(report), milan.endorsements(), nonce=None, at=AT)
    values = snp_report.verify(milan.report(version=5), milan.endorsements(), nonce=None, at=AT).values
    assert (values["launch_mit_vector"], values["current_mit_vector"]) == (0, 0)


def test_azures_host_information_is_an_endorsement(milan, believe):
    believe(milan)
    pem = [one.public_bytes(serialization.Encoding.PEM).decode() for one in (milan.vcek, milan.ask)]
    thim = json.dumps({"vcekCert": pem[0], "certificateChain": pem[1], "tcbm": "00"}).encode()
    assert snp_report.verify(milan.report(), [thim], nonce=None, at=AT).roots == ("amd",)
    with pytest.raises(Malformed, match="THIM"):
        snp_report.verify(milan.report(), [b'{"vcekCert": 1}'], nonce=None, at=AT)
