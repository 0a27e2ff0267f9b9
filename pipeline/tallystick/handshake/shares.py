"""A key that no single broker can release: k of n shares open it, and each broker keeps one of them.

A random 256-bit key is shared after Shamir, byte by byte over GF(2^8); it seals the secret itself, whatever its size,
with AES-256-GCM. Fewer shares than k say nothing about it. The document beside the shares is no secret: it has the
sealed secret, and a commitment to each share, so that a share that is not the one that was given out is named. It must
come by a way that is trusted, such as measured init-data: whoever replaces it replaces the secret.

Source: A. Shamir, "How to share a secret" (1979); SLIP-0039, "Shamir's secret sharing" (the field, and why it is done
for each byte); NIST SP 800-38D (AES-GCM).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rfc8785

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Unsupported
from tallystick.handshake.fields import Fields, b64
from tallystick.handshake.kbs import check_key

SCHEMA = "tallystick/shared-key/v1"
MAX_SHARES = 16
MAX_SECRET_BYTES = 64 << 10

_WHAT = "shared key"
_MAGIC, _VERSION = b"TALLYSHR", 1
_ID_BYTES, _KEY_BYTES, _NONCE_BYTES, _TAG_BYTES = 16, 32, 12, 16
_SHARE = struct.Struct(f">8sBBB{_ID_BYTES}s{_KEY_BYTES}s")  # magic, version, threshold, number, id, value
_POLYNOMIAL = 0x11B  # x^8 + x^4 + x^3 + x + 1, as in AES (FIPS 197, section 4.2) and SLIP-0039


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Share:
    """One broker's part. Its ``repr`` does not hold it."""

    sharing: bytes  # names the sharing that it is of
    threshold: int
    number: int  # where the polynomial was taken, from 1 on
    value: bytes

    def __repr__(self) -> str:
        return f"Share({self.number}, {self.threshold} needed)"

    def encode(self) -> bytes:
        """Return the share as a broker keeps it."""
        return _SHARE.pack(_MAGIC, _VERSION, self.threshold, self.number, self.sharing, self.value)

    @classmethod
    def parse(cls, data: bytes) -> Share:
        """Return the share in ``data``.

        Raises:
            Malformed: none. Unsupported: another version.
        """
        if len(data) != _SHARE.size or not data.startswith(_MAGIC):
            want = f"{_MAGIC.decode()} and {_SHARE.size} bytes"
            raise Malformed("share", at="header", want=want, got=f"{len(data)} bytes")
        _, version, threshold, number, sharing, value = _SHARE.unpack(data)
        if version != _VERSION:
            raise Unsupported("share", at="version", want=str(_VERSION), got=str(version))
        if not 2 <= threshold <= MAX_SHARES or not 1 <= number <= MAX_SHARES:
            raise Malformed("share", at="numbers", want=f"2 to {MAX_SHARES}", got=f"{threshold}, {number}")
        return cls(sharing=sharing, threshold=threshold, number=number, value=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedKey:
    """What everybody may know of a shared key."""

    key: str  # under which each broker keeps its share
    sharing: bytes
    threshold: int
    commitments: tuple[bytes, ...]  # to the shares, the first one's first
    nonce: bytes
    sealed: bytes

    def head(self) -> dict[str, Any]:
        """Return what is authenticated with the sealed secret."""
        return {
            "schema": SCHEMA,
            "key": self.key,
            "sharing": self.sharing.hex(),
            "threshold": self.threshold,
            "shares": [commitment.hex() for commitment in self.commitments],
        }

    def encode(self) -> bytes:
        """Return the document, in RFC 8785 bytes."""
        return rfc8785.dumps({**self.head(), "nonce": b64(self.nonce), "sealed": b64(self.sealed)})

    @classmethod
    def parse(cls, data: bytes) -> SharedKey:
        """Return the document in ``data``.

        Raises:
            Malformed: none. Unsupported: another schema.
        """
        document = jsondoc.loads(data, _WHAT, max_bytes=4 * MAX_SECRET_BYTES)
        fields = Fields(document, _WHAT)
        if fields.text("schema") != SCHEMA:
            raise Unsupported(_WHAT, at="schema", want=SCHEMA, got=fields.text("schema")[:80])
        if unknown := sorted(set(document) - _MEMBERS):
            raise fields.bad(unknown[0][:40], want="no such field", got="one")
        commitments, threshold = fields.raw("shares"), fields.raw("threshold")
        if not isinstance(commitments, list) or not 2 <= len(commitments) <= MAX_SHARES:
            raise fields.bad("shares", want=f"2 to {MAX_SHARES} commitments", got=type(commitments).__name__)
        if type(threshold) is not int or not 2 <= threshold <= len(commitments):
            raise fields.bad("threshold", want=f"2 to {len(commitments)}", got=str(threshold)[:40])
        found = cls(
            key=check_key(fields.text("key", max_characters=512)),
            sharing=_hex(fields, "sharing", fields.raw("sharing"), _ID_BYTES),
            threshold=threshold,
            commitments=tuple(_hex(fields, "shares", one, 32) for one in commitments),
            nonce=fields.base64("nonce", max_bytes=_NONCE_BYTES),
            sealed=fields.base64("sealed", max_bytes=MAX_SECRET_BYTES + _TAG_BYTES),
        )
        if len(found.nonce) != _NONCE_BYTES or len(found.sealed) <= _TAG_BYTES:
            want = f"{_NONCE_BYTES} bytes, and more than the {_TAG_BYTES} of a tag"
            raise fields.bad("nonce, sealed", want=want, got=f"{len(found.nonce)}, {len(found.sealed)}")
        return found


_MEMBERS = {"schema", "key", "sharing", "threshold", "shares", "nonce", "sealed"}


def split(
    key: str,
    secret: bytes,
    *,
    threshold: int,
    count: int,
    random: Callable[[int], bytes] = os.urandom,
) -> tuple[SharedKey, tuple[Share, ...]]:
    """Return ``secret`` as a shared key, and its shares. Whoever calls this has seen the secret.

    Args:
        threshold: how many shares open it: 2 or more.

    Raises:
        Misuse: numbers that make no sharing (``shares.numbers``).
        Malformed: no secret, or one that is too long.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if not 2 <= threshold <= count <= MAX_SHARES:
        want = f"2 or more of at most {MAX_SHARES}, no more than there are"
        raise Misuse(f"shares: want {want}, got {threshold} of {count}", code="shares.numbers")
    if not 0 < len(secret) <= MAX_SECRET_BYTES:
        raise Malformed(_WHAT, at="secret", want=f"1 to {MAX_SECRET_BYTES} bytes", got=f"{len(secret)}")
    sharing, wrapping = random(_ID_BYTES), random(_KEY_BYTES)
    coefficients = [wrapping, *(random(_KEY_BYTES) for _ in range(threshold - 1))]
    shares = tuple(
        Share(sharing=sharing, threshold=threshold, number=x, value=_evaluated(coefficients, x))
        for x in range(1, count + 1)
    )
    public = SharedKey(
        key=check_key(key),
        sharing=sharing,
        threshold=threshold,
        commitments=tuple(_commitment(share) for share in shares),
        nonce=random(_NONCE_BYTES),
        sealed=b"",
    )
    sealed = AESGCM(wrapping).encrypt(public.nonce, secret, rfc8785.dumps(public.head()))
    return SharedKey.parse(
        rfc8785.dumps({**public.head(), "nonce": b64(public.nonce), "sealed": b64(sealed)})
    ), shares


def accepted(shared: SharedKey, data: bytes) -> Share:
    """Return the share in ``data``, when it is one that was given out for ``shared``.

    Raises:
        NotGenuine: it is not (``share.wrong``). Malformed, Unsupported: it is none at all.
    """
    share = Share.parse(data)
    known = share.number <= len(shared.commitments)
    if not known or not hmac.compare_digest(_commitment(share), shared.commitments[share.number - 1]):
        raise NotGenuine(f"share {share.number} is not the one that was given out", code="share.wrong")
    return share


def combine(shared: SharedKey, shares: Sequence[Share]) -> bytes:
    """Return the secret that enough accepted ``shares`` open.

    Raises:
        Misuse: fewer different ones than the threshold (``shares.few``).
        NotGenuine: a share that was not given out, or a sealed secret that was changed (``shared.altered``).
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    checked = {share.number: accepted(shared, share.encode()) for share in shares}
    if len(checked) < shared.threshold:
        raise Misuse(f"want {shared.threshold} different shares, got {len(checked)}", code="shares.few")
    points = {number: share.value for number, share in sorted(checked.items())[: shared.threshold]}
    try:
        return AESGCM(interpolated(points)).decrypt(shared.nonce, shared.sealed, rfc8785.dumps(shared.head()))
    except InvalidTag:
        raise NotGenuine("the shared key's document was changed", code="shared.altered") from None


def interpolated(points: Mapping[int, bytes]) -> bytes:
    """Return the value at 0 of the polynomials, one for each byte, that go through ``points``."""
    result = bytes(_KEY_BYTES)
    for x, value in points.items():
        weight = 1
        for other in points:
            if other != x:
                weight = _times(weight, _times(other, _inverse(other ^ x)))
        result = bytes(a ^ _times(weight, b) for a, b in zip(result, value, strict=True))
    return result


def _evaluated(coefficients: Sequence[bytes], x: int) -> bytes:
    """Return the polynomials with these coefficients, the constant ones first, at ``x`` (Horner)."""
    result = bytes(_KEY_BYTES)
    for coefficient in reversed(coefficients):
        result = bytes(_times(a, x) ^ b for a, b in zip(result, coefficient, strict=True))
    return result


def _times(a: int, b: int) -> int:
    """Return the product in GF(2^8). The steps do not depend on the values."""
    product = 0
    for _ in range(8):
        product ^= a & -(b & 1)
        a = (a << 1) ^ (_POLYNOMIAL & -(a >> 7))
        b >>= 1
    return product


def _inverse(a: int) -> int:
    """Return the inverse in GF(2^8): a^254."""
    result = 1
    for _ in range(7):
        a = _times(a, a)
        result = _times(result, a)
    return result


def _commitment(share: Share) -> bytes:
    return hashlib.sha256(b"tallystick share v1\0" + share.encode()).digest()


def _hex(fields: Fields, name: str, value: Any, size: int) -> bytes:
    try:
        found = bytes.fromhex(value) if isinstance(value, str) and value == value.lower() else b""
    except ValueError:
        found = b""
    if len(found) != size or found.hex() != value:
        raise fields.bad(name, want=f"{size} bytes in lower-case hex", got=type(value).__name__)
    return found
