"""COSE_Sign1 messages and the strict CBOR that attestation evidence is made of.

Source: RFC 9052, 4.2 and 4.4; RFC 9053, 2.1 for the algorithms; RFC 8949, 4.2.1 for what is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import cbor2

from tallystick.core.errors import Malformed, Unsupported

SIGN1_TAG = 18
# COSE algorithm -> (hash, size of r and of s in bytes)
ECDSA = {-7: ("sha256", 32), -35: ("sha384", 48), -36: ("sha512", 66)}
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Sign1:
    """A COSE_Sign1 message: what is signed, by which algorithm, and the signature."""

    algorithm: int
    protected: bytes
    unprotected: dict[Any, Any]
    payload: bytes
    signature: bytes

    def to_be_signed(self, external: bytes = b"") -> bytes:
        """Return the Sig_structure that the signature covers."""
        return cbor2.dumps(["Signature1", self.protected, external, self.payload])


class Lengths(Enum):
    """Whether maps and arrays may leave their length open. Strings never may."""

    DEFINITE = "definite"
    ANY = "any"  # AWS's hypervisors have written an open-ended top-level map since 2025


def loads(data: bytes, what: str, lengths: Lengths = Lengths.DEFINITE) -> Any:
    """Return the value of CBOR that has one reading alone.

    Refused, beside what is not CBOR: trailing bytes, numbers longer than they need to be, a map key twice, strings in
    pieces, nesting past 16 levels and, unless asked for, open-ended maps and arrays.

    Raises:
        Malformed: any of these, with its offset.
    """
    if len(data) > _MAX_BYTES:
        raise Malformed(what, at="size", want=f"at most {_MAX_BYTES} bytes", got=f"{len(data)}")
    end = _Walk(data, what, lengths).item(0, 0)
    if end != len(data):
        raise Malformed(
            what, at=f"CBOR at offset {end}", want="no more bytes", got=f"{len(data) - end} bytes"
        )
    try:
        return cbor2.loads(data)
    except Exception as error:  # cbor2 raises whatever a tag's decoder raises
        raise Malformed(what, at="CBOR", want="well-formed CBOR", got=type(error).__name__) from None


class _Walk:
    """Walks CBOR's structure (RFC 8949, 3) to see that it has one reading; cbor2 then makes the value."""

    def __init__(self, data: bytes, what: str, lengths: Lengths) -> None:
        self._data, self._what, self._open_allowed = data, what, lengths is Lengths.ANY

    def item(self, at: int, depth: int) -> int:
        """Check the item at ``at``; return the offset after it."""
        if depth > _MAX_DEPTH:
            raise self._bad(at, f"at most {_MAX_DEPTH} levels", "more")
        major, number, end, is_open = self._head(at)
        if is_open and (not self._open_allowed or major not in (4, 5)):
            raise self._bad(at, "a definite length", "an open one")
        if major in (2, 3):
            if end + number > len(self._data):
                raise self._bad(at, f"{number} bytes", f"{len(self._data) - end} left")
            return end + number
        if major == 6:
            return self.item(end, depth + 1)
        if major in (4, 5):
            return self._items(end, depth + 1, None if is_open else number, is_map=major == 5)
        return end

    def _items(self, at: int, depth: int, count: int | None, *, is_map: bool) -> int:
        keys: set[bytes] = set()
        done = 0
        while count is None or done < count:
            if count is None and self._data[at : at + 1] == b"\xff":
                return at + 1
            end = self.item(at, depth)
            if is_map:
                key = self._data[at:end]
                if key in keys:
                    raise self._bad(at, "each key once", "a duplicate key")
                keys.add(key)
                end = self.item(end, depth)
            at, done = end, done + 1
        return at

    def _head(self, at: int) -> tuple[int, int, int, bool]:
        """Return (major type, argument, offset after the head, whether the length is open)."""
        if at >= len(self._data):
            raise self._bad(at, "an item", "the end")
        major, short = self._data[at] >> 5, self._data[at] & 31
        if short < 24:
            return major, short, at + 1, False
        if short == 31:
            return major, 0, at + 1, True
        size = {24: 1, 25: 2, 26: 4, 27: 8}.get(short, 0)
        raw = self._data[at + 1 : at + 1 + size]
        if size == 0 or len(raw) < size:
            raise self._bad(at, "a head that RFC 8949 defines", hex(self._data[at]))
        number = int.from_bytes(raw, "big")
        least = {1: 24, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}[size]
        if major != 7 and number < least:
            raise self._bad(at, "the shortest form of a number", f"{number} in {size} bytes")
        return major, number, at + 1 + size, False

    def _bad(self, at: int, want: str, got: str) -> Malformed:
        return Malformed(self._what, at=f"CBOR at offset {at}", want=want, got=got)


def parse_sign1(data: bytes, what: str) -> Sign1:
    """Return the COSE_Sign1 in ``data``, tagged or not.

    Raises:
        Malformed: another structure.
        Unsupported: an algorithm other than ECDSA with SHA-2, or critical headers.
    """
    value = loads(data, what)
    if isinstance(value, cbor2.CBORTag):
        if value.tag != SIGN1_TAG:
            raise Malformed(what, at="CBOR tag", want=f"{SIGN1_TAG} (COSE_Sign1)", got=str(value.tag))
        value = value.value
    return sign1_of(value, what)


def sign1_of(value: Any, what: str) -> Sign1:
    """Return the COSE_Sign1 that the decoded ``value`` is."""
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        raise Malformed(what, at="COSE_Sign1", want="an array of four", got=type(value).__name__)
    protected, unprotected, payload, signature = value
    unprotected = {} if unprotected is None else unprotected  # some writers put null; nothing here reads it
    if not all(isinstance(part, bytes) for part in (protected, payload, signature)) or not hasattr(
        unprotected, "get"
    ):
        raise Malformed(what, at="COSE_Sign1", want="bytes, a map, bytes, bytes", got="other types")
    header = loads(protected, f"{what} protected header") if protected else {}
    if not hasattr(header, "get"):
        raise Malformed(what, at="protected header", want="a map", got=type(header).__name__)
    algorithm = header.get(1)
    if algorithm not in ECDSA or isinstance(algorithm, bool):
        raise Unsupported(what, at="COSE algorithm", want="ES256, ES384 or ES512", got=str(algorithm))
    if 2 in header:
        raise Unsupported(what, at="COSE critical headers", want="none", got=str(header[2]))
    if len(signature) != 2 * ECDSA[algorithm][1]:
        raise Malformed(
            what, at="signature", want=f"{2 * ECDSA[algorithm][1]} bytes", got=f"{len(signature)}"
        )
    return Sign1(algorithm, protected, dict(unprotected), payload, signature)


def cbor_map(data: bytes, what: str, lengths: Lengths = Lengths.DEFINITE) -> dict[Any, Any]:
    """Return the map in ``data``, or raise Malformed."""
    value = loads(data, what, lengths)
    if not hasattr(value, "items"):
        raise Malformed(what, at="CBOR", want="a map", got=type(value).__name__)
    return dict(value)
