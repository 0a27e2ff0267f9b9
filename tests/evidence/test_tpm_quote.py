"""TPM quotes: genuine ones and their claims, and each check broken once, by its code."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from support_corpus import corpus
from support_eventlog import ACTION, legacy
from support_eventlog import log as make_log
from support_tpm import (
    AK_ATTRIBUTES,
    ECDSA,
    RSAPSS,
    RSASSA,
    SHA1,
    SHA384,
    attest,
    public,
    sign,
    sized,
    software_tpm,
)
from support_tpm_evidence import (
    AIK,
    EVENTS,
    NONCE,
    NOW,
    Made,
    authority,
    certificate,
    der,
    endorser,
    key,
    made,
    spki,
    text,
)

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.evidence import kinds, tpm_forms, tpm_quote
from tallystick.evidence.endorsements import Endorsements, TrustedKey

ROOT = authority()
TRUST = endorser(ROOT)
INIT_DATA = hashlib.sha256(b"init-data").digest()
PCR8 = hashlib.sha256(bytes(32) + INIT_DATA).digest()


def verify(evidence: bytes, trust: Endorsements = TRUST, **kwargs):
    return tpm_quote.verify_under(evidence, trust, **({"at": NOW, "nonce": NONCE} | kwargs))


def codes(evidence: bytes, trust: Endorsements = TRUST, **kwargs) -> list[str]:
    with pytest.raises(NotGenuine) as caught:
        verify(evidence, trust, **kwargs)
    assert all(finding.want != finding.got for finding in caught.value.findings)
    return [finding.code for finding in caught.value.findings]


def test_a_genuine_quote_claims_its_registers_and_clock():
    claims = verify(made())
    assert claims.kind == "tpm-quote"
    assert claims.roots == ("software-tpm",)
    assert claims.report_data == NONCE
    assert claims.notes == ()
    assert (claims.valid_from, claims.valid_until) == (NOW - timedelta(days=1), NOW + timedelta(days=1))
    registers = {f"pcr{number:02}": value.hex() for number, value in Made().registers().items()}
    assert dict(claims.values) == registers | {
        "ak_public": text(spki(key("rsa"))),
        "report_data": NONCE.hex(),
        "init_data": "00" * 32,
        "firmware_version": 0x2019102300163636,
        "reset_count": 5,
        "restart_count": 6,
        "clock": 1234,
        "safe": True,
    }


@pytest.mark.parametrize(
    ("name", "scheme", "hashed"),
    [("rsa", RSASSA, 0xB), ("rsa", RSAPSS, 0xB), ("p256", ECDSA, 0xB), ("p384", ECDSA, SHA384)],
)
def test_each_accepted_scheme_verifies_and_a_changed_message_does_not(name, scheme, hashed):
    good = Made(key_name=name, scheme=scheme, hashed=hashed)
    assert verify(good.bytes()).roots == ("software-tpm",)
    other = attest(good.registers(), NONCE, hashed=hashed, safe=0)
    assert codes(made(key_name=name, scheme=scheme, hashed=hashed, message=other)) == ["tpm.signature"]


@pytest.mark.parametrize(
    ("name", "scheme", "hashed"),
    [("rsa", RSASSA, SHA1), ("rsa", RSASSA, SHA384), ("p256", ECDSA, SHA1)],
)
def test_another_hash_is_unsupported_and_never_tried(name, scheme, hashed):
    with pytest.raises(Unsupported, match="scheme and hash") as caught:
        verify(made(key_name=name, scheme=scheme, hashed=hashed))
    assert caught.value.code == "tpm.signature.unsupported"


@pytest.mark.parametrize("name", ["rsa 1024", "p521"])
def test_another_key_is_unsupported(name):
    with pytest.raises(Unsupported, match="RSA of 2048 to 4096 bits, P-256 or P-384"):
        verify(
            made(key_name=name, scheme=ECDSA if name == "p521" else RSASSA, fields={"ak_public_area": None})
        )


def test_a_curve_and_its_hash_go_together():
    assert codes(made(key_name="p384", scheme=ECDSA, hashed=0xB)) == ["tpm.signature"]


def test_a_signature_of_another_kind_of_key_does_not_verify():
    message = Made().document()["tpm_quote"]["message"]
    raw = base64.b64decode(message)
    quote = Made().document()["tpm_quote"]
    for signature in (sign(key("p256"), raw, ECDSA),):
        fields = {"tpm_quote": quote | {"signature": text(signature)}, "ak_public_area": None}
        assert codes(made(fields=fields)) == ["tpm.signature"]
    fields = {"tpm_quote": quote, "ak_public_area": None}
    assert codes(made(key_name="p256", scheme=ECDSA, fields=fields)) == ["tpm.signature"]


def test_the_signature_must_be_by_the_key_of_the_area_and_in_its_scheme():
    area = public(key("rsa"), scheme=RSAPSS)
    assert codes(made(fields={"ak_public_area": text(area)})) == ["tpm.signature.scheme"]
    quote = Made().document()["tpm_quote"]
    signature = sign(key("rsa other"), base64.b64decode(quote["message"]), RSASSA)
    assert codes(made(fields={"tpm_quote": quote | {"signature": text(signature)}})) == ["tpm.signature"]


@pytest.mark.parametrize(
    "attributes",
    [AK_ATTRIBUTES & ~(1 << bit) for bit in (1, 4, 5, 16, 18)]
    + [AK_ATTRIBUTES | 1 << bit for bit in (11, 17, 19)],
)
def test_a_key_that_could_sign_what_was_made_outside_is_refused(attributes):
    area = public(key("rsa"), scheme=RSASSA, attributes=attributes)
    assert codes(made(fields={"ak_public_area": text(area)})) == ["tpm.ak-attributes"]


def test_every_place_must_name_the_same_key():
    assert codes(made(fields={"ak_public": text(spki(key("rsa other")))})) == ["tpm.ak-public.mismatch"]
    area = public(key("rsa other"), scheme=RSASSA)
    assert codes(made(fields={"ak_public_area": text(area)})) == ["tpm.ak-public.mismatch"]


def test_the_nonce_is_compared_to_the_byte():
    for nonce in (bytes(32), NONCE[:-1], NONCE + b"\0", b""):
        assert codes(made(), nonce=nonce) == ["tpm.nonce.mismatch"]
    assert [note.code for note in verify(made(), nonce=None).notes] == ["tpm.nonce.not-given"]


def test_claimed_registers_are_those_that_were_signed():
    """Values that were not signed fail the digest; so do the right values in other places."""
    registers = Made().registers()
    assert codes(made(claimed=registers | {16: b"\1" * 32})) == ["tpm.pcr-digest.mismatch"]
    swapped = registers | {4: registers[9], 9: registers[4]}
    assert codes(made(claimed=swapped)) == [
        "tpm.pcr-digest.mismatch",
        "tpm.eventlog.pcr04",
        "tpm.eventlog.pcr09",
    ]


def test_a_quote_over_other_registers_is_not_about_the_claimed_ones():
    """Trustee maps values to registers by place: this quote over 0..15 and 17 would pass there as 0..16."""
    registers = Made().registers()
    seventeen = [*range(16), 17]
    message = attest({number: registers[number] for number in seventeen}, NONCE)
    quote = {
        "message": text(message),
        "signature": text(sign(key("rsa"), message, RSASSA)),
        "pcrs": [registers[number].hex() for number in seventeen],
    }
    assert codes(made(fields={"tpm_quote": quote})) == ["tpm.pcr-selection.mismatch"]


def test_a_quote_over_another_bank_is_refused():
    assert codes(made(quote={"bank": SHA1})) == ["tpm.pcr-selection.mismatch"]


def test_a_shorter_list_of_registers_claims_just_those():
    registers = {number: value for number, value in Made().registers().items() if number < 12}
    message = attest(registers, NONCE)
    quote = {
        "message": text(message),
        "signature": text(sign(key("rsa"), message, RSASSA)),
        "pcrs": [value.hex() for value in registers.values()],
    }
    claims = verify(made(fields={"tpm_quote": quote}))
    assert [name for name in claims.values if name.startswith("pcr")] == [f"pcr{n:02}" for n in range(12)]


@pytest.mark.parametrize("register", [*range(8), 9, *range(11, 16)])
def test_each_register_that_the_log_does_not_explain_is_named(register):
    assert codes(made(pcrs={register: b"\1" * 32})) == [f"tpm.eventlog.pcr{register:02}"]


@pytest.mark.parametrize("register", [8, 10, 16, 17, 22, 23])
def test_registers_that_no_boot_log_covers_are_claims_only(register):
    claims = verify(made(pcrs={register: b"\1" * 32}))
    assert claims.values[f"pcr{register:02}"] == "01" * 32


def test_register_8_is_the_logs_when_the_log_extends_it():
    events = (*EVENTS, (8, ACTION, b"grub"))
    assert verify(made(events=events)).notes == ()
    assert codes(made(events=events, pcrs={8: PCR8})) == ["tpm.eventlog.pcr08"]


def test_init_data_is_register_8_by_trustees_rule():
    held = made(pcrs={8: PCR8})
    assert verify(held, init_data=INIT_DATA).values["init_data"] == PCR8.hex()
    assert [note.code for note in verify(held).notes] == ["tpm.init-data.not-given"]
    assert codes(held, init_data=hashlib.sha256(b"other").digest()) == ["tpm.init-data.mismatch"]
    assert codes(made(), init_data=INIT_DATA) == ["tpm.init-data.mismatch"]


def test_a_log_is_not_required_and_its_absence_is_a_fact():
    assert [note.code for note in verify(made(fields={"event_log": None})).notes] == ["tpm.eventlog.absent"]


def test_a_log_without_the_bank_explains_nothing():
    with pytest.raises(Unsupported, match="bank: want one of sha1, got sha256"):
        verify(made(fields={"event_log": text(legacy(0, ACTION, b"x"))}))
    with pytest.raises(Malformed, match="event log"):
        verify(made(fields={"event_log": text(make_log(EVENTS)[:-1])}))


def test_every_wrong_thing_is_listed_at_once():
    evidence = made(
        pcrs={4: b"\1" * 32},
        claimed=Made().registers(),
        message=attest(Made(pcrs={4: b"\1" * 32}).registers(), b"old"),
        fields={"ak_public_area": text(public(key("rsa"), scheme=RSAPSS, attributes=0))},
    )
    assert codes(evidence, Endorsements()) == [
        "tpm.ak-attributes",
        "tpm.ak-certificate.untrusted",
        "tpm.signature.scheme",
        "tpm.signature",
        "tpm.pcr-digest.mismatch",
        "tpm.nonce.mismatch",
    ]


# Whose word the key rests on


def leaf(**kwargs) -> x509.Certificate:
    settings = {"usages": [AIK]} | kwargs
    return certificate("ak", key("rsa"), "enrolment", key("p256 authority"), **settings)


@pytest.mark.parametrize(
    ("certificate_", "code"),
    [
        (leaf(signs=False), "tpm.ak-certificate.usage"),
        (leaf(usages=[x509.ExtendedKeyUsageOID.SERVER_AUTH]), "tpm.ak-certificate.usage"),
        (leaf(end=NOW - timedelta(seconds=1)), "tpm.ak-certificate.expired"),
        (leaf(start=NOW + timedelta(seconds=1)), "tpm.ak-certificate.not-yet-valid"),
        (leaf(more=[(x509.PolicyConstraints(0, None), True)]), "tpm.ak-certificate.extension"),
        (
            certificate("ak", key("rsa"), "enrolment", key("p256 other"), usages=[AIK]),
            "tpm.ak-certificate.untrusted",
        ),
        (certificate("ak", key("rsa"), "elsewhere", key("p256 authority")), "tpm.ak-certificate.untrusted"),
        (certificate("ak", key("rsa"), "ak", key("rsa")), "tpm.ak-certificate.untrusted"),
    ],
)
def test_a_certificate_that_does_not_hold_is_refused(certificate_, code):
    assert codes(made(leaf=certificate_)) == [code]


def test_an_authoritys_own_certificate_is_not_an_attestation_keys():
    as_authority = certificate(
        "ak", key("rsa"), "enrolment", key("p256 authority"), authority=True, signs=True
    )
    assert codes(made(leaf=as_authority)) == ["tpm.ak-certificate.usage"]
    own = authority("enrolment", "rsa")
    assert codes(made(leaf=own), endorser(own)) == ["tpm.ak-certificate.untrusted"]


def test_a_certificate_without_extended_usage_is_judged_by_its_key_usage():
    assert verify(made(leaf=leaf(usages=None))).roots == ("software-tpm",)


def test_a_certificate_that_does_not_say_what_its_key_is_for_is_refused():
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ak")])
    bare = (
        x509.CertificateBuilder(subject_name=name, issuer_name=ROOT.subject)
        .public_key(key("rsa").public_key())
        .serial_number(5)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key("p256 authority"), hashes.SHA256())
    )
    assert codes(made(leaf=bare)) == ["tpm.ak-certificate.usage"]


def test_an_authority_counts_by_its_key_and_not_by_its_name():
    """Anybody's swtpm has authorities of the same names."""
    forged = authority("enrolment", "p256 forger")
    evidence = made(leaf=certificate("ak", key("rsa"), "enrolment", key("p256 forger"), usages=[AIK]))
    assert codes(evidence) == ["tpm.ak-certificate.untrusted"]
    assert codes(evidence, Endorsements(collateral=(der(forged),)).plus(TRUST)) == [
        "tpm.ak-certificate.untrusted"
    ]
    assert verify(evidence, endorser(forged, "forger")).roots == ("forger",)


