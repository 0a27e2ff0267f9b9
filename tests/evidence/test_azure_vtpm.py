"""Azure's confidential VMs: real evidence, a test maker's, and each link of the chain broken on its own."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from contextlib import suppress
from datetime import UTC, datetime

import pytest
import support_dcap
import support_snp
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from support_corpus import corpus
from support_eventlog import ACTION, log
from support_tpm import attest, new_rsa

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.evidence import azure_forms, azure_vtpm
from tallystick.formats import hcl

SNP, TDX = azure_vtpm.KINDS
NONCE = b"n" * 48
EVENTS = ((0, ACTION, b"firmware"), (4, ACTION, b"image"))
PCRS = {number: bytes(32) for number in range(24)}
for _register, _, _data in EVENTS:
    PCRS[_register] = hashlib.sha256(bytes(32) + hashlib.sha256(_data).digest()).digest()


def number64(value):
    return (
        base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()
    )


class Machine:
    """A confidential VM whose paravisor, vTPM and processor are this test's."""

    def __init__(self, tee):
        self.tee, self.key = tee, new_rsa()
        self.maker = support_snp.Maker() if tee == hcl.SNP else support_dcap.Maker()

    def runtime(self, user_data=NONCE, keys=None):
        numbers = self.key.public_key().public_numbers()
        jwk = {"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA"}
        jwk |= {"e": number64(numbers.e), "n": number64(numbers.n)}
        document = {
            "keys": [jwk, {"kid": "HCLEkPub"}] if keys is None else keys,
            "vm-configuration": {"secure-boot": True},
            "user-data": user_data.ljust(64, b"\0").hex().upper(),
        }
        return json.dumps(document, separators=(",", ":")).encode()

    def hcl(self, runtime=None, *, bound=None, vmpl=0, hashed=1, version=2, rtmr=b"T" * 48):
        runtime = self.runtime() if runtime is None else runtime
        name = {1: "sha256", 2: "sha384", 3: "sha512"}.get(hashed, "sha256")
        digest = hashlib.new(name, runtime).digest() if bound is None else bound
        if self.tee == hcl.SNP:
            hardware = self.maker.report(report_data=digest.ljust(64, b"\0"), vmpl=vmpl)
            self.td_quote = None
        else:
            body = support_dcap.td(digest, attributes=0)
            self.td_quote = self.maker.quote(body)
            td = body[120:128] + body[128:136] + rtmr + body[184:520]
            hardware = b"\x81" + bytes(127) + digest.ljust(64, b"\0") + bytes(64 + 256)
            hardware = (hardware + td).ljust(1184, b"\0")
        fields = struct.pack("<5I", len(runtime) + 20, 1, self.tee, hashed, len(runtime))
        head = b"HCLA" + struct.pack("<4I", version, 32 + 1184 + 20 + len(runtime), 2, 0) + bytes(12)
        return (head + hardware + fields + runtime).ljust(2600, b"\0")

    def quote(self, nonce=NONCE, pcrs=PCRS, claimed=None, **changes):
        message = attest(pcrs, nonce, **changes)
        signature = self.key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        values = (claimed or pcrs).values()
        return {"signature": signature.hex(), "message": message.hex(), "pcrs": [v.hex() for v in values]}

    def evidence(self, report=None, quote=None, version=2):
        report = self.hcl() if report is None else report
        document = {"version": version, "hcl_report": base64.urlsafe_b64encode(report).decode()}
        document["tpm_quote"] = self.quote() if quote is None else quote
        if self.tee == hcl.SNP:
            der = self.maker.vcek.public_bytes(Encoding.DER)
            document["vcek"] = base64.urlsafe_b64encode(der).decode()
        else:
            document["td_quote"] = base64.urlsafe_b64encode(self.td_quote).decode()
        return json.dumps(document).encode()

    @property
    def kind(self):
        return SNP if self.tee == hcl.SNP else TDX

    def endorsements(self):
        if self.tee == hcl.SNP:
            return [self.maker.ask.public_bytes(Encoding.DER)]
        return [self.maker.collateral("TDX")]

    def verify(self, data, *more, nonce=NONCE):
        at = support_snp.AT if self.tee == hcl.SNP else support_dcap.AT
        return azure_vtpm.verify(self.kind, data, [*self.endorsements(), *more], nonce=nonce, at=at)


@pytest.fixture(scope="module")
def machines():
    return {SNP: Machine(hcl.SNP), TDX: Machine(hcl.TDX)}


@pytest.fixture(params=[SNP, TDX])
def machine(request, machines, monkeypatch):
    made = machines[request.param]
    (support_snp if made.tee == hcl.SNP else support_dcap).believe(monkeypatch, made.maker)
    return made


