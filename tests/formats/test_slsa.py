"""SLSA provenance predicates: read strictly, written back the same."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, TallystickError, Unsupported
from tallystick.formats import intoto, slsa
from tallystick.formats.slsa import Provenance, Resource

GOOD = Provenance(
    build_type="https://example.org/type",
    external={"recipe": "x"},
    internal={},
    dependencies=(Resource(name="a", digests=(("sha256", "0" * 64),), annotations=(("k", [1]),)),),
    builder_id="https://example.org/builder",
    builder_version=(("tool", "1"),),
    byproducts=(Resource(uri="x:y", content=b"bytes"),),
    invocation_id="run-1",
    started_on="2026-11-22T10:00:00Z",
    finished_on="2026-11-22T10:01:00Z",
)


def statement(predicate, kind=slsa.PREDICATE_TYPE):
    data = intoto.make([("x", {"sha256": "0" * 64})], kind, predicate)
    return intoto.parse(data)


def test_what_is_written_reads_back_the_same():
    assert slsa.parse(statement(GOOD.document())) == GOOD


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.pop("buildDefinition"), "buildDefinition.buildType: want a value"),
        (lambda p: p["buildDefinition"].update(buildType=""), "buildDefinition.buildType: want a value"),
        (lambda p: p["buildDefinition"].update(externalParameters={}), "externalParameters: want a value"),
        (lambda p: p["runDetails"].update(builder=None), r"runDetails.builder.id: want a value"),
        (lambda p: p["runDetails"]["builder"].update(id=7), "runDetails.builder.id: want a text, got int"),
        (lambda p: p["runDetails"]["builder"].update(version={"a": 1}), "version.a: want a text"),
        (lambda p: p["runDetails"].update(byproducts={"a": 1}), "byproducts: want a list, got dict"),
        (lambda p: p["runDetails"].update(byproducts=["a"]), r"byproducts\[0\]: want an object, got str"),
        (lambda p: p["runDetails"].update(byproducts=[{"name": "a"}]), "want a uri, a digest or content"),
        (lambda p: p["runDetails"].update(byproducts=[{"content": "%"}]), "content: want base64"),
        (lambda p: p["runDetails"].update(metadata=[1]), "metadata: want an object, got list"),
    ],
)
def test_another_shape_is_malformed_and_its_place_named(change, said):
    predicate = json.loads(json.dumps(GOOD.document()))
    change(predicate)
    with pytest.raises(Malformed, match=said):
        slsa.parse(statement(predicate))


def test_another_predicate_is_unsupported():
    with pytest.raises(Unsupported, match=r"predicateType: want https://slsa\.dev/provenance/v1"):
        slsa.parse(statement(GOOD.document(), "https://slsa.dev/provenance/v0.2"))


def test_unset_null_and_empty_mean_the_same():
    predicate = json.loads(json.dumps(GOOD.document()))
    for empty in (None, [], {}):
        predicate["buildDefinition"]["resolvedDependencies"] = empty
        assert slsa.parse(statement(predicate)).dependencies == ()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=3),
    lambda c: st.lists(c, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "uri"]), c),
)


@given(
    st.dictionaries(
        st.sampled_from(["buildDefinition", "runDetails"]),
        st.dictionaries(
            st.sampled_from(
                [
                    "buildType",
                    "externalParameters",
                    "resolvedDependencies",
                    "builder",
                    "byproducts",
                    "metadata",
                ]
            ),
            VALUES,
        )
        | VALUES,
    )
)
def test_arbitrary_predicates_never_crash_the_parser(predicate):
    with suppress(TallystickError):
        made = slsa.parse(statement(predicate))
        assert slsa.parse(statement(made.document())) == made
