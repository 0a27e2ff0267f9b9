"""DSSE envelopes and canonical base64."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, TallystickError
from tallystick.formats import canonical_base64, dsse


def test_the_vector_of_the_specification():
    """secure-systems-lab/dsse, protocol.md, test vectors."""
    got = dsse.pae("http://example.com/HelloWorld", b"hello world")
    assert got == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_lengths_count_bytes():
    assert dsse.pae("é", "é".encode()) == b"DSSEv1 2 \xc3\xa9 2 \xc3\xa9"


ENVELOPES = st.builds(
    lambda payload, kind, sigs: dsse.Envelope(payload=payload, payload_type=kind, signatures=tuple(sigs)),
    st.binary(),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.lists(
        st.builds(
            lambda sig, keyid: dsse.Signature(sig=sig, keyid=keyid),
            st.binary(min_size=1),
            st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        ),
        min_size=1,
        max_size=3,
    ),
)


@given(ENVELOPES)
def test_what_is_written_is_read_back(envelope):
    assert dsse.parse(json.dumps(dsse.to_json(envelope)).encode()) == envelope


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"payload":"","payloadType":"x","signatures":[]}', "1 to 64 signatures, got 0"),
        (b'{"payload":"","payloadType":"x","signatures":{}}', "1 to 64 signatures, got dict"),
        (b'{"payload":"","payloadType":"","signatures":[{"sig":"AA=="}]}', "payloadType: want a text"),
        (b'{"payload":"","payloadType":"x","signatures":[{"sig":""}]}', "want a signature"),
        (b'{"payload":"","payloadType":"x","signatures":[{"sig":"AB=="}]}', "canonical base64"),
        (b'{"payload":"AA","payloadType":"x","signatures":[{"sig":"AA=="}]}', "base64"),
        (b'{"payload":"","payloadType":"x","signatures":[{"sig":"AA==","keyid":1}]}', "keyid: want a text"),
        (b'{"payload":"","payloadType":"x","signatures":[{"sig":"AA==","cert":""}]}', "got cert"),
        (b'{"payload":"","payloadType":"x"}', "the field signatures"),
        (b'{"payload":"","payloadType":"x","signatures":[{"sig":"AA=="}],"x":1}', "got x"),
        (b"[]", "want an object"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(Malformed, match=message):
        dsse.parse(text)


@given(st.binary())
def test_bytes_are_refused_by_our_errors_alone(data):
    with suppress(TallystickError):
        dsse.parse(data)


@given(st.binary())
def test_base64_goes_there_and_back(value):
    assert canonical_base64.decode(canonical_base64.encode(value), "x", "y") == value


@given(st.text(alphabet="AB=+/-_ \n", max_size=12))
def test_a_value_has_one_spelling(text):
    with suppress(Malformed):
        assert canonical_base64.encode(canonical_base64.decode(text, "x", "y")) == text


@pytest.mark.parametrize("text", ["AB==", "AA", "A A=", "AA==\n", "é", "-_==", None, b"AA=="])
def test_other_spellings_are_refused(text):
    with pytest.raises(Malformed, match="base64"):
        canonical_base64.decode(text, "x", "y")
