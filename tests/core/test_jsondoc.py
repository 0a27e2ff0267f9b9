"""Nesting of JSON: told exactly, whatever the strings hold, and quickly for what never closes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core import jsondoc
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
