"""Nitro documents: real ones, a test maker's, and CBOR that has two readings."""

from __future__ import annotations

import base64
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from support_corpus import corpus

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.evidence import nitro, roots
from tallystick.formats import cose

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
DER = serialization.Encoding.DER


class Hypervisor:
    """A Nitro hypervisor of this test's own: root, zone and a leaf that lives three hours."""

    def __init__(self):
        self.root_key, self.zone_key, self.key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(3))
        self.root = self._issue("root", self.root_key, "root", self.root_key, days=3650, ca=True)
        self.zone = self._issue("zone", self.zone_key, "root", self.root_key, days=20, ca=True)
        self.leaf = self._issue("leaf", self.key, "zone", self.zone_key, days=0.125)

    def _issue(self, name, key, issuer, issuer_key, *, days, ca=False):
        names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, n)]) for n in (name, issuer)]
        start = AT - timedelta(minutes=5)
        builder = x509.CertificateBuilder(
            names[1],
            names[0],
            key.public_key(),
            x509.random_serial_number(),
            start,
            start + timedelta(days=days),
        )
        if ca:
            builder = builder.add_extension(x509.BasicConstraints(True, None), True)
        return builder.sign(issuer_key, hashes.SHA384())

    def payload(self, **fields):
        document = {
            "module_id": "i-1-enc1",
            "digest": "SHA384",
            "timestamp": int(AT.timestamp() * 1000),
            "pcrs": {0: b"\1" * 48, 1: b"\2" * 48, 2: b"\3" * 48, 3: bytes(48)},
            "certificate": self.leaf.public_bytes(DER),
            "cabundle": [self.root.public_bytes(DER), self.zone.public_bytes(DER)],
            "public_key": None,
            "user_data": b"user",
            "nonce": b"nonce",
        }
        return cbor2.dumps(document | fields)

    def sign(self, payload, key=None, protected=b"\xa1\x01\x38\x22"):
        covered = cbor2.dumps(["Signature1", protected, b"", payload])
        r, s = decode_dss_signature((key or self.key).sign(covered, ec.ECDSA(hashes.SHA384())))
        return cbor2.dumps([protected, {}, payload, r.to_bytes(48, "big") + s.to_bytes(48, "big")])


@pytest.fixture(scope="module")
def hypervisor():
    return Hypervisor()


@pytest.fixture(autouse=True)
def believe(monkeypatch, hypervisor, request):
    nitro._standing.cache_clear()
    if "corpus" not in request.keywords:
        monkeypatch.setattr(roots, "certificate", lambda _name: hypervisor.root)
    yield
    nitro._standing.cache_clear()


def verify(data, nonce=None, at=AT):
    return nitro.verify(data, [], nonce=nonce, at=at)


def codes(error):
    return [finding.code for finding in error.value.findings]


def test_a_document_says_what_it_says(hypervisor):
    claims = verify(hypervisor.sign(hypervisor.payload()), nonce=b"nonce")
    assert claims.values["pcr0"] == "01" * 48
    assert (claims.values["debug"], claims.values["user_data"]) == (False, b"user".hex())
    assert (claims.report_data, claims.roots) == (b"nonce", ("aws-nitro",))


@pytest.mark.parametrize("wrap", [lambda d: b"\xd2" + d, base64.b64encode, base64.encodebytes])
def test_the_forms_it_comes_in(hypervisor, wrap):
    document = hypervisor.sign(hypervisor.payload())
    assert verify(wrap(document)).kind == "nitro"
    assert verify(cbor2.dumps({"Attestation": {"document": document}})).kind == "nitro"


def test_a_debug_enclave_is_genuine_and_says_so(hypervisor):
    pcrs = {i: bytes(48) for i in range(16)}
    assert verify(hypervisor.sign(hypervisor.payload(pcrs=pcrs))).values["debug"] is True


def test_wrong_bindings_and_times_are_named(hypervisor):
    good = hypervisor.sign(hypervisor.payload())
    cases = [
        (good, b"other", AT, ["nitro.nonce.mismatch"]),
        (good, None, AT + timedelta(hours=3), ["nitro.certificate.expired"]),
        (good, None, AT - timedelta(hours=1), ["nitro.certificate.not-yet-valid"] * 3),
        (hypervisor.sign(hypervisor.payload(), key=hypervisor.zone_key), None, AT, ["nitro.signature"]),
        (hypervisor.sign(hypervisor.payload(timestamp=1)), None, AT, ["nitro.timestamp"]),
    ]
    for data, nonce, at, want in cases:
        with pytest.raises(NotGenuine, match="not genuine") as refused:
            verify(data, nonce, at)
        assert codes(refused) == want


def test_another_root_and_no_chain_are_refused(hypervisor):
    stranger = Hypervisor()
    for data in (stranger.sign(stranger.payload()), hypervisor.sign(hypervisor.payload(cabundle=[]))):
        with pytest.raises(NotGenuine, match="does not chain to AWS"):
            verify(data)


