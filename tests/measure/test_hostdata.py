"""Fields that init-data and policies decide: published rules, and a real container group's report."""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_corpus import corpus

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.formats import snp_report
from tallystick.handshake import initdata
from tallystick.measure import hostdata

TOML = initdata.make({"aa.toml": "x = 1\n", "policy.rego": "package agent_policy\n"})
REGO = b"package policy\n\nimport future.keywords.every\ndefault create_container := false\n"


def of(algorithm: str) -> bytes:
    return TOML.replace(b'"sha256"', f'"{algorithm}"'.encode())


def test_a_digest_fills_each_platforms_field():
    found, digest = hostdata.init_data(TOML), hashlib.sha256(TOML).digest()
    assert found.host_data == digest
    assert found.mr_config_id == digest + bytes(16)
    assert found.config_id == found.personalization_value == digest + bytes(32)
    assert found.pcr8 == hashlib.sha256(bytes(32) + digest).digest() == initdata.pcr8(TOML)
    assert [name for name, _ in found.data] == ["aa.toml", "policy.rego"]


@pytest.mark.parametrize("spelling", ["sha384", "sha-384"])
def test_a_longer_digest_is_cut_at_its_end(spelling):
    found, digest = hostdata.init_data(of(spelling)), hashlib.sha384(of(spelling)).digest()
    assert (found.host_data, found.mr_config_id) == (digest[:32], digest)
    assert found.pcr8 is None
    assert hostdata.init_data(of("sha-512")).config_id == hashlib.sha512(of("sha-512")).digest()


def test_json_is_another_encoding_with_another_digest():
    text = json.dumps({"version": "0.1.0", "algorithm": "sha256", "data": {"a": "b"}}).encode()
    assert hostdata.init_data(text).host_data == hashlib.sha256(text).digest()


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (b"\xff", Malformed, "byte 0: want UTF-8"),
        (b"x = ", Malformed, "text: want TOML or JSON"),
        (b"{", Malformed, "want JSON"),
        (b'version = "0.1.0"\nalgorithm = "sha256"\n', Malformed, "data: want a dict"),
        (b'version = 1\nalgorithm = "sha256"\n[data]\n', Malformed, "version: want a str"),
        (TOML.replace(b"0.1.0", b"0.2.0"), Unsupported, "version: want 0.1.0, got 0.2.0"),
        (of("sm3"), Unsupported, "algorithm: want one of sha-256"),
        (b'version = "0.1.0"\nalgorithm = "sha256"\n[data]\nx = 1\n', Malformed, "data.x: want a text"),
        (b"#" * (hostdata.MAX_BYTES + 1), Malformed, "size"),
    ],
)
def test_what_is_no_init_data_is_refused_by_place(data, error, said):
    with pytest.raises(error, match=said):
        hostdata.init_data(data)


@pytest.mark.corpus
def test_a_real_container_groups_report_has_its_policy():
    policy = hostdata.cce_policy(corpus("evidence/azure/aci/uvm_security_policy.base64").read_bytes())
    report = snp_report.parse(corpus("evidence/azure/aci/snp_report.bin").read_bytes())
    hostdata.check("HOST_DATA", policy.host_data, report.host_data)
    assert policy.package


def test_a_policy_is_the_same_as_text_and_as_base64():
    plain, encoded = hostdata.cce_policy(REGO), hostdata.cce_policy(base64.b64encode(REGO) + b"\n")
    assert plain == encoded
    assert plain.host_data == hashlib.sha256(REGO).digest()
    assert plain.package == "policy"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"allow := true\n", "want Rego with a package clause"),
        (base64.b64encode(b"allow := true"), "want Rego with a package clause"),
        (b"abcde", "base64: want whole groups of four"),
        (b"\xff package x", "byte 0: want UTF-8"),
        (b"", "want Rego with a package clause"),
        (b"p" * (hostdata.MAX_BYTES + 1), "size"),
    ],
)
def test_what_is_no_policy_is_malformed(data, said):
    with pytest.raises(Malformed, match=said):
        hostdata.cce_policy(data)


def test_another_value_is_not_genuine():
    with pytest.raises(NotGenuine, match="HOST_DATA: want 01, got 02") as caught:
        hostdata.check("HOST_DATA", b"\1", b"\2")
    assert caught.value.code == "hostdata.mismatch"


@given(st.binary(max_size=100) | st.text(max_size=60).map(str.encode))
def test_any_bytes_give_fields_or_a_refusal(data):
    for read in (hostdata.init_data, hostdata.cce_policy):
        with suppress(Malformed, Unsupported):
            read(data)