def test_an_endorsers_other_certificates_are_links_only():
    """The trust file pins a key; a certificate that stands beside it is not believed for that."""
    pinned = TRUST.endorsers[0]
    forged = authority("enrolment", "p256 forger")
    beside = Endorsements(endorsers=(replace(pinned, certificates=(*pinned.certificates, der(forged))),))
    assert verify(made(), beside).roots == ("software-tpm",)
    evidence = made(leaf=certificate("ak", key("rsa"), "enrolment", key("p256 forger"), usages=[AIK]))
    assert codes(evidence, beside) == ["tpm.ak-certificate.untrusted"]


def test_an_endorser_of_another_kind_does_not_vouch_for_attestation_keys():
    assert codes(made(), endorser(ROOT, kind="tpm-manufacturer")) == ["tpm.ak-certificate.untrusted"]


def test_the_label_is_of_the_authority_that_vouches():
    trust = endorser(authority("other", "p256 other"), "other").plus(TRUST)
    assert verify(made(), trust).roots == ("software-tpm",)


def test_an_expired_authority_vouches_for_nothing():
    old = authority(end=NOW - timedelta(hours=1))
    assert codes(made(), endorser(old)) == ["tpm.ak-certificate.expired"]


def test_links_come_with_the_evidence_or_beside_it_and_are_believed_for_nothing():
    root = authority("root", "p384 root")
    link = certificate("link", key("p256 link"), "root", key("p384 root"), authority=True)
    ak = certificate("ak", key("rsa"), "link", key("p256 link"), usages=[AIK])
    brought = {"ak_certificate_chain": [text(der(link))]}
    assert verify(made(leaf=ak, fields=brought), endorser(root)).roots == ("software-tpm",)
    beside = Endorsements(collateral=(der(link),)).plus(endorser(root))
    assert verify(made(leaf=ak), beside).roots == ("software-tpm",)
    assert codes(made(leaf=ak), endorser(root)) == ["tpm.ak-certificate.untrusted"]
    assert codes(made(leaf=ak, fields=brought), TRUST) == ["tpm.ak-certificate.untrusted"]
    with pytest.raises(Malformed, match="at most 3 certificates"):
        verify(made(leaf=ak, fields={"ak_certificate_chain": [text(der(link))] * 4}))


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_a_link_that_may_not_issue_is_no_link():
    root = authority("root", "p384 root")
    plain = certificate("link", key("p256 link"), "root", key("p384 root"), signs=True)
    ak = certificate("ak", key("rsa"), "link", key("p256 link"), usages=[AIK])
    brought = {"ak_certificate_chain": [text(der(plain))]}
    assert codes(made(leaf=ak, fields=brought), endorser(root)) == ["tpm.ak-certificate.untrusted"]


