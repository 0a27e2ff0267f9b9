"""Trustee's spellings: the ones that its verifiers have, and no two of our values with the same one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.compile.domain import Case
from tallystick.compile.targets.trustee import codec
from tallystick.compile.targets.trustee.codec import Form, encode
from tallystick.compile.targets.trustee.simulate import Denied, tcb_claims
from tallystick.policy.platforms import platforms

hexes = st.binary(max_size=4).map(bytes.hex)
values = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 300), st.integers(0, 1 << 17), hexes, st.text(max_size=6),
    st.sampled_from(["true", "false", "8", "08", "0800", "qw==", "0500000000000000", "0700000000000000"]),
    st.lists(hexes, max_size=2), st.floats(allow_nan=False),
)  # fmt: skip


def key(value: object) -> str:
    return json.dumps([type(value).__name__, value])


@pytest.mark.parametrize("form", Form)
@given(one=values, two=values)
def test_no_two_values_have_one_spelling(form, one, two):
    if key(one) != key(two) and codec.fits(one, form) and codec.fits(two, form):
        assert key(encode(one, form)) != key(encode(two, form))


@pytest.mark.parametrize(
    ("one", "two", "form"),
    [
        ("ab", "qw==", Form.BASE64),  # hex, and a text that is already the base64 of it
        (8, "8", Form.TEXT),
        (False, "false", Form.TEXT),
        (8, "0800", Form.LITTLE16),
        (True, "0700000000000000", Form.FLAG),
    ],
)
def test_a_text_that_looks_like_a_spelling_is_none(one, two, form):
    assert encode(one, form) != encode(two, form)


@pytest.mark.parametrize(
    ("value", "form", "spelled"),
    [
        (False, Form.TEXT, "false"),  # az_snp_vtpm/mod.rs: format!("{}", report.policy.debug_allowed())
        (8, Form.TEXT, "8"),
        ("00ff", Form.BASE64, "AP8="),
        (["00ff", ""], Form.BASE64, ["AP8=", ""]),
        (1, Form.LITTLE16, "0100"),  # sgx/claims.rs: hex::encode of the two bytes of isv_svn
        (0x1234, Form.LITTLE16, "3412"),
        (True, Form.FLAG, "0700000000000000"),  # the "attributes.flags" of an enclave that can be debugged
    ],
)
def test_spellings_are_those_of_the_verifiers(value, form, spelled):
    assert encode(value, form) == spelled


@pytest.mark.parametrize("version", codec.VERSIONS)
def test_every_claim_of_the_codec_is_one_that_the_platform_has(version):
    for tee in codec.tees(version):
        kinds = [known for known in platforms() if known.evidence_kind == tee.kind]
        assert kinds, tee.kind
        for path in tee.places:
            assert any(known.claim_type(path) for known in kinds), (tee.name, path)


def test_references_quote_what_is_no_name():
    places = {tee.name: tee for tee in codec.tees("0.21")}
    assert places["snp"].reference("measurement") == "input.snp.measurement"
    assert places["snp"].reference("init_data") == "input.init_data"
    assert places["az-snp-vtpm"].reference("tpm.pcr08") == 'input["az-snp-vtpm"].tpm.pcr08'
    assert places["sgx"].reference("debug") == 'input.sgx.body["attributes.flags"]'
    shown = 'input.cca.realm["cca-realm-initial-measurement"]'
    assert places["cca"].reference("realm.cca_realm_initial_measurement") == shown


def test_evidence_stands_where_transform_claims_puts_it():
    found = tcb_claims(Case("snp-report", "x", {"measurement": "ab", "init_data": "cd", "vmpl": 0}))
    assert found["snp"] == {"measurement": "ab"}
    assert found["init_data"] == "cd"
    assert set(found) == {"snp", "init_data", "init_data_claims", "report_data", "runtime_data_claims"}


@pytest.mark.parametrize("vmpl", [1, None, "0", False])
def test_the_verifier_itself_demands_vmpl_0(vmpl):
    with pytest.raises(Denied):
        tcb_claims(Case("snp-report", "x", {"measurement": "ab", "vmpl": vmpl}))


def test_a_key_that_signs_is_told_from_0_20_on():
    assert "ak_public" not in codec.tee("0.19", "tpm-quote").places
    assert "ak_public" in codec.tee("0.20", "tpm-quote").places
