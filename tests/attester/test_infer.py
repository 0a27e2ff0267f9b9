"""The model: its files read strictly, its chances a distribution, its answers the same every time."""

from __future__ import annotations

import json
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.attester import infer
from tallystick.cli.demo import model
from tallystick.core.errors import Malformed, Unsupported

WEIGHTS, TOKENIZER = model.train("abab abba.")
LOADED = infer.load(WEIGHTS, TOKENIZER)


def test_the_demos_model_is_the_same_every_time_and_speaks_its_text():
    weights, tokenizer = model.train(model.corpus())
    assert (weights, tokenizer) == model.train(model.corpus())
    loaded = infer.load(weights, tokenizer)
    said = loaded.answer("A tally stick is ", letters=200)
    assert said == loaded.answer("A tally stick is ", letters=200)
    assert said != loaded.answer("A tally stick is ", letters=200, seed=2)
    words = set(model.corpus().replace(".", " ").replace(",", " ").split())
    whole = [word.strip(".,") for word in said.split()[1:-1]]
    assert sum(word in words for word in whole) > 0.9 * len(whole)


def test_it_is_written_where_it_was_asked(tmp_path):
    weights, tokenizer = model.write(tmp_path)
    assert infer.load(weights.read_bytes(), tokenizer.read_bytes()).vocabulary


@given(st.binary(max_size=10).map(lambda data: bytes(byte % len(LOADED.vocabulary) for byte in data)))
def test_chances_add_up_to_one_and_none_is_zero(context):
    chances = LOADED.chances(context)
    assert sum(chances) == pytest.approx(1)
    assert min(chances) > 0


def test_witten_bell_by_hand():
    """'a' is followed by 'b' three times of three; below it lie the counts of all letters."""
    loaded = infer.load(*model.train("abab", longest_context=1))
    a, b = (loaded.vocabulary.index(letter) for letter in "ab")
    alone = {a: (2 / 4 * 4 / 6) + (1 / 2 * 2 / 6), b: (2 / 4 * 4 / 6) + (1 / 2 * 2 / 6)}
    chances = loaded.chances(bytes([a]))
    assert chances[b] == pytest.approx(2 / 3 + alone[b] / 3)
    assert chances[a] == pytest.approx(alone[a] / 3)


def test_letters_it_never_saw_are_left_out_of_the_prompt():
    assert LOADED.answer("ab", letters=5) == LOADED.answer("AxBÿ", letters=5)


def test_it_answers_no_prompt_too():
    assert len(LOADED.answer("", letters=7)) == 7


def test_the_end_of_the_scale_is_a_letter():
    assert infer._pick([0.5, 0.5], 1.0) == 0


def header(change) -> bytes:
    size = int.from_bytes(WEIGHTS[:8], "little")
    document = json.loads(WEIGHTS[8 : 8 + size])
    change(document)
    text = json.dumps(document).encode()
    return struct.pack("<Q", len(text)) + text + WEIGHTS[8 + size :]


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", Malformed, "header size"),
        (b"\xff" * 8, Malformed, "header size"),
        (struct.pack("<Q", 2) + b"[]", Malformed, "header: want a JSON object, got an array"),
        (WEIGHTS + b"\0", Malformed, "weights: data: want"),
        (WEIGHTS[:-1], Malformed, "data_offsets: want"),
        (header(lambda d: d["token.0"].update(dtype="F16")), Unsupported, "dtype: want U8 or I32, got F16"),
        (header(lambda d: d["token.0"].update(shape=["x"])), Malformed, "shape: want an array of sizes"),
        (header(lambda d: d["token.0"].update(shape=[True])), Malformed, "shape: want an array of sizes"),
        (header(lambda d: d["token.0"].update(data_offsets=[0, 1])), Malformed, "data_offsets: want"),
        (header(lambda d: d.update({"other.0": d.pop("count.6")})), Malformed, "count.6: want I32"),
        (header(lambda d: d.update({"count.9": d.pop("count.6")})), Malformed, "count.6: want I32"),
    ],
)
def test_weights_that_are_none_are_named(data, error, words):
    with pytest.raises(error, match=words):
        infer.load(data, TOKENIZER)


def test_metadata_is_left_alone():
    assert infer.load(header(lambda d: d.update(__metadata__={"made": "by hand"})), TOKENIZER) == LOADED


def test_no_tensors_is_no_model():
    with pytest.raises(Malformed, match="tensors: want three for each order, got 0 tensors"):
        infer.load(struct.pack("<Q", 2) + b"{}", TOKENIZER)


def test_counts_start_at_one():
    with pytest.raises(Malformed, match=r"count\.6: want counts of one or more, got 0"):
        infer.load(WEIGHTS[:-4] + bytes(4), TOKENIZER)


def test_weights_of_more_letters_than_the_tokenizer_has_are_refused():
    few = json.loads(TOKENIZER)
    few["model"]["vocab"] = {"a": 0, "b": 1}
    with pytest.raises(Malformed, match="tokens below 2, got a token out of range"):
        infer.load(WEIGHTS, json.dumps(few).encode())


def tokenizer(**changes: object) -> bytes:
    document = json.loads(TOKENIZER)
    document["model"].update(changes)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"{}", Malformed, "model: want an object"),
        (tokenizer(type="BPE"), Unsupported, "model.type: want WordLevel, got BPE"),
        (tokenizer(vocab=[]), Malformed, "model.vocab: want 1 to 256 tokens"),
        (tokenizer(vocab={}), Malformed, "model.vocab: want 1 to 256 tokens"),
        (tokenizer(vocab={"a": 0, "b": 2}), Malformed, "single letters, numbered from 0"),
        (tokenizer(vocab={"a": 0, "bc": 1}), Malformed, "single letters, numbered from 0"),
        (tokenizer(vocab={"a": 0, "b": "1"}), Malformed, "single letters, numbered from 0"),
    ],
)
def test_a_tokenizer_that_is_none_is_named(data, error, words):
    with pytest.raises(error, match=words):
        infer.load(WEIGHTS, data)


@given(st.integers(0, len(WEIGHTS) - 1), st.integers(0, 255), st.integers(0, len(WEIGHTS)))
def test_damaged_weights_are_read_or_refused_by_name(at, byte, end):
    damaged = bytearray(WEIGHTS)
    damaged[at] = byte
    with suppress(Malformed, Unsupported):
        infer.load(bytes(damaged[:end]), TOKENIZER)


@given(st.binary(max_size=100))
def test_any_bytes_are_refused_by_name(data):
    with suppress(Malformed, Unsupported):
        infer.load(struct.pack("<Q", len(data)) + data, TOKENIZER)
    with suppress(Malformed, Unsupported):
        infer.load(WEIGHTS, data)