def test_a_weak_authority_is_refused():
    weak = authority("weak", "rsa 1024")
    evidence = made(leaf=certificate("ak", key("rsa"), "weak", key("rsa 1024"), usages=[AIK]))
    assert codes(evidence, endorser(weak)) == ["tpm.ak-certificate.key"]


def test_a_hash_that_is_not_sha_2_is_refused():
    evidence = made(leaf=leaf(hashed=hashes.SHA3_256()))
    assert codes(evidence) in (["tpm.ak-certificate.hash"], ["tpm.ak-certificate.untrusted"])


def test_a_believed_key_needs_no_certificate():
    trust = Endorsements(keys=(TrustedKey(label="lab", spki=spki(key("rsa"))),))
    bare = made(fields={"ak_certificate": None, "ak_public_area": None})
    claims = verify(bare, trust)
    assert (claims.roots, claims.valid_from, claims.valid_until) == (("lab",), None, None)
    assert verify(made(fields={"ak_public": None, "ak_certificate": None}), trust).roots == ("lab",)
    nothing = made(fields={"ak_certificate": None, "ak_public_area": None, "ak_public": None})
    assert verify(nothing, trust).roots == ("lab",)
    assert codes(bare) == ["tpm.ak-certificate.absent"]
    assert codes(nothing) == ["tpm.ak.absent"]
    other = Endorsements(keys=(TrustedKey(label="lab", spki=spki(key("rsa other"))),))
    assert codes(bare, other) == ["tpm.ak-certificate.absent"]
    assert codes(nothing, other) == ["tpm.signature"]
    assert codes(nothing, trust.plus(other)) == ["tpm.ak.absent"]


