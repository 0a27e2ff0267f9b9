"""A witness signs what grew and nothing else, also after a restart."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, NotGenuine, Unreachable
from tallystick.tlog import checkpoint as cp
from tallystick.tlog import witness_http
from tallystick.tlog.log import Log
from tallystick.tlog.witness import Witness, parse_request, write_request

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
ORIGIN = "log.example - 7"
LOG_KEY = ec.generate_private_key(ec.SECP256R1())
KEY = ed25519.Ed25519PrivateKey.generate()
PUBLIC = cp.NoteKey(name="w.example", kind=cp.Kind.COSIGNATURE, public=KEY.public_key())


@pytest.fixture
def log(tmp_path):
    with Log.open(tmp_path / "log") as opened:
        opened.append_all([b"%d" % n for n in range(9)])
        yield opened


@pytest.fixture
def witness(tmp_path):
    return made(tmp_path)


def made(tmp_path):
    known = cp.NoteKey(name="log.example", kind=cp.Kind.ECDSA, public=LOG_KEY.public_key())
    return Witness(name="w.example", key=KEY, logs=(("log.example", known),), folder=tmp_path)


def note(log, size, *, key=LOG_KEY, origin=ORIGIN, root=None):
    text = cp.Checkpoint(origin=origin, size=size, root=root or log.root(size)).text
    return str(cp.SignedNote(text=text, signatures=(cp.sign(text, "log.example", key),)))


def ask(witness, log, old, size, proof=None, **changed):
    if proof is None:
        proof = log.consistency(old, size) if 0 < old < size else ()
    return witness.add_checkpoint(write_request(old, proof, note(log, size, **changed)), NOW)


def test_what_grew_is_cosigned(witness, log):
    for old, size in ((0, 3), (3, 3), (3, 8)):
        reply = ask(witness, log, old, size)
        assert reply.status == 200
        signed = cp.parse_note(note(log, size).rstrip("\n") + "\n" + reply.body)
        assert cp.cosigned_at(signed, PUBLIC) == NOW


def test_what_did_not_grow_is_not(witness, log):
    other = b"\x01" * 32
    assert ask(witness, log, 0, 5).status == 200
    for old, size, changed, status in (
        (0, 6, {}, 409),  # it has seen 5
        (3, 6, {}, 409),
        (6, 5, {}, 400),
        (5, 4, {}, 400),
        (5, 6, {"proof": ()}, 422),
        (5, 6, {"root": other}, 422),  # a fork
        (5, 5, {"root": other}, 409),
        (5, 6, {"key": ec.generate_private_key(ec.SECP256R1())}, 403),
        (5, 6, {"origin": "other.example"}, 404),
    ):
        reply = ask(witness, log, old, size, **changed)
        assert (reply.status, "—" in reply.body) == (status, False), (old, size, changed)
    assert ask(witness, log, 5, 6).status == 200


def test_a_first_checkpoint_takes_no_proof(witness, log):
    assert ask(witness, log, 0, 5, proof=[b"\x01" * 32]).status == 422


def test_a_restart_does_not_forget(witness, log, tmp_path):
    assert ask(witness, log, 0, 5).status == 200
    again = made(tmp_path)
    reply = ask(again, log, 0, 5, root=b"\x02" * 32)
    assert (reply.status, reply.body, reply.content_type) == (409, "5\n", "text/x.tlog.size")


def test_a_witness_that_has_seen_less_is_told_more_over_http(witness, log):
    with witness_http.serving(witness, "127.0.0.1", 0, lambda: NOW) as url:
        for size in (4, 9):
            (line,) = witness_http.cosignatures(url, note(log, size), log.consistency)
            signed = cp.parse_note(note(log, size)).joined(line)
            assert cp.cosigned_at(signed, PUBLIC) == NOW
        with pytest.raises(NotGenuine, match="with 9 leaves or more, got 3") as caught:
            witness_http.cosignatures(url, note(log, 3), log.consistency)
        assert caught.value.code == "log.behind-witness"
    with pytest.raises(Unreachable):
        witness_http.cosignatures(url, note(log, 9), log.consistency)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: f"old 1\n\n{text}".encode()))
def test_whatever_is_asked_is_answered(tmp_path_factory, data):
    witness = made(tmp_path_factory.getbasetemp())
    assert witness.add_checkpoint(data, NOW).status in (400, 403, 404)
    with suppress(Malformed):
        parse_request(data)
