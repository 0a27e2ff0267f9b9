"""CoRIM read strictly: other people's manifests, and everything that is nearly one."""

from __future__ import annotations

from contextlib import suppress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_corpus import corpus

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import corim

MINIMAL = {
    0: "x",
    1: [cbor2.CBORTag(506, cbor2.dumps({1: {0: "t"}, 4: {0: [[{0: {1: "v"}}, [{1: {11: "n"}}]]]}}))],
}


def dumped(value: object, tag: int = 501) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(tag, value), canonical=True)


def test_a_minimal_manifest():
    found = corim.parse(dumped(MINIMAL))
    assert (found.corim_id, found.profile, found.not_after, found.other_tags) == ("x", None, None, 0)
    assert found.comids[0].triples[0].measurements[0].values == {11: "n"}


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"", "CBOR"),
        (b"\xa0", "top"),
        (dumped(MINIMAL, 502), "top"),
        (dumped([]), "corim-map"),
        (dumped({0: "x"}), "tags"),
        (dumped({0: "x", 1: []}), "tags"),
        (dumped({0: "x", 1: ["t"]}), "tags"),
        (dumped({0: "x", 1: [cbor2.CBORTag(506, b"\x80")]}), "a map"),
        (dumped({0: "x", 1: [cbor2.CBORTag(506, cbor2.dumps({1: {}}))]}), "triples"),
        (dumped({0: "x", 1: [cbor2.CBORTag(506, cbor2.dumps({1: {}, 4: {0: [[{}, []]]}}))]}), "measurement"),
        (
            dumped({0: "x", 1: [cbor2.CBORTag(506, cbor2.dumps({1: {}, 4: {0: [[{}, [{1: {}}]]]}}))]}),
            "one value",
        ),
        (dumped({**MINIMAL, 4: {1: 5}}), "not-after"),
        (dumped(MINIMAL) + b"\0", "no more bytes"),
    ],
)
def test_what_is_no_manifest_is_malformed(data, where):
    with pytest.raises(Malformed, match=where):
        corim.parse(data)


@pytest.mark.parametrize(
    ("entry", "error"), [([9, b"x"], Unsupported), ([1, b"x"], Malformed), ("x", Malformed)]
)
def test_a_digest_has_its_algorithms_size(entry, error):
    with pytest.raises(error):
        list(corim.digests({2: [entry]}))


GOOD = dumped(MINIMAL)
NEARLY = st.builds(
    lambda at, byte: GOOD[:at] + bytes([byte]) + GOOD[at + 1 :],
    st.integers(0, len(GOOD) - 1),
    st.integers(0, 255),
)


@given(st.binary(max_size=64) | NEARLY)
def test_what_parses_is_a_manifest_and_the_rest_is_refused_by_name(data):
    with suppress(Malformed, Unsupported):
        assert corim.parse(data).comids is not None
    with suppress(Malformed, Unsupported):
        corim.parse_signed(data)


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "profile", "measurements"),
    [
        ("sevsnp_corim-sevsnp-valid.cbor", None, 20),
        ("arm-cca_corim-cca-platform-valid.cbor", "tag:arm.com", 5),
        ("arm-cca_corim-cca-realm-valid.cbor", "tag:arm.com,2025:cca_realm#1.0.0", 6),
    ],
)
def test_veraisons_samples(name, profile, measurements):
    found = corim.parse(corpus(f"evidence/corim/{name}").read_bytes())
    triple = next(triple for comid in found.comids for triple in comid.triples)
    assert len(triple.measurements) >= min(measurements, 5)
    if profile:
        assert str(found.profile.value).startswith(profile.split("#")[0].split(",")[0])
    for one in triple.measurements:
        assert all(len(digest) in (64, 96, 128) for _, digest in corim.digests(one.values))
