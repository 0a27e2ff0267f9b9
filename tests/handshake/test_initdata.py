"""Init-data: the text that is measured, and the manifest of artifacts in it."""

from __future__ import annotations

import hashlib
import tomllib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, Unsupported
from tallystick.handshake import initdata

DATA = {initdata.ARTIFACTS: '{"schema": "x"}', initdata.AGENT: initdata.agent_text("http://10.0.2.100:8777")}
TOML = initdata.make(DATA)


def test_it_reads_what_it_made():
    found = initdata.parse(TOML)
    assert dict(found.data) == DATA
    assert found.algorithm == "sha256"
    assert found.text(initdata.ARTIFACTS) == DATA[initdata.ARTIFACTS]
    assert initdata.broker_url(found) == "http://10.0.2.100:8777"


def test_the_same_data_makes_the_same_bytes_in_any_order():
    assert initdata.make(dict(reversed(DATA.items()))) == TOML


def test_the_register_after_it_follows_trustees_rule():
    """deps/verifier/src/tpm/mod.rs: sha256(0x00 * 32 || sha256(text))."""
    assert initdata.digest(TOML) == hashlib.sha256(TOML).digest()
    assert initdata.pcr8(TOML) == hashlib.sha256(bytes(32) + hashlib.sha256(TOML).digest()).digest()


def test_both_spellings_of_the_hash_are_read():
    assert initdata.parse(TOML.replace(b'"sha256"', b'"sha-256"')).algorithm == "sha256"


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (TOML.replace(b"0.1.0", b"0.2.0"), Unsupported, r"version: want 0\.1\.0, got 0\.2\.0"),
        (TOML.replace(b'"sha256"', b'"sha384"'), Unsupported, "algorithm: want sha256, got sha384"),
        (b"version = ", Malformed, "init-data: text: want TOML"),
        (b"\xff", Malformed, "byte 0: want UTF-8"),
        (b"x" * (1 << 20) + b"y", Malformed, "size: want at most 1048576 bytes"),
        (b'version = "0.1.0"\nalgorithm = "sha256"\n', Malformed, "data: want an object, got nothing"),
        (b'version = "0.1.0"\nalgorithm = "sha256"\n[data]\nx = 1\n', Malformed, "x: want a string"),
        (b'version = 1\nalgorithm = "sha256"\n', Malformed, "version: want a string, got a number"),
        (b"a = " + b"[" * 5000, Malformed, "want TOML"),
    ],
)
def test_what_is_not_init_data_is_named(text, error, words):
    with pytest.raises(error, match=words):
        initdata.parse(text)


def test_a_text_that_is_not_there_is_named():
    with pytest.raises(Malformed, match=r"init-data: data\.cdh\.toml: want a text, got nothing"):
        initdata.parse(TOML).text("cdh.toml")


@pytest.mark.parametrize("text", ["it's '''", "a\r\nb", "\0"])
def test_a_text_that_toml_would_change_is_refused(text):
    with pytest.raises(Malformed, match="init-data: text"):
        initdata.make({"a": text})


def test_a_name_that_would_need_quoting_is_refused():
    with pytest.raises(Malformed, match="init-data: name"):
        initdata.make({'a"b': "x"})


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("x =", "want TOML"),
        ("", "token_configs: want an object"),
        ("[token_configs.kbs]\n", "url: want a string"),
    ],
)
def test_an_agent_without_a_broker_is_named(agent, words):
    init = initdata.InitData(algorithm="sha256", data=((initdata.AGENT, agent),))
    with pytest.raises(Malformed, match=words):
        initdata.broker_url(init)


def test_an_address_with_quotes_is_refused():
    with pytest.raises(Malformed, match="an URL without quotes"):
        initdata.agent_text("http://x' y")


@given(
    st.dictionaries(st.from_regex(r"[A-Za-z0-9_.-]{1,9}", fullmatch=True), st.text(max_size=40), max_size=4)
)
def test_what_can_be_made_reads_back(data):
    with suppress(Malformed):
        made = initdata.make(data)
        assert dict(initdata.parse(made).data) == data
        assert tomllib.loads(made.decode())["data"] == data


@given(st.integers(0, len(TOML) - 1), st.integers(0, 255), st.integers(0, len(TOML)))
def test_damaged_text_is_read_or_refused_by_name(at, byte, end):
    damaged = bytearray(TOML)
    damaged[at] = byte
    with suppress(Malformed, Unsupported):
        found = initdata.parse(bytes(damaged[:end]))
        initdata.broker_url(found)