@pytest.mark.parametrize(
    "fields",
    [
        {"pcrs": {}},
        {"pcrs": {32: b"x" * 48}},
        {"pcrs": {0: b"short"}},
        {"digest": "SHA256"},
        {"module_id": ""},
        {"timestamp": -1},
        {"timestamp": True},
        {"nonce": b"x" * 1025},
        {"extra": 1},
        {"certificate": "text"},
    ],
)
def test_fields_outside_the_api_are_malformed(hypervisor, fields):
    with pytest.raises(Malformed, match="Nitro document"):
        verify(hypervisor.sign(hypervisor.payload(**fields)))


def test_other_algorithms_are_refused(hypervisor):
    with pytest.raises(Unsupported, match="want ES256, ES384 or ES512"):
        verify(hypervisor.sign(hypervisor.payload(), protected=b"\xa1\x01\x27"))


def test_every_flipped_byte_is_refused(hypervisor):
    data = hypervisor.sign(hypervisor.payload())
    verify(data)
    for at in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[at] ^= 0x20
        with pytest.raises((NotGenuine, Malformed, Unsupported)):
            verify(bytes(damaged))


TWO_READINGS = [
    (b"\xa2\x01\x02\x01\x03", "duplicate key"),
    (b"\x01\x02", "no more bytes"),
    (b"\x18\x01", "shortest form"),
    (b"\x19\x00\xff", "shortest form"),
    (b"\x5f\x41a\x41b\xff", "definite length"),
    (b"\x9f\x01\xff", "definite length"),
    (b"\x42a", "2 bytes, got 1 left"),
    (b"\x1c", "a head that RFC 8949 defines"),
    (b"\x81" * 40 + b"\x01", "at most 16 levels"),
    (b"", "an item, got the end"),
]


@pytest.mark.parametrize(("data", "said"), TWO_READINGS)
def test_cbor_with_two_readings_is_refused(data, said):
    with pytest.raises(Malformed, match=said):
        cose.loads(data, "CBOR")


def test_open_maps_are_read_only_where_allowed():
    assert dict(cose.loads(b"\xbf\x01\x02\xff", "CBOR", cose.Lengths.ANY)) == {1: 2}
    with pytest.raises(Malformed, match="duplicate key"):
        cose.loads(b"\xbf\x01\x02\x01\x02\xff", "CBOR", cose.Lengths.ANY)
    with pytest.raises(Malformed, match="an item, got the end"):
        cose.loads(b"\xbf\x01\x02", "CBOR", cose.Lengths.ANY)


SIMPLE = (
    st.integers(-(2**63), 2**63) | st.binary(max_size=9) | st.text(max_size=9) | st.booleans() | st.none()
)


@given(
    st.recursive(
        SIMPLE,
        lambda v: st.lists(v, max_size=4) | st.dictionaries(st.integers(-(2**64), 2**64 - 1), v, max_size=4),
    )
)
def test_what_cbor2_writes_is_read(value):
    with suppress(Malformed):  # deeper than the limit
        assert cbor2.dumps(cose.loads(cbor2.dumps(value), "CBOR")) == cbor2.dumps(value)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_crash_the_verifier(data):
    with suppress(Malformed, Unsupported, NotGenuine):
        verify(data)


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "debug"),
    [
        ("blocky_nitro_attestation.b64", False),
        ("blocky_nitro_attestation_debug.b64", True),
        ("dstack_nsm-qvl_nitro_attestation.bin", False),
        ("evervault_debug-mode-attestation-doc-bytes", True),
        ("evervault_valid-attestation-doc-bytes", False),
    ],
)
def test_real_documents_at_their_own_time(name, debug):
    data = corpus(f"evidence/nitro/{name}").read_bytes()
    document = nitro._document(cose.parse_sign1(nitro._unwrapped(data), "test"))
    made = datetime.fromtimestamp(document["timestamp"] / 1000, UTC)
    assert verify(data, at=made).values["debug"] is debug
    with pytest.raises(NotGenuine, match="not genuine") as refused:
        verify(data, at=made + timedelta(days=1))
    assert "nitro.certificate.expired" in codes(refused)


@pytest.mark.corpus
def test_a_self_signed_document_has_no_chain():
    with pytest.raises(NotGenuine, match="does not chain to AWS"):
        verify(corpus("evidence/nitro/blocky_selfsigned_attestation.b64").read_bytes())


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (
            b"\xa2\x01\x00\xf5\x00",
            Malformed,
            "a number or a string",
        ),  # {1: 0, true: 0}: Python takes them for one
        (b"\xd8\x1c\x81\xd8\x1d\x00", Unsupported, "CBOR tag"),  # a list that holds itself
        (b"\xd8\x23\x61\x2a", Unsupported, "CBOR tag"),  # a pattern
    ],
)
def test_cbor_that_means_something_to_the_library_alone_is_refused(data, error, said):
    with pytest.raises(error, match=said):
        cose.loads(data, "CBOR")