# The forms


def test_the_table_of_kinds_calls_this_module():
    claims = kinds.verify("tpm-quote", made(), [der(ROOT)], nonce=NONCE, at=NOW)
    assert claims.roots[0].startswith("sha256:")
    with pytest.raises(Unsupported, match="kind: want one of") as caught:
        kinds.verify("tpm-guess", made(), [], nonce=None, at=NOW)
    assert caught.value.code == "evidence.kind"
    assert "tpm-quote" in kinds.supported()
    assert kinds.show("tpm-quote", made())["quote"]["extra_data"] == NONCE.hex()
    with pytest.raises(Malformed):
        kinds.verify("ear", b"", [], nonce=None, at=NOW)


def test_a_module_for_several_kinds_is_told_which(monkeypatch):
    module = SimpleNamespace(
        KINDS=("a-kind",),
        verify=lambda kind, *_, **__: f"verified {kind}",
        show=lambda kind, _: f"shown {kind}",
    )
    monkeypatch.setattr(kinds, "_module", lambda kind: module)
    assert kinds.verify("a-kind", b"", [], nonce=None, at=NOW) == "verified a-kind"
    assert kinds.show("a-kind", b"") == "shown a-kind"
    monkeypatch.setattr(kinds, "_module", lambda kind: SimpleNamespace(KIND="a-kind"))
    with pytest.raises(Unsupported, match="want one that can be shown") as caught:
        kinds.show("a-kind", b"")
    assert caught.value.code == "evidence.show"


