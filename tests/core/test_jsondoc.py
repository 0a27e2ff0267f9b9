"""Nesting of JSON: told exactly, whatever the strings hold, and quickly for what never closes."""

from __future__ import annotations

import gc
import json
from contextlib import suppress

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core import bulk, jsondoc
from tallystick.core.errors import Malformed

TEXT = st.text(alphabet='[]{}"\\a\n', max_size=8)
VALUES = st.recursive(
    TEXT | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
)


@given(VALUES, st.integers(0, 70), st.booleans())
def test_depth_is_told_exactly(value, levels, maps):
    deep = json.dumps(["[", "]"] * 40)  # brackets in strings do not count
    for _ in range(levels):
        deep = f'{{"[\\"": {deep}}}' if maps else f"[{deep}]"
    document = f"[{json.dumps(value)}, {deep}]".encode()
    if levels + 2 <= jsondoc.MAX_DEPTH:
        assert jsondoc.loads(document, "test") == json.loads(document)
    else:
        with pytest.raises(Malformed, match="at most 64 levels"):
            jsondoc.loads(document, "test")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[" * 200_000, "brackets that close"),
        (b"[" * 65 + b"]" * 65, "at most 64 levels"),
        (b"]" * 200_000, "Expecting value"),
        (b'{"a": 1, "b": 2, "a": 3}', "a: want each key once"),
        (b'["\\ud800"]', "a lone surrogate"),
        (b'["\\uDC00"]', "a lone surrogate"),
    ],
)
def test_what_is_refused(text, said):
    with pytest.raises(Malformed, match=said):
        jsondoc.loads(text, "test")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(alphabet=st.characters(max_codepoint=127), max_size=4), inner, max_size=4)
    ),
)


@given(PLAIN)
def test_what_is_plain_is_written_as_rfc_8785_writes_it(value):
    assert jsondoc.is_plain(value)
    assert jsondoc.canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [1.5, 1 << 53, {"é": 1}, {1: 2}, [{"a": [2.0]}], b"x"])
def test_what_is_not_plain_is_told(value):
    assert not jsondoc.is_plain(value)


def test_the_collector_comes_back_after_bulk_work():
    assert gc.isenabled()
    with bulk.uncollected():
        with bulk.uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with suppress(KeyError), bulk.uncollected():
        raise KeyError
    assert gc.isenabled()
