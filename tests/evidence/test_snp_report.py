"""SNP reports: real ones, damaged ones, and a test maker's for what no public sample shows."""

from __future__ import annotations

import struct
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from support_corpus import corpus

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.evidence import roots, snp_report
from tallystick.formats.snp_report import certificate_table

AT = datetime(2025, 6, 1, tzinfo=UTC)
AMD = "1.3.6.1.4.1.3704.1."


class Maker:
    """A processor maker of this test's own: ARK, ASK and VCEK of AMD's profile."""

    def __init__(self, product="Milan", tcb=(4, 0, 24, 219), fmc=None, chip=bytes(range(64)), revoke=False):
        self.product, self.chip = product, chip
        self.ark_key, self.ask_key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.ark = self._issue(
            f"ARK-{product}", self.ark_key.public_key(), f"ARK-{product}", self.ark_key, ca=True
        )
        self.ask = self._issue(
            f"SEV-{product}", self.ask_key.public_key(), f"ARK-{product}", self.ark_key, ca=True
        )
        extensions = [("2", b"\x16" + bytes([len(product) + 3]) + product.encode() + b"-B0"), ("4", chip)]
        for oid, value in zip(("3.1", "3.2", "3.3", "3.8"), tcb, strict=True):
            extensions.append(
                (oid, b"\x02\x01" + bytes([value]) if value < 128 else b"\x02\x02\0" + bytes([value]))
            )
        if fmc is not None:
            extensions.append(("3.9", b"\x02\x01" + bytes([fmc])))
        self.vcek = self._issue("SEV-VCEK", self.key.public_key(), f"SEV-{product}", self.ask_key, extensions)
        revoked = [self.vcek.serial_number] if revoke else []
        self.crl = self._crl(revoked)

    def _issue(self, name, public, issuer, issuer_key, extensions=(), *, ca=False):
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(AT - timedelta(days=30))
            .not_valid_after(AT + timedelta(days=30))
        )
        if ca:
            builder = builder.add_extension(x509.BasicConstraints(True, None), True)
        for oid, value in extensions:
            builder = builder.add_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier(AMD + oid), value), False
            )
        return builder.sign(
            issuer_key, hashes.SHA384(), rsa_padding=padding.PSS(padding.MGF1(hashes.SHA384()), 48)
        )

    def _crl(self, serials):
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.ask.subject)
            .last_update(AT - timedelta(days=1))
            .next_update(AT + timedelta(days=1))
        )
        for serial in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(AT - timedelta(hours=1))
                .build()
            )
        made = builder.sign(self.ask_key, hashes.SHA384())
        return made.public_bytes(serialization.Encoding.DER)

    def report(
        self,
        *,
        version=3,
        report_data=b"n" * 64,
        policy=0x30000,
        cpuid=(0x19, 1, 1),
        tcb=None,
        chip=None,
        host_data=bytes(32),
    ):
        body = bytearray(0x2A0)
        struct.pack_into("<IIQ", body, 0, version, 0, policy)
        struct.pack_into("<II", body, 0x30, 0, 1)
        body[0x50:0x90] = report_data
        body[0x90:0xC0] = b"m" * 48
        body[0xC0:0xE0] = host_data
        body[0x180:0x188] = tcb or bytes([4, 0, 0, 0, 0, 0, 24, 219])
        if version > 2:
            body[0x188:0x18B] = bytes(cpuid)
        body[0x1A0:0x1E0] = chip if chip is not None else self.chip
        r, s = decode_dss_signature(self.key.sign(bytes(body), ec.ECDSA(hashes.SHA384())))
        return bytes(body) + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)

    def endorsements(self):
        return [
            self.vcek.public_bytes(serialization.Encoding.PEM),
            self.ask.public_bytes(serialization.Encoding.DER),
        ]


@pytest.fixture(scope="module")
def milan():
    return Maker()


@pytest.fixture
def believe(monkeypatch):
    """Believe a test maker's root in place of AMD's."""

    def use(maker):
        snp_report._endorsed.cache_clear()
        real = roots.certificate
        monkeypatch.setattr(
            roots, "certificate", lambda name: maker.ark if name.startswith("ARK-") else real(name)
        )

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