def pem(private) -> bytes:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    "file",
    [
        pem(key("rsa")),
        spki(key("rsa")),
        sized(public(key("rsa"))),
        der(ROOT),
        ROOT.public_bytes(Encoding.PEM),
    ],
)
def test_an_endorsement_may_be_a_certificate_or_a_key_in_any_usual_form(file):
    assert tpm_quote.verify(made(), [file], nonce=NONCE, at=NOW).report_data == NONCE


@pytest.mark.parametrize(
    ("file", "error"),
    [
        (b"", Malformed),
        (b"hello", Malformed),
        (b"0hello", Malformed),
        (b"-----BEGIN PUBLIC KEY-----", Malformed),
        (b"-----BEGIN PUBLIC KEY-----\nAAA\n-----END PUBLIC KEY-----", Malformed),
        (b"-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----", Malformed),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", Malformed),
        (sized(public(key("rsa"), attributes=0)), NotGenuine),
    ],
)
def test_what_is_no_endorsement_is_refused(file, error):
    with pytest.raises(error):
        tpm_quote.endorsement(file)


def protobuf(*fields: tuple[int, bytes | int]) -> bytes:
    out = b""
    for number, value in fields:
        out += bytes([number << 3 | (2 if isinstance(value, bytes) else 0)])
        size = len(value) if isinstance(value, bytes) else value
        while size > 0x7F:
            out += bytes([size & 0x7F | 0x80])
            size >>= 7
        out += bytes([size]) + (value if isinstance(value, bytes) else b"")
    return out


def quoted_pcrs(*entry: tuple[int, bytes | int], twice: bool = False) -> bytes:
    entries = ((2, protobuf(*entry)),) * (2 if twice else 1)
    return protobuf((2, protobuf((3, protobuf((1, 0xB), *entries)))))


def attestation(bank: int = 0xB, more: tuple[tuple[int, bytes | int], ...] = ()) -> bytes:
    document = Made().document()
    quote = document["tpm_quote"]
    pcrs = [
        (2, protobuf((1, number), (2, bytes.fromhex(value)))) for number, value in enumerate(quote["pcrs"])
    ]
    pcrs[0] = (2, pcrs[0][1].replace(b"\x08\0", b"", 1))  # protocol buffers leave a zero out
    message, signature = (base64.b64decode(quote[name]) for name in ("message", "signature"))
    inner = protobuf((1, message), (2, signature), (3, protobuf((1, bank), *pcrs, (9, 9))), (8, 8))
    return protobuf(
        (1, base64.b64decode(document["ak_public_area"])),
        (2, inner),
        (3, base64.b64decode(document["event_log"])),
        (6, base64.b64decode(document["ak_certificate"])),
        *more,
    )


def test_go_tpm_tools_protocol_buffers_are_read():
    assert verify(attestation()).values == verify(made()).values
    assert verify(attestation(more=((15, 9), (14, b"unknown")))).roots == ("software-tpm",)
    with pytest.raises(Unsupported, match="quotes: want one over the SHA-256 bank, got 1 others"):
        verify(attestation(bank=4))
    with pytest.raises(Malformed, match="intermediate_certs"):
        verify(attestation(more=((7, b""),) * 4))