def codes(machine, *arguments, **options):
    with pytest.raises(NotGenuine) as refused:
        machine.verify(*arguments, **options)
    return [finding.code for finding in refused.value.findings]


def test_evidence_of_the_test_makers_is_genuine(machine):
    claims = machine.verify(machine.evidence(), log(EVENTS))
    assert claims.roots == ("amd",) if machine.kind == SNP else ("intel",)
    assert claims.report_data == NONCE
    assert claims.values["report_data"] == NONCE.hex()
    assert claims.values["tpm"]["pcr04"] == PCRS[4].hex()
    assert claims.values["init_data"] == bytes(32).hex()
    assert claims.values["hcl"]["vm_configuration"] == {"secure-boot": True}
    assert "tpm.eventlog.absent" not in [note.code for note in claims.notes]
    if machine.kind == TDX:  # dcap-qvl refuses this TD for its clear SEPT_VE_DISABLE
        assert claims.values["td_attributes"]["septve_disable"] is False
        assert claims.values["tcb_status"] == "UpToDate"


def test_a_bare_report_with_its_parts_among_the_endorsements(machine):
    report = machine.hcl()
    parts = [json.dumps(machine.quote()).encode()]
    parts += [machine.td_quote] if machine.td_quote else [machine.maker.vcek.public_bytes(Encoding.DER)]
    assert machine.verify(report, *parts).values["tpm"]["pcr04"] == PCRS[4].hex()
    without = machine.verify(report, *parts[1:])
    assert "azure.quote.absent" in [note.code for note in without.notes]
    assert "tpm" not in without.values
    assert codes(machine, report, *parts[1:], nonce=b"other") == ["azure.user-data.mismatch"]


def test_longer_hashes_of_the_runtime_data(machine):
    for hashed in (2, 3):
        assert machine.verify(machine.evidence(machine.hcl(hashed=hashed))).report_data == NONCE


BROKEN = {
    "azure.runtime-data.mismatch": lambda m: m.evidence(m.hcl(bound=bytes(32))),
    "tpm.signature": lambda m: m.evidence(quote=Machine(m.tee).quote()),
    "tpm.nonce.mismatch": lambda m: m.evidence(m.hcl(m.runtime(b"x")), m.quote(b"x")),
    "azure.user-data.mismatch": lambda m: m.evidence(m.hcl(m.runtime(b"x"))),
    "tpm.pcr-digest.mismatch": lambda m: m.evidence(quote=m.quote(claimed={**PCRS, 7: b"p" * 32})),
}


@pytest.mark.parametrize("code", BROKEN)
def test_each_broken_link_is_named(machine, code):
    assert codes(machine, BROKEN[code](machine)) == [code]


def test_the_selection_must_be_the_registers_that_are_claimed(machine):
    """The same values under other register numbers: the digest holds, and the meaning does not."""
    other = {number: PCRS[number] for number in range(8)}
    quote = machine.quote(pcrs={number + 8: value for number, value in other.items()})
    assert codes(machine, machine.evidence(quote=quote)) == ["tpm.pcr-selection.mismatch"]


def test_an_event_log_must_replay(machine):
    assert codes(machine, machine.evidence(), log(EVENTS[:1])) == ["tpm.eventlog.pcr04"]


def test_only_the_paravisors_own_report_counts(machines, monkeypatch):
    machine = machines[SNP]
    support_snp.believe(monkeypatch, machine.maker)
    assert codes(machine, machine.evidence(machine.hcl(vmpl=1))) == ["azure.vmpl"]


def test_the_tdreport_must_be_the_quotes(machines, monkeypatch):
    machine = machines[TDX]
    support_dcap.believe(monkeypatch, machine.maker)
    assert codes(machine, machine.evidence(machine.hcl(rtmr=b"U" * 48))) == ["azure.tdreport.mrtd"]
    assert codes(machine, machine.hcl()) == ["azure.td-quote.absent"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda m: m.hcl(m.runtime(keys=[])), "one HCLAkPub, got 0"),
        (lambda m: m.hcl(m.runtime(keys=[{"kid": "HCLAkPub"}] * 2)), "one HCLAkPub, got 2"),
        (lambda m: m.hcl(m.runtime(keys=[{"kid": "HCLAkPub", "kty": "EC"}])), "an RSA key for signing"),
        (lambda m: m.hcl(b"[]"), "a JSON object"),
        (lambda m: m.hcl(hashed=4), "report_data_hash_type"),
        (lambda m: m.hcl(version=3), "version: want 1 or 2"),
        (lambda m: m.hcl()[:-1] + b"\1", "all zero"),
        (lambda m: m.hcl()[:1300], "runtime data"),
        (lambda m: b"HCLB" + m.hcl()[4:], "signature"),
    ],
)
def test_reports_that_break_their_form(machine, make, said):
    with pytest.raises((Malformed, Unsupported), match=said):
        machine.verify(machine.evidence(make(machine)))


