"""The endorsement bundle: made, signed, believed only under a pinned key, forecast, and used for several kinds."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from datetime import timedelta

import pytest
import support_dcap
import support_snp
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from support_tpm_evidence import authority, der

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Unsupported
from tallystick.evidence import bundle, bundle_kinds
from tallystick.evidence.bundle_forecast import forecast

AT = support_dcap.AT
KEY = ec.generate_private_key(ec.SECP256R1())
PINNED = [Digest.of(KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))]


@pytest.fixture(scope="module")
def intel():
    return support_dcap.Maker()


@pytest.fixture(scope="module")
def amd():
    return support_snp.Maker()


def parts(intel, amd):
    files = {
        "tdx.json": intel.collateral("TDX"),
        "vcek.pem": amd.vcek.public_bytes(Encoding.PEM),
        "ask.der": amd.ask.public_bytes(Encoding.DER),
        "amd.crl": amd.crl,
        "tpm-ca.der": der(authority()),
    }
    return [bundle.part(name, data) for name, data in files.items()]


@pytest.fixture(scope="module")
def made(intel, amd):
    return bundle.make(bundle.with_roots(parts(intel, amd)), KEY, at=AT)


def codes(error):
    return [finding.code for finding in error.value.findings]


def test_each_file_is_for_the_kinds_that_its_content_says(intel, amd):
    said = {part.name: part.kinds for part in parts(intel, amd)}
    assert said["tdx.json"] == bundle.INTEL
    assert said["vcek.pem"] == said["ask.der"] == said["amd.crl"] == bundle.SNP
    assert said["tpm-ca.der"] == ("tpm-quote",)
    assert bundle_kinds.of(b'{"keys": []}') == bundle.TOKENS
    assert bundle_kinds.of(b"<SoftwareIdentity") == bundle.NVIDIA


def test_a_bare_key_is_for_the_kind_that_is_said_and_no_other(intel):
    pem = intel.root.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(Misuse, match=r"write KIND=key\.pem") as refused:
        bundle.part("key.pem", pem)
    assert refused.value.code == "bundle.kind"
    assert bundle.part("key.pem", pem, "cca-token").kinds == ("cca-token",)
    with pytest.raises(Unsupported, match="one of"):
        bundle.part("key.pem", pem, "sev")


def test_it_serves_each_kind_with_its_own_files(made, intel, amd, monkeypatch):
    held = bundle.load(made, PINNED)
    assert len(held.files("snp-report")) == 3
    assert len(held.files("tdx-quote")) == 1
    assert held.files("nitro") == []
    assert any(part.is_root and part.name == "embedded/ARK-Milan.pem" for part in held.parts)
    support_dcap.believe(monkeypatch, intel)
    quote = intel.quote(support_dcap.td(b"r"))
    claims = bundle.verify("tdx-quote", quote, [made], pinned=PINNED, nonce=None, at=AT)
    assert claims.values["tcb_status"] == "UpToDate"
    assert claims.notes == ()
    support_snp.believe(monkeypatch, amd)
    claims = bundle.verify("snp-report", amd.report(), [made], pinned=PINNED, nonce=None, at=support_snp.AT)
    assert claims.values["product"] == "Milan"


def test_expired_parts_are_named(made, intel, monkeypatch):
    support_dcap.believe(monkeypatch, intel)
    quote = intel.quote(support_dcap.td(b"r"))
    later = AT + timedelta(days=40)
    with pytest.raises(NotGenuine, match="not genuine") as refused:
        bundle.verify("tdx-quote", quote, [made], pinned=PINNED, nonce=None, at=later)
    assert "dcap.collateral.expired" in codes(refused)
    ended = [f.where for f in refused.value.findings if f.code == "bundle.part.expired"]
    assert "tdx.json: TCB info 10A06D070000" in ended
    assert all(place.startswith("tdx.json") for place in ended)


def test_only_a_pinned_signer_is_believed(made):
    other = [Digest.of(b"another")]
    for pinned in (other, []):
        with pytest.raises(NotGenuine, match="a pinned key") as refused:
            bundle.load(made, pinned)
        assert codes(refused) == ["bundle.signer"]


def test_every_flipped_byte_of_a_bundle_is_refused(made):
    good = bundle.load(made, PINNED)
    for place in range(0, len(made), 211):
        damaged = bytearray(made)
        damaged[place] ^= 0x01
        with suppress(Malformed, Unsupported, NotGenuine):
            # the key id of a DSSE signature is a hint that nothing covers
            assert bundle.load(bytes(damaged), PINNED) == good, place


def test_an_edited_payload_is_refused(made):
    envelope = json.loads(made)
    document = json.loads(base64.b64decode(envelope["payload"]))
    document["made_at"] = "2030-01-01T00:00:00+00:00"
    envelope["payload"] = base64.b64encode(json.dumps(document).encode()).decode()
    with pytest.raises(NotGenuine, match="signature of the bundle") as refused:
        bundle.load(json.dumps(envelope).encode(), PINNED)
    assert codes(refused) == ["bundle.signature"]


def test_the_forecast_says_what_ends_when_and_what_stops(intel, amd):
    entries = forecast(bundle.with_roots(parts(intel, amd)))
    ends = [entry.valid_until for entry in entries if entry.valid_until is not None]
    assert ends == sorted(ends)
    info = next(entry for entry in entries if entry.what.startswith("TCB info"))
    assert info.valid_until == intel.window[1].replace(microsecond=0)
    assert "every quote of platform family 10A06D070000" in info.stops
    assert info.document(AT)["valid"] is True
    assert info.document(info.valid_until + timedelta(seconds=1))["valid"] is False
    assert any(entry.part == "embedded/ARK-Milan.pem" for entry in entries)


def test_names_must_differ(intel, amd):
    twice = parts(intel, amd)[:1] * 2
    with pytest.raises(Misuse, match="a name each"):
        bundle.make(twice, KEY, at=AT)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_crash_the_parsers(data):
    with suppress(Malformed, Unsupported, NotGenuine):
        bundle.load(data, PINNED)
    with suppress(Misuse, Malformed):
        forecast([bundle.part("file", data)])


@settings(max_examples=100, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "schema": st.just(bundle.SCHEMA) | st.text(max_size=3),
            "made_at": st.just("2026-01-01T00:00:00+00:00") | st.text(max_size=3),
            "signer": st.just("") | st.integers(),
            "forecast": st.just([]),
            "files": st.lists(
                st.dictionaries(st.sampled_from(["name", "kinds", "data"]), st.text(max_size=3))
            )
            | st.none(),
        },
    )
)
def test_no_payload_crashes_the_parser(document):
    payload = base64.b64encode(json.dumps(document).encode()).decode()
    envelope = {"payloadType": bundle.PAYLOAD_TYPE, "payload": payload}
    envelope["signatures"] = [{"keyid": "", "sig": "AAAA"}]
    with suppress(Malformed, Unsupported, NotGenuine):
        bundle.load(json.dumps(envelope).encode(), PINNED)