DOCUMENT = Made().document()
BROKEN = [
    b"",
    b"[]",
    b"{}",
    json.dumps(DOCUMENT | {"tpm_quote": 1}).encode(),
    json.dumps(DOCUMENT | {"ak_public": "!"}).encode(),
    json.dumps(DOCUMENT | {"ak_public": text(b"no key")}).encode(),
    json.dumps(DOCUMENT | {"ak_certificate": text(b"no certificate")}).encode(),
    json.dumps(DOCUMENT | {"ak_certificate_chain": "x"}).encode(),
    json.dumps(DOCUMENT | {"tpm_quote": DOCUMENT["tpm_quote"] | {"pcrs": []}}).encode(),
    json.dumps(DOCUMENT | {"tpm_quote": DOCUMENT["tpm_quote"] | {"pcrs": ["0"]}}).encode(),
    json.dumps(DOCUMENT | {"tpm_quote": DOCUMENT["tpm_quote"] | {"pcrs": ["00" * 32] * 25}}).encode(),
    b"r",
    b"r::",
    b"r:\xff:",
    b"rAAAA:AAAA:AAAA",
    b"\x0f\x0f",
    b"\x00\x00",
    b"\x12" + b"\xff" * 9 + b"\x7f",
    bytes(tpm_quote.tpm_forms.MAX_BYTES + 1),
    b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
]


@pytest.mark.parametrize("evidence", BROKEN)
def test_what_is_no_evidence_is_malformed_or_unsupported(evidence):
    with pytest.raises((Malformed, Unsupported)):
        verify(evidence)


GOOD = [made(), attestation()]
LEAF = der(leaf())


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        (protobuf((2, protobuf((1, b"a"), (1, b"b")))), "quotes.1: want one value, got another"),
        (quoted_pcrs((1, 1), (2, b"short")), "PCR 1: want a register below 24 and 32 bytes, got 5 bytes"),
        (quoted_pcrs((1, 99), (2, bytes(32))), "PCR 99: want a register below 24"),
        (quoted_pcrs((1, 1)), "quotes.pcrs: want each register once"),
        (quoted_pcrs((1, 1), (2, bytes(32)), twice=True), "quotes.pcrs: want each register once"),
    ],
)
def test_protocol_buffers_are_read_strictly(evidence, said):
    with pytest.raises(Malformed) as caught:
        verify(evidence)
    assert said in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_nearly_right_evidence_is_verified_or_refused(data):
    raw = bytearray(data.draw(st.sampled_from(GOOD)))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(Malformed, Unsupported, NotGenuine):
        verify(bytes(raw))
    with suppress(Malformed, Unsupported):
        tpm_quote.show(bytes(raw))


@given(st.binary(max_size=200))
def test_any_bytes_are_verified_or_refused(raw):
    with suppress(Malformed, Unsupported, NotGenuine):
        verify(raw)
    with suppress(Malformed, Unsupported, NotGenuine):
        tpm_quote.endorsement(raw)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 4000), st.integers(0, 255))
def test_a_changed_certificate_is_verified_or_refused(at, value):
    raw = bytearray(LEAF)
    raw[at % len(raw)] = value
    with suppress(Malformed, Unsupported, NotGenuine):
        verify(made(fields={"ak_certificate": text(bytes(raw))}))


def tools_pcrs(selection: bytes, *values: bytes, count: int = 1, used: int | None = None) -> bytes:
    """Return a PCR file as tpm2-tools writes it, with one list of digests."""
    selections = (b"\x0b\0" + selection).ljust(8, b"\0").ljust(128, b"\0")
    slots = b"".join((len(one).to_bytes(2, "little") + one).ljust(66, b"\0") for one in values).ljust(
        528, b"\0"
    )
    used = len(values) if used is None else used
    return count.to_bytes(4, "little") + selections + b"\1\0\0\0" + used.to_bytes(4, "little") + slots


def keylime(pcrs: bytes) -> bytes:
    quote = DOCUMENT["tpm_quote"]
    return f"r{quote['message']}:{quote['signature']}:{text(pcrs)}\n".encode()


def test_keylimes_text_is_read_and_its_pcr_file_strictly():
    registers = {1: bytes([1]) * 32, 9: bytes([9]) * 32}
    message = attest(registers, NONCE)
    parts = (message, sign(key("rsa"), message, RSASSA), tools_pcrs(b"\3\2\2\0", *registers.values()))
    evidence = ("r" + ":".join(map(text, parts))).encode()
    trust = Endorsements(keys=(TrustedKey(label="lab", spki=spki(key("rsa"))),))
    assert verify(evidence, trust).values["pcr09"] == "09" * 32
    for pcrs, said in (
        (tools_pcrs(b"\3\1\0\0"), "PCRs: want 1 values, got 0"),
        (tools_pcrs(b"\3\0\0\0", used=9), "PCRs digests at offset 140: want at most 8, got 9"),
        (tools_pcrs(b"\3\0\0\0")[:-1], "PCRs buffer"),
    ):
        with pytest.raises(Malformed) as caught:
            verify(keylime(pcrs), trust)
        assert said in str(caught.value)
    with pytest.raises(Unsupported, match="want one selection, of the SHA-256 bank, got 2"):
        verify(keylime(tools_pcrs(b"\3\0\0\0", count=2)), trust)