def test_the_other_kind_is_malformed(machine):
    other = TDX if machine.kind == SNP else SNP
    with pytest.raises(Malformed, match=f"want {other}"):
        azure_vtpm.verify(other, machine.hcl(), [], nonce=None, at=support_snp.AT)


def test_flipped_bytes_are_refused(machine):
    """Every byte that some signature covers: the hardware's report and the runtime data (sampled here)."""
    good = machine.hcl()
    end = 1236 + int.from_bytes(good[1232:1236], "little")
    hardware = range(32, 32 + 0x2A0) if machine.kind == SNP else range(32 + 128, 32 + 192)
    for place in (*hardware[::29], *range(1236, end, 41)):
        damaged = bytearray(good)
        damaged[place] ^= 0x04
        with suppress(Malformed, Unsupported, NotGenuine):
            machine.verify(machine.evidence(bytes(damaged)))
            pytest.fail(f"byte {place}")


EVIDENCE = ["azure/snp/evidence-v0.json", "azure/snp/evidence-v2.json", "azure/tdx/evidence-v0.json"]
COLLATERAL = "tdx/composite_collateral/automata-1025-00806F050000.json"


@pytest.mark.corpus
@pytest.mark.parametrize("path", EVIDENCE)
def test_real_evidence(path):
    kind, endorsements = (
        (SNP, []) if "snp" in path else (TDX, [corpus(f"evidence/{COLLATERAL}").read_bytes()])
    )
    at = datetime(2025, 10, 20, tzinfo=UTC)
    data = corpus(f"evidence/{path}").read_bytes()
    claims = azure_vtpm.verify(kind, data, endorsements, nonce=None, at=at)
    assert len(claims.values["tpm"]) == 24
    if path.endswith("v2.json"):
        assert claims.values["report_data"].startswith("982f5c6e45df0ed3")  # as Trustee's own test has it
        assert claims.values["tpm"]["pcr00"].startswith("84275b2f4312cd4f")
    else:
        assert claims.report_data == b"challenge"


@pytest.mark.corpus
def test_real_reports_in_pieces():
    folder = corpus("evidence/azure")
    at = datetime(2025, 10, 20, tzinfo=UTC)
    snp = (folder / "snp/trustee_hcl-report.bin").read_bytes()
    vcek = (folder / "snp/trustee_vcek.pem").read_bytes()
    assert azure_vtpm.verify(SNP, snp, [vcek], nonce=None, at=at).values["product"] == "Milan"
    parts = [(folder / f"tdx/{name}").read_bytes() for name in ("td-quote.bin", "quote.bin")]
    parts.append(corpus(f"evidence/{COLLATERAL}").read_bytes())
    report = (folder / "tdx/hcl-report.bin").read_bytes()
    claims = azure_vtpm.verify(TDX, report, parts, nonce=b"challenge", at=at)
    assert claims.values["tpm"]["pcr00"].startswith("782b20b10f55cc46")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=2700), st.binary(max_size=1400))
def test_no_bytes_crash_the_parsers(data, rest):
    for report in (data, b"HCLA" + data, b"HCLA\2\0\0\0" + data[:8] + b"\2\0\0\0" + bytes(16) + data):
        with suppress(Malformed, Unsupported):
            hcl.parse(report)
    with suppress(Malformed, Unsupported, NotGenuine):
        azure_vtpm.verify(SNP, data, [rest], nonce=None, at=support_snp.AT)
    with suppress(Malformed):
        azure_forms.quote_file(b"\0\1" + bytes(6) + rest)


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=6) | st.just("ff54"),
        lambda v: (
            st.lists(v, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["version", "hcl_report", "tpm_quote", "message", "signature", "pcrs", "vcek", "report"]
                ),
                v,
                max_size=6,
            )
        ),
    )
)
def test_no_json_crashes_the_parser(value):
    with suppress(Malformed, Unsupported):
        azure_forms.parse(json.dumps(value).encode())


def test_the_length_in_the_header_is_the_reports(machine):
    report = bytearray(machine.hcl())
    report[8] ^= 1
    with pytest.raises(Malformed, match="report_size"):
        machine.verify(machine.evidence(bytes(report)))
