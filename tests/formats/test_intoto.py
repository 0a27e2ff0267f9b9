"""in-toto statements: what parses is kept whole, and the rest is refused by name."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, TallystickError, Unsupported
from tallystick.formats import intoto

SHA = "ab" * 32
GOOD = {
    "_type": intoto.STATEMENT_TYPE,
    "subject": [{"name": "uki.efi", "digest": {"sha256": SHA, "narHash": "sha256-x="}}],
    "predicateType": "https://example.org/p/v1",
    "predicate": {"vcpus": 4, "big": 9007199254740991},
}


def changed(**fields: object) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


def test_numbers_and_unknown_names_survive():
    statement = intoto.parse(changed(addedLater=[1]))
    assert statement.predicate == {"vcpus": 4, "big": 9007199254740991}
    assert isinstance(statement.predicate["vcpus"], int)
    assert statement.document["addedLater"] == [1]
    assert statement.subjects[0].digests == (("narHash", "sha256-x="), ("sha256", SHA))


def test_a_subject_is_named_by_its_own_algorithm():
    statement = intoto.parse(changed())
    digest = Digest.parse(f"sha256:{SHA}")
    assert statement.names(digest)
    assert not statement.names(Digest.parse("sha256:" + "00" * 32))


def test_make_gives_rfc8785_bytes_that_parse_back():
    data = intoto.make([("a", {"sha256": SHA})], "https://example.org/p/v1", {"b": 1, "a": True})
    assert (
        data
        == (
            b'{"_type":"https://in-toto.io/Statement/v1","predicate":{"a":true,"b":1},'
            b'"predicateType":"https://example.org/p/v1","subject":[{"digest":{"sha256":"%b"},"name":"a"}]}'
        )
        % SHA.encode()
    )
    assert intoto.parse(data).predicate == {"a": True, "b": 1}


@pytest.mark.parametrize("digests", [{}, {"sha256": "ab"}, {"sha256": SHA.upper()}])
def test_make_refuses_what_would_not_parse(digests):
    with pytest.raises(ValueError, match="digest"):
        intoto.make([("a", digests)], "https://example.org/p/v1", {})


def test_make_refuses_a_number_that_json_readers_would_change():
    with pytest.raises(ValueError, match="exceeds"):
        intoto.make([("a", {"sha256": SHA})], "https://example.org/p/v1", {"n": 2**60 + 1})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"subject": []}, "subject: want a list of at least one subject"),
        ({"subject": [{"name": "x"}]}, r"subject\[0\]\.digest: want at least one digest"),
        ({"subject": [{"name": 1, "digest": {"sha256": SHA}}]}, r"subject\[0\]\.name"),
        ({"subject": [{"name": "x", "digest": {"sha256": 1}}]}, r"digest\.sha256"),
        ({"subject": [{"name": "x", "digest": {"sha256": SHA[:-1]}}]}, "64 lower-case hex digits"),
        ({"subject": ["x"]}, r"subject\[0\]: want an object"),
        ({"predicateType": ""}, "predicateType"),
        ({"predicate": []}, "predicate: want an object"),
    ],
)
def test_what_is_wrong_is_named(fields, message):
    with pytest.raises(Malformed, match=message):
        intoto.parse(changed(**fields))


def test_another_version_is_unsupported():
    with pytest.raises(Unsupported, match=r"Statement/v0\.1"):
        intoto.parse(changed(_type="https://in-toto.io/Statement/v0.1"))


def test_a_list_is_no_statement():
    with pytest.raises(Malformed, match="document: want an object"):
        intoto.parse(b"[]")


@given(
    st.binary(max_size=200)
    | st.builds(lambda at, byte: _flipped(at, byte), st.integers(0, 200), st.integers(1, 255))
)
def test_bytes_are_refused_by_our_errors_alone(data):
    with suppress(TallystickError):
        intoto.parse(data)


def _flipped(at: int, byte: int) -> bytes:
    data = bytearray(changed())
    data[at % len(data)] ^= byte
    return bytes(data)
