"""COSE_Sign1 messages and the strict CBOR that attestation evidence is made of.

Source: RFC 9052, 4.2 and 4.4; RFC 9053, 2.1 for the algorithms; RFC 8949, 4.2.1 for what is refused here.
"""

from __future__ import annotations

from collections.abc import Collection
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
_LEAST = {1: 24, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}  # bytes of an argument -> the least that needs as many
# COSE_Sign1, CCA token, its successor. cbor2 gives other tags meanings of its own: cycles, patterns, dates.
_TAGS = (SIGN1_TAG, 399, 907)


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


def loads(
    data: bytes,
    what: str,
    lengths: Lengths = Lengths.DEFINITE,
    *,
    tags: Collection[int] = _TAGS,
    max_bytes: int = _MAX_BYTES,
) -> Any:
    """Return the value of CBOR that has one reading alone.

    Refused, beside what is not CBOR: trailing bytes, other tags than ``tags``, numbers longer than they need to be, a
    map key twice, strings in pieces, nesting past 16 levels and, unless asked for, open-ended maps and arrays.

    Raises:
        Malformed: any of these, with its offset.
        Unsupported: an unknown tag.
    """
    if len(data) > max_bytes:
        raise Malformed(what, at="size", want=f"at most {max_bytes} bytes", got=f"{len(data)}")
    end = _Walk(data, what, lengths, tags).item(0, 0)
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

    def __init__(self, data: bytes, what: str, lengths: Lengths, tags: Collection[int]) -> None:
        self._data, self._what, self._open_allowed, self._tags = data, what, lengths is Lengths.ANY, tags
        self._size = len(data)

    def item(self, at: int, depth: int) -> int:
        """Check the item at ``at``; return the offset after it."""
        if depth > _MAX_DEPTH:
            raise self._bad(at, f"at most {_MAX_DEPTH} levels", "more")
        if at >= self._size:
            raise self._bad(at, "an item", "the end")
        major, number, end = self._data[at] >> 5, self._data[at] & 31, at + 1
        if number == 24 and end < self._size and self._data[end] >= 24:  # the most common form
            number, end = self._data[end], at + 2
        elif number == 31:
            return self._open(at, major, depth)
        elif number >= 24:
            number, end = self._argument(at, major, number)
        if major < 2 or major == 7:
            return end
        if major < 4:
            if end + number > self._size:
                raise self._bad(at, f"{number} bytes", f"{self._size - end} left")
            return end + number
        if major == 6:
            if number not in self._tags:
                want = "one of " + ", ".join(map(str, self._tags))
                raise Unsupported(self._what, at="CBOR tag", want=want, got=str(number))
            return self.item(end, depth + 1)
        return self._items(end, depth + 1, number, is_map=major == 5)

    def _open(self, at: int, major: int, depth: int) -> int:
        """Check the array or map without a length at ``at``, where these are allowed."""
        if not self._open_allowed or major not in (4, 5):
            raise self._bad(at, "a definite length", "an open one")
        return self._items(at + 1, depth + 1, None, is_map=major == 5)

    def _items(self, at: int, depth: int, count: int | None, *, is_map: bool) -> int:
        keys: set[bytes] = set()
        done = 0
        while count is None or done < count:
            if count is None and self._data[at : at + 1] == b"\xff":
                return at + 1
            first = self._data[at] if at < self._size else 0xFF
            end = at + 1 if first < 24 else self.item(at, depth)
            if is_map:
                if first >= 0xE0:  # True is 1 and 1.0 is 1 where the map is made
                    raise self._bad(at, "a key that is a number or a string", "another")
                key = self._data[at:end]
                if key in keys:
                    raise self._bad(at, "each key once", "a duplicate key")
                keys.add(key)
                end = self.item(end, depth)
            at, done = end, done + 1
        return at

    def _argument(self, at: int, major: int, short: int) -> tuple[int, int]:
        """Return (argument, offset after the head) of a head longer than a byte."""
        size = 1 << (short - 24)
        raw = self._data[at + 1 : at + 1 + size]
        if size > 8 or len(raw) < size:
            raise self._bad(at, "a head that RFC 8949 defines", hex(self._data[at]))
        number = int.from_bytes(raw, "big")
        if major != 7 and number < _LEAST[size]:
            raise self._bad(at, "the shortest form of a number", f"{number} in {size} bytes")
        return number, at + 1 + size

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
