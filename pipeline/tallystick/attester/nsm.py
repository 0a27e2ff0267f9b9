"""Attestation documents from the Nitro Security Module of an AWS Nitro enclave.

The request and the answer are CBOR of two shapes, written and read here: the measured image holds no CBOR library.

Source: aws/aws-nitro-enclaves-nsm-api, src/driver (the ioctl) and src/api (``Request::Attestation``,
``Response``); Linux, include/uapi/linux/nsm.h; RFC 8949 for CBOR.
"""

from __future__ import annotations

import os
from pathlib import Path

from tallystick.core.errors import Malformed, Refused, Unreachable
from tallystick.handshake.fields import b64

DEVICE = Path("/dev/nsm")
_IOCTL = 0xC020_0A00  # _IOWR(0x0A, 0, struct nsm_message): two iovecs, request and response
_MAX_RESPONSE_BYTES = 0x3000
_MAX_NONCE_BYTES = 512
_WHAT = "NSM response"
_BYTES, _TEXT, _MAP = 2, 3, 5  # RFC 8949, section 3.1: major types


def available(device: Path = DEVICE) -> bool:
    """Say whether this machine has the device."""
    return device.exists()


def document(nonce: bytes, device: Path = DEVICE) -> bytes:
    """Return the attestation document (COSE_Sign1) that holds ``nonce``.

    Raises:
        Unreachable: there is no device, or it does not answer (``nsm.unavailable``).
        Refused: the module refuses (``nsm.refused``).
        Malformed: an answer of another shape.
    """
    if len(nonce) > _MAX_NONCE_BYTES:
        raise ValueError(f"a nonce has at most {_MAX_NONCE_BYTES} bytes, not {len(nonce)}")
    return parse_response(_exchange(request(nonce), device))


def evidence(found: bytes) -> str:
    """Return the ``primary_evidence``: the document in base64."""
    return b64(found)


def request(nonce: bytes) -> bytes:
    """Return the CBOR of ``{"Attestation": {"user_data": null, "nonce": nonce, "public_key": null}}``."""
    null = b"\xf6"
    inner = b"\xa3" + _text("user_data") + null + _text("nonce") + _head(_BYTES, len(nonce)) + nonce
    return b"\xa1" + _text("Attestation") + inner + _text("public_key") + null


def parse_response(data: bytes) -> bytes:
    """Return the document of ``{"Attestation": {"document": bytes}}``.

    Raises:
        Refused: ``{"Error": text}``. Malformed: anything else.
    """
    reader = _Reader(data)
    reader.map_of_one()
    name = reader.text()
    if name == "Error":
        raise Refused(f"the NSM refuses: {reader.text()[:80]}", code="nsm.refused")
    if name != "Attestation":
        raise Malformed(_WHAT, at="kind", want="Attestation", got=name)
    reader.map_of_one()
    if (field := reader.text()) != "document":
        raise Malformed(_WHAT, at="Attestation", want="document", got=field)
    found = reader.string(_BYTES)
    reader.end()
    return found


def _exchange(asked: bytes, device: Path) -> bytes:
    """Return the module's answer to ``asked``."""
    import array
    import fcntl

    sent, answer = array.array("B", asked), array.array("B", bytes(_MAX_RESPONSE_BYTES))
    message = array.array("Q", [*_address(sent), *_address(answer)])
    try:
        handle = os.open(device, os.O_RDWR)
        try:
            fcntl.ioctl(handle, _IOCTL, message)  # writes into the array
        finally:
            os.close(handle)
    except OSError as error:
        raise Unreachable(f"{device}: {error.strerror}", code="nsm.unavailable") from None
    size = message[3]
    if size > _MAX_RESPONSE_BYTES:
        raise Malformed(_WHAT, at="length", want=f"at most {_MAX_RESPONSE_BYTES}", got=f"{size}")
    return answer.tobytes()[:size]


def _address(buffer: object) -> tuple[int, int]:
    address, items = buffer.buffer_info()  # type: ignore[attr-defined]
    return address, items


def _head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes([major << 5 | value])
    if value < 1 << 8:
        return bytes([major << 5 | 24, value])
    return bytes([major << 5 | 25]) + value.to_bytes(2, "big")


def _text(text: str) -> bytes:
    return _head(_TEXT, len(text)) + text.encode("ascii")


class _Reader:
    """Reads the few items that an answer has, one after the other."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def map_of_one(self) -> None:
        if (count := self._length(_MAP)) != 1:
            raise self._bad("a map of one entry", f"{count} entries")

    def text(self) -> str:
        try:
            return self.string(_TEXT).decode("utf-8")
        except UnicodeDecodeError:
            raise self._bad("UTF-8", "other bytes") from None

    def string(self, major: int) -> bytes:
        size = self._length(major)
        return self._take(size)

    def end(self) -> None:
        if self._at != len(self._data):
            raise self._bad("the end", f"{len(self._data) - self._at} more bytes")

    def _length(self, major: int) -> int:
        head = self._take(1)[0]
        if head >> 5 != major:
            raise self._bad(f"major type {major}", f"{head >> 5}")
        small = head & 31
        if small < 24:
            return small
        if small not in (24, 25, 26):
            raise self._bad("a definite length below 2^32", f"additional information {small}")
        return int.from_bytes(self._take(1 << small - 24), "big")

    def _take(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise self._bad(f"{size} bytes", f"{len(self._data) - self._at}")
        found = self._data[self._at : self._at + size]
        self._at += size
        return found

    def _bad(self, want: str, got: str) -> Malformed:
        return Malformed(_WHAT, at=f"offset {self._at}", want=want, got=got)