def test_an_area_on_another_curve_is_unsupported():
    area = public(key("p521"), scheme=ECDSA)
    with pytest.raises(Unsupported, match="curve: want P-256, P-384, got P-521"):
        verify(made(fields={"ak_public_area": text(area)}))


def test_an_area_whose_numbers_are_no_key_is_malformed():
    area = bytearray(public(key("p256"), scheme=ECDSA))
    area[-1] ^= 1
    with pytest.raises(Malformed, match="numbers of a key"):
        verify(made(fields={"ak_public_area": text(bytes(area))}))


def test_show_lists_what_there_is():
    nothing = dict.fromkeys(("ak_public", "ak_public_area", "ak_certificate", "event_log"))
    assert sorted(tpm_quote.show(made(fields=nothing))) == ["pcrs", "quote", "signature"]


def test_show_lists_every_field_without_believing_any():
    shown = tpm_quote.show(made(fields={"event_log": text(make_log(EVENTS))}))
    assert sorted(shown) == [
        "ak_certificate",
        "ak_public",
        "ak_public_area",
        "event_log",
        "pcrs",
        "quote",
        "signature",
    ]
    assert shown["ak_public_area"]["attributes"] == [
        "FIXED_TPM",
        "FIXED_PARENT",
        "SENSITIVE_DATA_ORIGIN",
        "USER_WITH_AUTH",
        "RESTRICTED",
        "SIGN_ENCRYPT",
    ]


# A real TPM, and other people's evidence


def test_a_software_tpm_quotes_what_was_extended(tmp_path):
    events = (*EVENTS, (5, ACTION, b"exit"))
    with software_tpm(tmp_path / "tpm") as machine:
        for register, _, data in events:
            machine.extend(register, hashlib.sha256(data).digest())
        machine.extend(8, INIT_DATA)
        parent, _ = machine.endorsement_key()
        with machine.attestation_key(parent) as ak:
            quoted = machine.quote(ak, NONCE)
    evidence = {
        "ak_public_area": text(ak.area),
        "tpm_quote": {
            "signature": text(quoted.signature),
            "message": text(quoted.message),
            "pcrs": [value.hex() for value in quoted.pcrs],
        },
        "event_log": text(make_log(events)),
    }
    trust = tpm_quote.endorsement(sized(ak.area), "software-tpm")
    claims = verify(json.dumps(evidence).encode(), trust, init_data=INIT_DATA)
    assert claims.roots == ("software-tpm",)
    assert claims.values["init_data"] == PCR8.hex()
    assert claims.values["safe"] is True
    short = evidence | {"event_log": text(make_log(events[:-1]))}
    assert codes(json.dumps(short).encode(), trust) == ["tpm.eventlog.pcr05"]
    stale = evidence | {"tpm_quote": evidence["tpm_quote"] | {"pcrs": ["00" * 32] * 24}}
    assert codes(json.dumps(stale).encode(), trust)[0] == "tpm.pcr-digest.mismatch"


@pytest.mark.corpus
def test_a_google_attestation_is_genuine_under_its_key():
    """Its certificate's authority is not among Google's public ones, so the key is believed as it is."""
    evidence = corpus("evidence/tpm/gce/attestations/gce-cos-85-nonce9009.pb").read_bytes()
    shown = tpm_quote.show(evidence)
    area = tpm_quote.tpm_forms.parse(evidence).key_area or b""
    claims = tpm_quote.verify(evidence, [sized(area)], nonce=bytes.fromhex("9009"), at=NOW)
    assert claims.report_data == bytes.fromhex("9009")
    assert [note.code for note in claims.notes] == []
    assert shown["event_log"]["events"] > 10
    assert codes(evidence, Endorsements()) == ["tpm.ak-certificate.untrusted", "tpm.nonce.mismatch"]


@pytest.mark.corpus
@pytest.mark.parametrize("name", ["pca_tpm_rsa_sign_cert.pem", "pca_tpm_ecc_sign_cert.pem"])
def test_googles_certificates_chain_to_googles_root(name):
    """No quote by these keys is public: everything but the signature holds."""
    leaf_ = x509.load_pem_x509_certificate(corpus(f"evidence/tpm/gce/certificates/{name}").read_bytes())
    ca = corpus("evidence/tpm/gce/ca")
    trust = tpm_quote.endorsement((ca / "gcp_ek_ak_ca_root.crt").read_bytes(), "google")
    link = tpm_quote.endorsement((ca / "gcp_ek_ak_ca_intermediate_v3.crt").read_bytes())
    assert link.endorsers == ()
    scheme = ECDSA if "ecc" in name else RSASSA
    evidence = made(
        key_name="p256" if "ecc" in name else "rsa",
        scheme=scheme,
        leaf=leaf_,
        fields={"ak_public": None, "ak_public_area": None},
    )
    assert codes(evidence, trust.plus(link)) == ["tpm.signature"]
    assert codes(evidence, trust) == ["tpm.ak-certificate.untrusted", "tpm.signature"]


