"""The manifest of an artifact release: one spelling, nothing unknown, nothing twice."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Unsupported
from tallystick.handshake import manifest as manifests
from tallystick.handshake.manifest import Artifact, Images, Manifest

WEIGHTS = Artifact(
    name="weights",
    kind="weights",
    file="weights.tsenc",
    size_bytes=7,
    ciphertext=Digest.of(b"c"),
    plaintext=Digest.of(b"p"),
    key="confidential-inference/weights/v1",
)
TOKENIZER = replace(
    WEIGHTS,
    name="tokenizer",
    kind="tokenizer",
    file="tokenizer.tsenc",
    key="confidential-inference/tokenizer/v1",
)
MANIFEST = Manifest(
    name="letters",
    version="2",
    policy=Digest.of(b"policy"),
    images=(Images(name="confidential-inference", versions=("0.1.0", "0.2.0")),),
    artifacts=(TOKENIZER, WEIGHTS),
)
DOCUMENT = json.loads(MANIFEST.encode())


def test_it_reads_what_it_made_and_its_digest_is_of_its_bytes():
    assert manifests.parse(MANIFEST.encode()) == MANIFEST
    assert MANIFEST.digest == Digest.of(MANIFEST.encode())


def test_it_goes_with_the_images_that_it_names_and_no_others():
    assert MANIFEST.goes_with("confidential-inference", "0.2.0")
    assert not MANIFEST.goes_with("confidential-inference", "0.2")
    assert not MANIFEST.goes_with("another", "0.2.0")


def changed(at: str, **fields: object) -> bytes:
    """The document with fields of one of its objects replaced; None takes one away."""
    document = json.loads(MANIFEST.encode())
    place = document if not at else document[at][0]
    for name, value in fields.items():
        place[name] = value
        if value is None:
            del place[name]
    return rfc8785.dumps(document)


SWAPPED = rfc8785.dumps({**DOCUMENT, "artifacts": DOCUMENT["artifacts"][::-1]})
TWICE = rfc8785.dumps({**DOCUMENT, "images": DOCUMENT["images"] * 2})


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"[]", Malformed, "want a JSON object"),
        (changed("", schema="tallystick/artifacts/v2"), Unsupported, "schema: want tallystick/artifacts/v1"),
        (changed("", artifacts=[]), Malformed, "artifacts: want a list of at least one, got none"),
        (changed("", artifacts=3), Malformed, "artifacts: want a list of at least one, got a number"),
        (changed("", images=[]), Malformed, "images: want a list of at least one"),
        (changed("", x=1), Malformed, "x: want one of schema, name"),
        (changed("", policy="ab"), Malformed, "policy: want sha256:"),
        (changed("", policy=None), Malformed, "policy: want a string"),
        (changed("", name="a b"), Malformed, "name: want letters"),
        (changed("", version=""), Malformed, "version: want letters"),
        (changed("images", versions=[]), Malformed, "versions: want a list of at least one"),
        (changed("images", versions=["*"]), Malformed, "versions: want exact versions"),
        (changed("images", versions=["2", "1"]), Malformed, "versions: want exact versions, sorted"),
        (changed("images", versions=["1", "1"]), Malformed, "each once"),
        (changed("images", versions=[1]), Malformed, "versions: want exact versions"),
        (TWICE, Malformed, "images: want sorted by name, each once"),
        (SWAPPED, Malformed, "artifacts: want sorted by name, each once, got weights, tokenizer"),
        (changed("artifacts", extra=1), Malformed, "extra: want one of name, kind, file"),
        (changed("artifacts", file="../weights"), Malformed, "file: want a plain file name"),
        (changed("artifacts", file="a/b"), Malformed, "file: want a plain file name"),
        (changed("artifacts", file="weights.tsenc"), Malformed, "file: want each once"),
        (changed("artifacts", name=""), Malformed, "name: want a plain file name"),
        (changed("artifacts", kind="poem"), Malformed, "kind: want weights, tokenizer"),
        (changed("artifacts", size=-1), Malformed, "size: want a size in bytes"),
        (changed("artifacts", size=True), Malformed, "size: want a size in bytes"),
        (changed("artifacts", key="weights"), Malformed, "key: path: want repository/type/tag"),
        (changed("artifacts", sha256_plaintext="AB" * 32), Malformed, "want 64 lower-case hex digits"),
        (changed("artifacts", sha256_ciphertext="ab"), Malformed, "sha256_ciphertext: want 64 lower-case"),
        (MANIFEST.encode() + b" ", Malformed, "bytes: want RFC 8785 form"),
    ],
)
def test_what_is_no_manifest_is_named(data, error, words):
    with pytest.raises(error, match=words):
        manifests.parse(data)


def renamed(name: str, *, suffix: str = "") -> Manifest:
    listed = tuple(replace(one, name=one.name + suffix, file=one.file + suffix) for one in MANIFEST.artifacts)
    return replace(MANIFEST, name=name, artifacts=listed)


def test_a_deployment_has_several_releases_sorted_by_name():
    index = renamed("index", suffix=".index")
    data = manifests.encode_all((MANIFEST, index))
    assert manifests.parse_all(data) == (index, MANIFEST)
    assert data == manifests.encode_all((index, MANIFEST))


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ((), "want a list of at least one manifest"),
        ((MANIFEST, MANIFEST), "document: want sorted by name, each once"),
        ((MANIFEST, renamed("other")), "name: want each once in all manifests"),
        ((renamed("a", suffix="1"), renamed("b", suffix="1")), "want each once in all manifests"),
    ],
)
def test_a_deployment_that_is_none_is_named(listed, words):
    with pytest.raises(Malformed, match=words):
        manifests.encode_all(listed)


def test_a_list_has_one_spelling_and_is_no_single_manifest():
    for data, words in (
        (manifests.encode_all([MANIFEST]) + b"\n", "RFC 8785 form"),
        (MANIFEST.encode(), "a list of at least one manifest"),
        (b"[3]", "want a JSON object"),
    ):
        with pytest.raises(Malformed, match=words):
            manifests.parse_all(data)


@given(st.integers(0, len(MANIFEST.encode()) - 1), st.integers(0, 255))
def test_a_damaged_manifest_is_another_one_or_refused_by_name(at, byte):
    damaged = bytearray(MANIFEST.encode())
    damaged[at] = byte
    with suppress(Malformed, Unsupported):
        assert manifests.parse(bytes(damaged)).encode() == bytes(damaged)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_manifest_or_refused_by_name(data):
    with suppress(Malformed, Unsupported):
        manifests.parse(data)
