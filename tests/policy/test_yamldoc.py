"""The strict YAML reader: what it takes, what it refuses, and where it says the fault is."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed
from tallystick.formats.yamldoc import MAX_BYTES, MAX_DEPTH, Fields, Node, read


def plain(node: Node):
    if isinstance(node.value, dict):
        return {name: plain(value) for name, value in node.value.items()}
    return [plain(item) for item in node.value] if isinstance(node.value, list) else node.value


def refused(text: str | bytes) -> str:
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(Malformed) as caught:
        read(data, "policy")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: true", True),
        ("a: no", "no"),
        ("a: on", "on"),
        ("a: 10", 10),
        ("a: -3", -3),
        ("a: 010", "010"),
        ("a: 0x10", "0x10"),
        ("a: 1_000", "1_000"),
        ("a: 1e3", "1e3"),
        ("a: 1.5", "1.5"),
        ("a: 12:30:00", "12:30:00"),
        ("a: '10'", "10"),
        ("a: 2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("a:", None),
        ("a: ~", None),
        ("a: []", []),
        ("a: {b: [1, x]}", {"b": [1, "x"]}),
        ("a: |\n  two\n  lines\n", "two\nlines\n"),
        ("<<: {a: 1}\na: 2", 2),
    ],
)
def test_one_spelling_of_each_type(text, value):
    assert plain(read(text.encode(), "policy"))["a"] == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2", "policy: line 2 column 1: want each key once, got a second 'a'"),
        ("a: &x 1\nb: *x", "policy: line 1 column 4: want each value written out, got an anchor or alias"),
        ("b: *x", "line 1 column 4: want each value written out"),
        ("a: !!python/object:os.system 1", "line 1 column 4: want no tags"),
        ("a: !!str 1", "line 1 column 4: want no tags"),
        ("a: 1\n---\nb: 2", "line 2 column 1: want one document, got a second one"),
        ("", "document: want a document, got nothing"),
        ("1: a", "line 1 column 1: want a name as the key, got 1"),
        ("[a]: b", "line 1 column 1: want a name as the key, got a list"),
        ("a: [1, 2", "line 1 column 9: want YAML"),
        ("a:\n\t- b", "line 2 column 1: want YAML"),
        (b"a: \xff", "line 1: want UTF-8"),
        ("a: \x07", "line 1: want printable text"),
        ("a: " + "[" * (MAX_DEPTH - 1), "want YAML"),
        ("a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH, f"want at most {MAX_DEPTH} levels"),
        ("#" * (MAX_BYTES + 1), f"size: want at most {MAX_BYTES} bytes"),
        ("%YAML 99999999999999999999.1\n---\na: 1", "want YAML"),
    ],
)
def test_what_it_does_not_take_is_refused_with_its_place(text, said):
    assert said in refused(text)


def test_a_bomb_of_aliases_is_refused_at_its_first_anchor():
    bomb = "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{b}, *{b}]\n" for b, c in ("ab", "bc", "cd", "de"))
    assert "line 1 column 4: want each value written out" in refused(bomb)


def test_a_deep_document_meets_the_limit_and_not_the_stack():
    assert "levels" in refused("[" * 20_000 + "]" * 20_000)


def test_fields_name_the_path_and_the_place():
    fields = Fields(read(b"a:\n  b: 5\n  c: x\n", "policy"), "policy").table("a")
    with pytest.raises(Malformed, match=r"policy: a\.b \(line 2 column 6\): want text, got 5"):
        fields.text("b")
    with pytest.raises(Malformed, match=r"a\.c \(line 3 column 3\): want a known field, got an unknown one"):
        fields.end()
    with pytest.raises(Malformed, match=r"a\.d \(line 2 column 3\): want this field, got nothing"):
        fields.take("d")


def test_lists_name_the_element():
    fields = Fields(read(b"a: [x, x]\nb: x\nc: [1]\n", "policy"), "policy")
    with pytest.raises(Malformed, match=r"a\[1\] \(line 1 column 8\): want each value once"):
        fields.texts("a")
    with pytest.raises(Malformed, match=r"b \(line 2 column 4\): want a list, got 'x'"):
        fields.texts("b")
    with pytest.raises(Malformed, match=r"c\[0\] \(line 3 column 5\): want a mapping, got 1"):
        fields.tables("c")


@pytest.mark.parametrize("text", ["true", "0", "4", "x", "''", "", "[]"])
def test_an_integer_is_an_integer_and_within_its_bounds(text):
    fields = Fields(read(f"a: {text}".encode(), "policy"), "policy")
    with pytest.raises(Malformed, match="want a whole number from 1 to 3"):
        fields.integer("a", 1, 3)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_read_or_malformed(data):
    with suppress(Malformed):
        read(data, "policy")


YAMLISH = st.text(alphabet="ab: -[]{}\n#&*!|>'\"?%@`,1\t~", max_size=60)


@given(YAMLISH)
def test_nearly_yaml_is_read_or_malformed(text):
    with suppress(Malformed):
        read(text.encode(), "policy")