@pytest.mark.corpus
def test_googles_encryption_keys_are_not_attestation_keys():
    leaf_ = x509.load_pem_x509_certificate(
        corpus("evidence/tpm/gce/certificates/pca_tpm_rsa_enc_cert.pem").read_bytes()
    )
    ca = corpus("evidence/tpm/gce/ca")
    trust = tpm_quote.endorsement((ca / "gcp_ek_ak_ca_root.crt").read_bytes(), "google")
    link = tpm_quote.endorsement((ca / "gcp_ek_ak_ca_intermediate_v3.crt").read_bytes())
    evidence = made(leaf=leaf_, fields={"ak_public": None, "ak_public_area": None})
    assert codes(evidence, trust.plus(link)) == ["tpm.ak-certificate.usage", "tpm.signature"]


@pytest.mark.corpus
def test_a_keylime_quote_is_genuine_under_its_key():
    folder = corpus("evidence/tpm/keylime")
    parts = (text((folder / f"quote{name}.out").read_bytes()) for name in ("", "sig", "pcr"))
    evidence = ("r" + ":".join(parts)).encode()
    for endorsement in ("ak.pub", "akpub.pem"):
        claims = tpm_quote.verify(evidence, [(folder / endorsement).read_bytes()], nonce=None, at=NOW)
        assert [name for name in claims.values if name.startswith("pcr")] == ["pcr15", "pcr16", "pcr22"]
    with pytest.raises(NotGenuine, match="tpm-quote") as caught:
        tpm_quote.verify(evidence, [(folder / "ekpub.pem").read_bytes()], nonce=None, at=NOW)
    assert [finding.code for finding in caught.value.findings] == ["tpm.signature"]


def pcr_file(pcrs: dict[int, bytes]) -> bytes:
    """Return a PCR file as tpm2-tools writes it."""
    bits = sum(1 << number for number in pcrs).to_bytes(3, "little")
    out = struct.pack("<IH", 1, 0xB) + b"\3" + bits + b"\0\0"
    values = list(pcrs.values())
    lists = [values[start : start + 8] for start in range(0, len(values), 8)]
    out += bytes(15 * 8) + struct.pack("<I", len(lists))
    for one in lists:
        out += struct.pack("<I", len(one))
        out += b"".join(struct.pack("<H", len(v)) + v.ljust(64, b"\0") for v in one + [b""] * (8 - len(one)))
    return out


def test_what_tpm2_quote_writes_is_one_quote():
    evidence = tpm_forms.parse(made())
    pcrs = dict(evidence.pcrs)
    files = [evidence.signature, pcr_file(pcrs), pem(key("rsa")), make_log(EVENTS)]
    claims = tpm_quote.verify(evidence.message, files, nonce=NONCE, at=NOW)
    assert claims.values["pcr04"] == pcrs[4].hex()
    assert claims.notes == ()
    without = tpm_quote.verify(evidence.message, files[:3], nonce=NONCE, at=NOW)
    assert [note.code for note in without.notes] == ["tpm.eventlog.absent"]
    for missing in (0, 1):
        with pytest.raises(Malformed, match="its signature and its PCR file"):
            tpm_quote.verify(evidence.message, files[:missing] + files[missing + 1 :], nonce=None, at=NOW)
    with pytest.raises(Malformed, match="want one file, got two"):
        tpm_quote.verify(evidence.message, [*files, files[0]], nonce=None, at=NOW)
    with pytest.raises(NotGenuine) as refused:
        tpm_quote.verify(evidence.message, [*files[:3], make_log(EVENTS[:1])], nonce=None, at=NOW)
    assert "tpm.eventlog.pcr04" in [finding.code for finding in refused.value.findings]


@pytest.mark.corpus
def test_real_files_of_tpm2_quote():
    folder = corpus("evidence/tpm/keylime")
    names = ("quotesig.out", "quotepcr.out", "akpub.pem")
    files = [(folder / name).read_bytes() for name in names]
    claims = tpm_quote.verify((folder / "quote.out").read_bytes(), files, nonce=None, at=NOW)
    assert claims.values["pcr16"].startswith("9dbb22387e019c04")
