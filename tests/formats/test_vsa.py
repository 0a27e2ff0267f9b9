"""VSA v1: what the specification requires is required, and a published one is read."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_corpus import corpus

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import dsse, intoto, vsa
from tallystick.formats.slsa import Resource

AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SUBJECTS = [("uki.efi", {"sha256": "a" * 64})]
SUMMARY = vsa.Summary(
    verifier_id="https://example.org/verifier",
    verifier_version=(("tallystick", "0.1.0"),),
    time_verified=AT,
    resource_uri="https://example.org/channels/staging/x/1",
    policy=Resource(uri="https://example.org/policy", digests=(("sha256", "b" * 64),)),
    inputs=(Resource(uri="bundles/sbom.sigstore.json", digests=(("sha256", "c" * 64),)),),
    result=vsa.PASSED,
    levels=("SLSA_BUILD_LEVEL_1", "TALLYSTICK_REPRODUCED_2"),
    dependency_levels=(("SLSA_BUILD_LEVEL_0", 3),),
    slsa_version=vsa.SLSA_VERSION,
)
PREDICATE = SUMMARY.document()


def read(predicate):
    return vsa.parse(intoto.parse(intoto.make(SUBJECTS, vsa.PREDICATE_TYPE, predicate)))


def test_what_is_written_reads_back():
    assert vsa.parse(intoto.parse(vsa.make(SUBJECTS, SUMMARY))) == SUMMARY


def test_only_what_is_required_has_to_be_there():
    required = ("verifier", "resourceUri", "policy", "verificationResult", "verifiedLevels")
    least = {name: PREDICATE[name] for name in required}
    assert read(least).inputs == ()
    assert read({**least, "inputAttestations": None, "timeVerified": None}) == read(least)
    for name in required:
        with pytest.raises(Malformed, match=f"VSA: {name}"):
            read({key: value for key, value in least.items() if key != name})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"verifier": {"id": ""}}, "VSA: id: want a text"),
        ({"verifier": []}, "VSA: verifier: want an object"),
        ({"policy": {"digest": {"sha256": "b" * 64}}}, r"VSA: policy\.uri: want a uri"),
        ({"verificationResult": "passed"}, "VSA: verificationResult: want PASSED or FAILED"),
        ({"verifiedLevels": "SLSA"}, "VSA: verifiedLevels: want a list of texts"),
        ({"verifiedLevels": [""]}, "VSA: verifiedLevels: want a list of texts"),
        ({"inputAttestations": {"x": 1}}, "VSA: inputAttestations: want a list"),
        ({"inputAttestations": [{"uri": "x"}]}, r"VSA: inputAttestations\[0\]\.digest: want a digest"),
        ({"dependencyLevels": {"L": -1}}, r"VSA: dependencyLevels\.L: want a count"),
        ({"dependencyLevels": {"L": True}}, r"VSA: dependencyLevels\.L: want a count"),
        ({"dependencyLevels": [1]}, "VSA: dependencyLevels: want an object"),
        ({"timeVerified": "yesterday"}, "VSA: timeVerified: want an RFC 3339 time"),
        ({"timeVerified": "2026-13-01T00:00:00Z"}, "VSA: timeVerified: want an RFC 3339 time"),
        ({"slsaVersion": 1}, "VSA: slsaVersion: want a text"),
    ],
)
def test_what_breaks_the_format_is_named(change, said):
    with pytest.raises(Malformed, match=said):
        read({**PREDICATE, **change})


def test_another_predicate_is_unsupported():
    with pytest.raises(Unsupported, match="VSA: predicateType"):
        vsa.parse(intoto.parse(intoto.make(SUBJECTS, "https://slsa.dev/provenance/v1", PREDICATE)))


def test_a_published_vsa_is_read():
    """From slsa-verifier's test data: no sha256 subject, no policy digest, no input attestations."""
    folder = corpus("conformance/slsa-verifier/cli/slsa-verifier/testdata/vsa/gce/v1")
    line = (folder / "gke-gce-pre.bcid-vsa.jsonl").read_bytes().splitlines()[0]
    envelope = dsse.parse(line)
    summary = vsa.parse(intoto.parse(envelope.payload))
    assert (summary.result, summary.levels) == (vsa.PASSED, ("BCID_L1", "SLSA_BUILD_LEVEL_2"))
    assert summary.time_verified == datetime(2024, 6, 12, 7, 24, 34, tzinfo=UTC)


DOCUMENT = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(PREDICATE)), DOCUMENT)
def test_nearly_right_predicates_are_read_or_refused(field, value):
    data = json.dumps(
        {
            "_type": intoto.STATEMENT_TYPE,
            "subject": [{"name": "x", "digest": {"sha256": "a" * 64}}],
            "predicateType": vsa.PREDICATE_TYPE,
            "predicate": {**PREDICATE, field: value},
        }
    ).encode()
    with suppress(Malformed):
        vsa.parse(intoto.parse(data))
