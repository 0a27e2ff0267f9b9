"""Digests, errors, strict JSON, and files that appear whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core import guid, jsondoc
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Exit, Malformed, Misuse, Refused, TallystickError, Unreachable, Unsupported
from tallystick.core.files import file_digest, read_file, whole_folder, write_file
from tallystick.core.findings import Finding

DAMAGE = st.sampled_from([str, str.upper, " {}".format, "{}\n".format, "0{}".format])
NEARLY = st.builds(
    lambda raw, damage: f"sha256:{damage(raw.hex())}", st.binary(min_size=32, max_size=32), DAMAGE
)


@given(st.text() | NEARLY)
def test_what_parses_prints_back_and_the_rest_is_refused_by_name(text):
    with suppress(Malformed, Unsupported):
        assert text == str(Digest.parse(text))


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("sha256:" + "A" * 64, Malformed, "lower-case hex"),
        ("sha256:" + "a" * 63, Malformed, "want 64 hex digits, got 63"),
        ("md5:" + "a" * 32, Unsupported, "want one of sha256"),
        ("sha256:" + "a" * 64 + "\n", Malformed, "text"),
        ("", Malformed, "text"),
    ],
)
def test_a_damaged_digest_is_refused(text, error, said):
    with pytest.raises(error, match=said):
        Digest.parse(text)


def test_a_digest_of_the_wrong_length_can_not_be_made():
    with pytest.raises(ValueError, match="sha256 has 32 bytes, not 31"):
        Digest(Algorithm.SHA256, bytes(31))


@given(st.binary(max_size=5000), st.sampled_from(list(Algorithm)))
def test_a_stream_hashes_as_its_bytes_do(data, algorithm):
    assert Digest.of_stream(io.BytesIO(data), algorithm) == Digest.of(data, algorithm)
    assert Digest.of(data, algorithm).hex == hashlib.new(algorithm.label, data).hexdigest()


def test_an_error_document_carries_every_finding():
    finding = Finding("a.b", "PCR 4", want="aa", got="bb", note="kernel")
    error = Refused("no", findings=[finding])
    assert (error.code, error.exit) == ("a.b", Exit.REFUSED)
    assert error.document()["error"] == {
        "code": "a.b",
        "exit": 6,
        "message": "no",
        "findings": [
            {
                "code": "a.b",
                "where": "PCR 4",
                "want": "aa",
                "got": "bb",
                "message": "PCR 4: want aa, got bb (kernel)",
            }
        ],
    }


@pytest.mark.parametrize("kind", TallystickError.__subclasses__())
def test_every_error_class_has_its_own_exit_or_is_abstract(kind):
    assert kind.exit in Exit


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"a":1,"a":2}', "duplicate key"),
        (b"[NaN]", "a JSON number"),
        (b"[Infinity]", "a JSON number"),
        (b"\xff", "UTF-8"),
        (b"{", "line 1 column 2"),
        (b'["\\ud800"]', "lone surrogate"),
        (b"[" * 200 + b"]" * 200, "at most 64 levels"),
        (b"[" + b"1" * 5000 + b"]", "limits"),
    ],
)
def test_json_that_parsers_disagree_on_is_refused(data, said):
    with pytest.raises(Malformed, match=said):
        jsondoc.loads(data, "document")


def test_brackets_in_strings_are_not_nesting():
    data = json.dumps(["[" * 500, {"a": '"]' * 99}]).encode()
    assert jsondoc.loads(data, "document") == json.loads(data)


@given(st.binary(max_size=200))
def test_strict_json_gives_a_value_or_malformed(data):
    with suppress(Malformed):
        json.dumps(jsondoc.loads(data, "document"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda v: st.lists(v) | st.dictionaries(st.text(), v),
)


@given(VALUES)
def test_strict_json_reads_what_python_writes(value):
    with suppress(Malformed):  # deeper than the limit
        assert jsondoc.loads(json.dumps(value).encode(), "document") == value


def test_a_file_is_written_whole_with_its_mode(tmp_path):
    path = tmp_path / "deep" / "secret"
    write_file(path, b"one", mode=0o600)
    write_file(path, b"two", mode=0o600)
    assert read_file(path, "secret") == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["secret"]
    assert file_digest(path) == Digest.of(b"two")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "kept"
    write_file(path, b"old")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unreachable, match="No space left"):
        write_file(path, b"new")
    assert os.listdir(tmp_path) == ["kept"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_an_interrupted_folder_leaves_the_old_one(tmp_path, stop):
    target = tmp_path / "out"
    with whole_folder(target) as work:
        (work / "a").write_text("old")

    def interrupted() -> None:
        with whole_folder(target) as work:
            (work / "a").write_text("new")
            raise stop

    with pytest.raises(stop):
        interrupted()
    assert (target / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]
    with whole_folder(target) as work:
        (work / "b").write_text("new")
    assert os.listdir(target) == ["b"]
    assert os.listdir(tmp_path) == ["out"]


def test_missing_large_and_folder_inputs_are_named(tmp_path):
    with pytest.raises(Misuse, match="there is no file"):
        read_file(tmp_path / "none", "recipe")
    with pytest.raises(Misuse, match="is a folder"):
        read_file(tmp_path, "recipe")
    (tmp_path / "big").write_bytes(bytes(10))
    with pytest.raises(Malformed, match="at most 9 bytes"):
        read_file(tmp_path / "big", "recipe", max_bytes=9)
    with pytest.raises(Misuse, match="there is no file"):
        file_digest(Path(tmp_path / "none"))


def test_a_device_without_an_end_is_not_read_to_it():
    with pytest.raises(Malformed, match="at most 1000 bytes, got more"):
        read_file(Path("/dev/zero"), "x", max_bytes=1000)
    assert read_file(Path("/dev/null"), "x") == b""


@given(st.uuids())
def test_guids_are_what_the_standard_library_says(value):
    assert guid.data(str(value)) == value.bytes_le
    assert guid.text(value.bytes_le) == str(value)
