"""Signed tree heads: C2SP signed notes and checkpoints, with Ed25519, Rekor-v1-style ECDSA, and cosignatures.

Source: C2SP signed-note, tlog-checkpoint and tlog-cosignature (c2sp.org).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.core.findings import Finding
from tallystick.formats import canonical_base64
from tallystick.tlog.merkle import HASH_BYTES

_WHAT = "checkpoint"
_HINT_BYTES = 4
_ED25519_BYTES = 32
_STAMP_BYTES = 8  # tlog-cosignature: the time, big-endian, in front of the signature
_MAX_NOTE_BYTES = 1 << 20
_MAX_SIGNATURES = 100  # signed-note: "a limit … is recommended"
_SIGNATURE_LINE = re.compile(r"— ([^\s+]+) (\S+)")

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


class Kind(Enum):
    """How a line of a note is signed. The value is signed-note's signature type byte."""

    ED25519 = 0x01
    ECDSA = 0x02  # as Rekor v1 signs: SHA-256, and the key ID of RFC 6962
    COSIGNATURE = 0x04  # a witness, with the time it saw the log


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """One signature line: who says to have signed, which of its keys, and what follows the key ID."""

    name: str
    hint: bytes  # key ID: an index, never a proof
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedNote:
    """A text and the lines under it. Nothing here is verified; lines of unknown keys are kept."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def __str__(self) -> str:
        lines = (
            f"— {line.name} {canonical_base64.encode(line.hint + line.signature)}\n"
            for line in self.signatures
        )
        return f"{self.text}\n{''.join(lines)}"

    def joined(self, *more: NoteSignature) -> SignedNote:
        """Return this note with ``more`` lines under the ones it has."""
        return SignedNote(text=self.text, signatures=(*self.signatures, *more))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A log's name, its size, and the root over all of it."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The note text that is signed."""
        return "".join(
            f"{line}\n"
            for line in (self.origin, self.size, canonical_base64.encode(self.root), *self.extensions)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteKey:
    """A public key under the name that its lines carry."""

    name: str
    kind: Kind
    public: PublicKey

    @property
    def hint(self) -> bytes:
        """The key ID of its lines."""
        if isinstance(self.public, ec.EllipticCurvePublicKey):
            return spki_digest(self.public)[:_HINT_BYTES]
        raw = self.public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return hashlib.sha256(b"%b\n%c%b" % (self.name.encode(), self.kind.value, raw)).digest()[:_HINT_BYTES]


def spki_digest(public: PublicKey) -> bytes:
    """Return SHA-256 of the key's DER SubjectPublicKeyInfo: the log ID of RFC 6962, section 3.2."""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()


def parse_verifier(line: str) -> NoteKey:
    """Return the Ed25519 key of a verifier key line.

    Source: C2SP signed-note, "Verifier keys": ``<name>+<key ID>+<base64 of type and key>``.

    Raises:
        Malformed: not such a line, or its key ID is another key's.
        Unsupported: another type of key.
    """
    what = "verifier key"
    match = re.fullmatch(r"([^\s+]+)\+([0-9a-f]{8})\+(\S+)", line)
    if match is None:
        raise Malformed(what, at="line", want="name+key ID+base64", got=repr(line))
    kind, raw = (value := canonical_base64.decode(match[3], what, "key"))[:1], value[1:]
    if kind != bytes([Kind.ED25519.value]):
        raise Unsupported(what, at="type", want="01 (Ed25519)", got=kind.hex() or "nothing")
    if len(raw) != _ED25519_BYTES:
        raise Malformed(what, at="key", want=f"{_ED25519_BYTES} bytes", got=f"{len(raw)}")
    key = NoteKey(name=match[1], kind=Kind.ED25519, public=ed25519.Ed25519PublicKey.from_public_bytes(raw))
    if key.hint.hex() != match[2]:
        raise Malformed(what, at="key ID", want=key.hint.hex(), got=match[2])
    return key


def sign(text: str, name: str, private: PrivateKey) -> NoteSignature:
    """Return the line with which the key ``private``, called ``name``, signs ``text``.

    Raises:
        Unsupported: an elliptic curve other than P-256.
    """
    if isinstance(private, ec.EllipticCurvePrivateKey):
        if not isinstance(private.curve, ec.SECP256R1):
            raise Unsupported(_WHAT, at="log key", want="P-256 or Ed25519", got=private.curve.name)
        key = NoteKey(name=name, kind=Kind.ECDSA, public=private.public_key())
        signature = private.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
        return NoteSignature(name=name, hint=key.hint, signature=signature)
    plain = NoteKey(name=name, kind=Kind.ED25519, public=private.public_key())
    return NoteSignature(name=name, hint=plain.hint, signature=private.sign(text.encode()))


def cosign(text: str, name: str, private: ed25519.Ed25519PrivateKey, now: datetime) -> NoteSignature:
    """Return the line with which the witness ``name`` says that it saw ``text`` at ``now``."""
    seconds = int(now.timestamp())
    key = NoteKey(name=name, kind=Kind.COSIGNATURE, public=private.public_key())
    signature = seconds.to_bytes(_STAMP_BYTES, "big") + private.sign(_cosigned(text, seconds))
    return NoteSignature(name=name, hint=key.hint, signature=signature)


def verify(note: SignedNote, key: NoteKey) -> None:
    """Check that ``key`` signed ``note``; every line that is ``key``'s must hold.

    Raises:
        NotGenuine: ``log.checkpoint``.
    """
    _lines_of(note, key)


def cosigned_at(note: SignedNote, key: NoteKey) -> datetime:
    """Return when the witness ``key`` last saw this checkpoint.

    Raises:
        NotGenuine: ``log.checkpoint``: it did not, or its line does not hold.
    """
    seconds = max(int.from_bytes(line.signature[:_STAMP_BYTES], "big") for line in _lines_of(note, key))
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise _refuse(key, "a time within the calendar", f"{seconds} seconds") from None


def parse_note(text: str) -> SignedNote:
    """Return the note that ``text`` spells. Every byte of it is read: there are no lines that are skipped.

    Raises:
        Malformed: not a signed note, or a signature line that is not in its one spelling.
    """
    if len(text.encode("utf-8", "replace")) > _MAX_NOTE_BYTES:
        raise Malformed(
            _WHAT, at="note", want=f"at most {_MAX_NOTE_BYTES} bytes", got=f"{len(text)} characters"
        )
    if re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text):
        raise Malformed(_WHAT, at="note", want="no control characters", got=repr(text))
    body, blank, below = text.rpartition("\n\n")
    lines = below.split("\n")
    if not blank or not body or lines[-1] != "" or not 1 < len(lines) <= _MAX_SIGNATURES + 1:
        raise Malformed(_WHAT, at="note", want="a text, a blank line and signature lines", got=repr(text))
    return SignedNote(text=f"{body}\n", signatures=tuple(_parse_line(line) for line in lines[:-1]))


