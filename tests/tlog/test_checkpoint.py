"""Signed notes: one spelling each, signed by the key they name, with other people's lines kept."""

from __future__ import annotations

import base64
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, NotGenuine, TallystickError, Unsupported
from tallystick.tlog import checkpoint as cp

EDWARDS, CURVE, WITNESS = (
    ed25519.Ed25519PrivateKey.generate(),
    ec.generate_private_key(ec.SECP256R1()),
    ed25519.Ed25519PrivateKey.generate(),
)
TEXT = cp.Checkpoint(origin="log.example", size=7, root=b"r" * 32).text
SEEN = datetime(2026, 11, 22, 12, tzinfo=UTC)


def signed(*signatures: cp.NoteSignature) -> cp.SignedNote:
    return cp.SignedNote(text=TEXT, signatures=signatures)


def key(private, kind: cp.Kind, name: str = "log.example") -> cp.NoteKey:
    return cp.NoteKey(name=name, kind=kind, public=private.public_key())


NOTE = signed(cp.sign(TEXT, "log.example", CURVE), cp.cosign(TEXT, "w.example/1", WITNESS, SEEN))


def test_the_text_is_as_c2sp_writes_it():
    assert f"log.example\n7\n{base64.b64encode(b'r' * 32).decode()}\n" == TEXT
    assert cp.parse(TEXT) == cp.Checkpoint(origin="log.example", size=7, root=b"r" * 32)
    assert cp.parse(TEXT + "extension 1\n").extensions == ("extension 1",)


@pytest.mark.parametrize(("private", "kind"), [(EDWARDS, cp.Kind.ED25519), (CURVE, cp.Kind.ECDSA)])
def test_a_signature_holds_for_its_key_alone(private, kind):
    note = signed(cp.sign(TEXT, "log.example", private))
    cp.verify(cp.parse_note(str(note)), key(private, kind))
    fresh = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
    other = fresh[kind is cp.Kind.ECDSA]
    with pytest.raises(NotGenuine, match="want a signature by this key"):
        cp.verify(note, key(other, kind))
    with pytest.raises(NotGenuine, match="want a signature by this key"):
        cp.verify(note, key(private, kind, "another.example"))
    forged = cp.SignedNote(text=TEXT.replace("7", "8"), signatures=note.signatures)
    with pytest.raises(NotGenuine, match="want a signature that holds"):
        cp.verify(forged, key(private, kind))


def test_every_line_of_the_key_must_hold():
    good = cp.sign(TEXT, "log.example", EDWARDS)
    bad = cp.NoteSignature(name=good.name, hint=good.hint, signature=b"\0" * 64)
    with pytest.raises(NotGenuine) as caught:
        cp.verify(signed(good, bad), key(EDWARDS, cp.Kind.ED25519))
    assert caught.value.code == "log.checkpoint"


def test_a_witness_says_when():
    witness = key(WITNESS, cp.Kind.COSIGNATURE, "w.example/1")
    assert cp.cosigned_at(cp.parse_note(str(NOTE)), witness) == SEEN
    cp.verify(NOTE, key(CURVE, cp.Kind.ECDSA))  # and its line does not disturb the log's
    moved = cp.NoteSignature(
        name="w.example/1",
        hint=NOTE.signatures[1].hint,
        signature=b"\0" * 7 + b"\1" + NOTE.signatures[1].signature[8:],
    )
    with pytest.raises(NotGenuine, match="want a signature that holds"):
        cp.cosigned_at(signed(moved), witness)
    with pytest.raises(NotGenuine, match="want a signature by this key"):
        cp.cosigned_at(signed(NOTE.signatures[0]), witness)


def test_a_witness_outside_the_calendar_is_refused():
    far = (1 << 63).to_bytes(8, "big")
    witness = key(WITNESS, cp.Kind.COSIGNATURE, "w")
    line = cp.NoteSignature(
        name="w", hint=witness.hint, signature=far + WITNESS.sign(cp._cosigned(TEXT, 1 << 63))
    )
    with pytest.raises(NotGenuine, match="a time within the calendar"):
        cp.cosigned_at(signed(line), witness)


def test_lines_are_added_under_the_ones_there_are():
    more = NOTE.joined(cp.sign(TEXT, "second.example", EDWARDS))
    assert [line.name for line in more.signatures] == ["log.example", "w.example/1", "second.example"]


def test_another_curve_is_unsupported():
    with pytest.raises(Unsupported, match="want P-256 or Ed25519, got secp384r1"):
        cp.sign(TEXT, "log.example", ec.generate_private_key(ec.SECP384R1()))


@given(st.integers(0, len(str(NOTE)) - 1), st.characters(exclude_categories=["Cs"]))
def test_no_character_of_a_note_can_change_unseen(at, character):
    text = str(NOTE)
    changed = text[:at] + character + text[at + 1 :]
    if changed == text:
        return
    with pytest.raises(TallystickError):  # noqa: PT012 (either of two steps refuses)
        note = cp.parse_note(changed)
        cp.verify(note, key(CURVE, cp.Kind.ECDSA))
        cp.cosigned_at(note, key(WITNESS, cp.Kind.COSIGNATURE, "w.example/1"))


@given(st.text() | st.builds(lambda at: str(NOTE)[:at], st.integers(0, 400)))
def test_text_is_refused_by_our_errors_alone(text):
    with suppress(TallystickError):
        assert str(cp.parse_note(text)) == text
    with suppress(TallystickError):
        assert cp.parse(text).text == text


@pytest.mark.parametrize(
    "text",
    ["", "a\n", "a\n\n", "a\n\n— x AAAA\n", "\n\n— x AAAAAAAA\n", "a\n\n— x AAAAAAAA", "a\n\n- x AAAAAAAA\n",
     "a\n\n— x+y AAAAAAAA\n", "a\n\n— x AAAAAAAB==\n", "a\tb\n\n— x AAAAAAAA\n", "a\n\njunk\n— x AAAAAAAA\n"],
)  # fmt: skip
def test_what_is_no_note_is_malformed(text):
    with pytest.raises(Malformed, match=r"checkpoint: (note|signature line)"):
        cp.parse_note(text)


@pytest.mark.parametrize(
    "text",
    ["", "o\n7\n", "o\n07\n" + "A" * 43 + "=\n", "o\n-1\n" + "A" * 43 + "=\n", "o\n7\nAAAA\n",
     "\n7\n" + "A" * 43 + "=\n", "o\n7\n" + "A" * 43 + "=", "o\n7\n" + "A" * 43 + "=\n\n"],
)  # fmt: skip
def test_what_is_no_checkpoint_is_malformed(text):
    with pytest.raises(Malformed, match="checkpoint: "):
        cp.parse(text)


def test_a_verifier_key_is_read_as_it_is_printed():
    from tallystick.broker.logkey import LogKey

    made = LogKey(ed25519.Ed25519PrivateKey.generate())
    assert cp.parse_verifier(made.verifier_line()) == made.note_key


@given(st.text() | st.from_regex(r"[a-z]{1,4}\+[0-9a-f]{8}\+[A-Za-z0-9+/]{0,48}={0,2}", fullmatch=True))
def test_any_other_line_is_refused_by_name(line):
    with pytest.raises((Malformed, Unsupported)):
        cp.parse_verifier(line)
