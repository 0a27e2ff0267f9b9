"""OMS manifests: the specification's own vectors, written back; what is nearly one is refused by place."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from itertools import pairwise

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_corpus import corpus

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import intoto, oms, sigstore_bundle
from tallystick.formats.oms import HashType, Method, Serialization

A, B = "aa" * 32, "bb" * 32
SHARDS = Serialization(method=Method.SHARDS, shard_bytes=10)


def manifest(digests=None, serialization=None):
    return oms.make("m", serialization or Serialization(), digests or {"b": B, "a/x": A})


def edited(change, made=None):
    document = json.loads((made or manifest()).statement())
    change(document)
    return intoto.parse(json.dumps(document).encode())


VECTORS = "conformance/oms/test-vectors/v1.0"


@pytest.mark.corpus
@pytest.mark.parametrize("name", ["certificate", "key", "sigstore"])
def test_the_specifications_vectors_are_read_and_written_back(name):
    bundle = sigstore_bundle.parse(corpus(f"{VECTORS}/valid/{name}.bundle.json").read_bytes())
    statement = intoto.parse(bundle.content.payload)
    found = oms.from_file(corpus(f"{VECTORS}/valid/{name}.bundle.json").read_bytes())
    assert oms.from_file(found.statement()).resources == found.resources
    assert statement.subjects[0].has(found.root)
    again = oms.parse(intoto.parse(found.statement()))
    assert (again.resources, again.root, again.serialization) == (
        found.resources,
        found.root,
        found.serialization,
    )
    want = statement.predicate["serialization"]
    assert set(want["ignore_paths"]) == {*oms.DEFAULT_IGNORED, *found.serialization.ignore_paths}


@pytest.mark.corpus
def test_the_vector_with_another_predicate_is_unsupported():
    data = corpus(f"{VECTORS}/invalid-payload/wrong-predicate.bundle.json").read_bytes()
    with pytest.raises(Unsupported, match="predicateType: want https://model_signing"):
        oms.from_file(data)


@pytest.mark.corpus
@pytest.mark.parametrize(
    "name", ["empty", "missing-envelope", "missing-tlog-entries", "missing-verification-material"]
)
def test_the_invalid_vectors_are_no_bundles(name):
    data = corpus(f"{VECTORS}/invalid/{name}.bundle.json").read_bytes()
    with pytest.raises((Malformed, Unsupported)):
        oms.from_file(data)


@pytest.mark.corpus
@pytest.mark.parametrize("made", [manifest(), oms.make("m", SHARDS, {"w:0:10": A, "w:10:17": B})])
def test_what_is_written_fits_the_specifications_schema(made):
    schema = json.loads(corpus("conformance/oms/schemas/v1.0/predicate.schema.json").read_bytes())
    jsonschema_rs.validate(schema, json.loads(made.statement())["predicate"])


def test_entries_are_sorted_by_code_point_and_the_root_covers_no_names():
    made = manifest({"é": A, "z": B, "Z": B})
    assert [one.name for one in made.resources] == ["Z", "z", "é"]
    assert manifest({"a": A, "b": B}).root == manifest({"c": A, "d": B}).root
    assert oms.parse(intoto.parse(made.statement())) == made


def test_ranges_cut_a_file_as_the_specification_does():
    wanted = (("w", 0, 10), ("w", 10, 20), ("w", 20, 25))
    assert oms.ranges("w", 25, SHARDS) == tuple((f"{n}:{a}:{b}", a, b) for n, a, b in wanted)
    assert oms.ranges("w", 0, SHARDS) == ()
    assert oms.ranges("w", 0, Serialization()) == (("w", 0, 0),)


REFUSED = [
    (lambda d: d.update(predicateType="https://model_signing/Digests/v0.1"), Unsupported, "predicateType"),
    (lambda d: d["subject"].append(d["subject"][0]), Malformed, "subject: want one, got 2"),
    (lambda d: d["subject"][0]["digest"].update(sha256=A), Malformed, "subject digest"),
    (lambda d: d["predicate"].update(resources=[]), Malformed, "resources: want at least one file"),
    (lambda d: d["predicate"].update(resources={}), Malformed, "resources: want a list"),
    (lambda d: d["predicate"].update(more=1), Malformed, "predicate: want resources and serialization"),
    (lambda d: d["predicate"].pop("serialization"), Malformed, "serialization: want an object"),
    (lambda d: d["predicate"]["resources"].reverse(), Malformed, "sorted by name"),
    (
        lambda d: d["predicate"]["resources"].append(d["predicate"]["resources"][-1]),
        Malformed,
        "sorted by name",
    ),
    (lambda d: d["predicate"]["resources"].insert(0, 7), Malformed, "resources\\[0\\]: want an object"),
    (
        lambda d: d["predicate"]["resources"][0].update(digest="AA" * 32),
        Malformed,
        "64 lower-case hex digits",
    ),
    (
        lambda d: d["predicate"]["resources"][0].update(algorithm="blake2b"),
        Malformed,
        "algorithm: want sha256",
    ),
    (lambda d: d["predicate"]["resources"][0].update(name="../x"), Malformed, "a canonical relative path"),
    (lambda d: d["predicate"]["resources"][0].update(name="/x"), Malformed, "a canonical relative path"),
    (lambda d: d["predicate"]["resources"][0].update(name="a//x"), Malformed, "a canonical relative path"),
    (lambda d: d["predicate"]["resources"][0].update(name=".git/x"), Malformed, "no path that is left out"),
    (lambda d: d["predicate"]["serialization"].update(method="tar"), Unsupported, "files or shards"),
    (lambda d: d["predicate"]["serialization"].update(hash_type="md5"), Unsupported, "got md5"),
    (lambda d: d["predicate"]["serialization"].update(hash_type="md5"), Unsupported, "got md5"),
    (lambda d: d["predicate"]["serialization"].update(allow_symlinks=True), Unsupported, "allow_symlinks"),
    (lambda d: d["predicate"]["serialization"].update(allow_symlinks=0), Malformed, "allow_symlinks"),
    (lambda d: d["predicate"]["serialization"].update(shard_size=5), Malformed, "one with shards alone"),
    (lambda d: d["predicate"]["serialization"].update(method="shards"), Malformed, "one with shards alone"),
    (
        lambda d: d["predicate"]["serialization"].update(method="shards", shard_size=True),
        Malformed,
        "a positive whole number",
    ),
    (lambda d: d["predicate"]["serialization"].update(ignore_paths="x"), Malformed, "a list of texts"),
    (lambda d: d["predicate"]["serialization"].update(ignore_paths=["*.md"]), Malformed, "without patterns"),
    (lambda d: d["predicate"]["serialization"].update(extra=1), Malformed, "serialization: want"),
]


@pytest.mark.parametrize(("change", "error", "said"), REFUSED)
def test_what_is_no_manifest_is_refused_by_place(change, error, said):
    with pytest.raises(error, match=said):
        oms.parse(edited(change))


@pytest.mark.parametrize(
    ("digests", "said"),
    [
        ({"w:10:20": A}, "ranges of w: want one from byte 0, got 10"),
        ({"w:0:10": A, "w:20:25": B}, "ranges of w: want one from byte 10, got 20"),
        ({"w:0:9": A, "w:10:20": B}, "ranges of w: want whole ones of 10, got 9"),
        ({"w:0:11": A}, "a range that 10 bytes make"),
        ({"w:5:6": A}, "a range that 10 bytes make"),
        ({"w": A}, "PATH:START:END"),
        ({"w:00:10": A}, "PATH:START:END"),
    ],
)
def test_ranges_leave_no_gap(digests, said):
    with pytest.raises(Malformed, match=said):
        oms.make("m", SHARDS, digests)


def test_fields_that_oms_does_not_use_mean_nothing():
    found = oms.parse(edited(lambda d: d["predicate"]["resources"][0].update(uri="x", annotations={})))
    assert found == manifest()


def test_hashes_have_the_names_and_sizes_of_the_registry():
    for kind in HashType:
        assert kind.hasher().digest_size == kind.size_bytes
        assert HashType.named(kind.label) is kind


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=6)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(st.dictionaries(NAMES.map("f/{}".format), DIGESTS, min_size=1, max_size=5))
def test_any_names_are_written_and_read_back(digests):
    with suppress(Malformed):  # "." and ".." are names too
        made = oms.make("model", Serialization(), digests)
        assert oms.parse(intoto.parse(made.statement())) == made
        assert all(a.name < b.name for a, b in pairwise(made.resources))


@settings(max_examples=200)
@given(st.data())
def test_any_value_in_any_place_is_read_or_refused(data):
    document = json.loads(oms.make("m", SHARDS, {"w:0:10": A, "w:10:17": B}).statement())
    places = [document, document["predicate"], document["predicate"]["serialization"]]
    places += document["predicate"]["resources"]
    place = data.draw(st.sampled_from(places))
    value = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just([]) | st.just({})
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(value)
    with suppress(Malformed, Unsupported):
        oms.parse(intoto.parse(json.dumps(document).encode()))


def bundle(**material):
    """A bundle around a statement; nothing in it is signed."""
    payload = base64.b64encode(manifest().statement()).decode()
    envelope = {"payload": payload, "payloadType": intoto.PAYLOAD_TYPE, "signatures": [{"sig": "AAAA"}]}
    document = {
        "mediaType": sigstore_bundle.MEDIA_TYPE,
        "verificationMaterial": material,
        "dsseEnvelope": envelope,
    }
    return json.dumps(document).encode()


def test_a_short_lived_certificate_needs_a_log_entry_and_a_key_does_not():
    assert oms.from_file(bundle(publicKey={"hint": "x"})) == manifest()
    assert oms.from_file(bundle(x509CertificateChain={"certificates": [{"rawBytes": "AAAA"}]})) == manifest()
    with pytest.raises(Malformed, match="tlogEntries: want one entry"):
        oms.from_file(bundle(certificate={"rawBytes": "AAAA"}))
    assert oms.from_file(manifest().statement()) == manifest()


def test_a_bundle_of_something_else_is_unsupported():
    other = bundle(publicKey={"hint": "x"}).replace(b"application/vnd.in-toto+json", b"text/plain")
    with pytest.raises(Unsupported, match="dsseEnvelope: want application"):
        oms.from_file(other)