def parse(text: str) -> Checkpoint:
    """Return the checkpoint whose note text is ``text``.

    Raises:
        Malformed: not a checkpoint.
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] != "" or not all(lines[:-1]):
        raise Malformed(_WHAT, at="text", want="origin, size and root hash, each on its line", got=repr(text))
    origin, size, root, *extensions = lines[:-1]
    if re.fullmatch(r"0|[1-9][0-9]{0,18}", size) is None:
        raise Malformed(_WHAT, at="size", want="a decimal number", got=repr(size))
    value = canonical_base64.decode(root, _WHAT, "root hash")
    if len(value) != HASH_BYTES:
        raise Malformed(_WHAT, at="root hash", want=f"{HASH_BYTES} bytes", got=f"{len(value)}")
    return Checkpoint(origin=origin, size=int(size), root=value, extensions=tuple(extensions))


def _parse_line(line: str) -> NoteSignature:
    match = _SIGNATURE_LINE.fullmatch(line)
    if match is None:
        raise Malformed(_WHAT, at="signature line", want="— <name> <base64>", got=repr(line))
    value = canonical_base64.decode(match[2], _WHAT, "signature line")
    if len(value) <= _HINT_BYTES:
        raise Malformed(
            _WHAT, at="signature line", want="a key ID and a signature", got=f"{len(value)} bytes"
        )
    return NoteSignature(name=match[1], hint=value[:_HINT_BYTES], signature=value[_HINT_BYTES:])


def _lines_of(note: SignedNote, key: NoteKey) -> tuple[NoteSignature, ...]:
    """Return the lines that ``key`` signed, all of them verified, at least one."""
    lines = tuple(line for line in note.signatures if line.name == key.name and line.hint == key.hint)
    if not lines:
        raise _refuse(key, "a signature by this key", _names(note.signatures))
    for line in lines:
        try:
            _verify_line(note.text, line, key)
        except (InvalidSignature, ValueError):
            raise _refuse(key, "a signature that holds", "one that does not") from None
    return lines


def _verify_line(text: str, line: NoteSignature, key: NoteKey) -> None:
    match key.public:
        case ec.EllipticCurvePublicKey():
            key.public.verify(line.signature, text.encode(), ec.ECDSA(hashes.SHA256()))
        case ed25519.Ed25519PublicKey() if key.kind is Kind.COSIGNATURE:
            stamp, signature = line.signature[:_STAMP_BYTES], line.signature[_STAMP_BYTES:]
            key.public.verify(signature, _cosigned(text, int.from_bytes(stamp, "big")))
        case _:
            key.public.verify(line.signature, text.encode())


def _cosigned(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _names(lines: Iterable[NoteSignature]) -> str:
    return ", ".join(f"{line.name} {line.hint.hex()}" for line in lines)


def _refuse(key: NoteKey, want: str, got: str) -> NotGenuine:
    finding = Finding("log.checkpoint", f"checkpoint signature of {key.name} {key.hint.hex()}", want, got)
    return NotGenuine(f"transparency log: {finding.message}", findings=[finding])
