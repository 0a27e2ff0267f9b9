"""The firmware identity (FWID) that a device's boot ROM writes into the certificate of the key it derives.

Source: Microsoft, "Device Identifier Composition Engine (DICE) and Robust Internet-of-Things (RIoT)", the RIoT
extension 2.23.133.5.4.1, which NVIDIA's GH100 and LS10 use; TCG "DICE Attestation Architecture" 1.1, 6.1.1
(2.23.133.5.4.1.1, DiceTcbInfo, its ``fwids``), which GB100 uses; X.690 for DER.
"""

from __future__ import annotations

from tallystick.core.errors import Malformed, Unsupported

COMPOSITE_DEVICE_ID = "2.23.133.5.4.1"
TCB_INFO = "2.23.133.5.4.1.1"
_SHA384 = bytes.fromhex("0609608648016503040202")  # OBJECT IDENTIFIER 2.16.840.1.101.3.4.2.2, in DER
_SEQUENCE, _INTEGER, _OCTET_STRING, _OBJECT = 0x30, 0x02, 0x04, 0x06
_FWIDS = 0xA6  # [6] IMPLICIT FWIDLIST
_DIGEST_BYTES = 48


def fwid(oid: str, extension: bytes) -> bytes:
    """Return the SHA-384 of the first firmware layer in the extension ``oid``.

    Args:
        extension: the extension's value, DER.

    Raises:
        Malformed: not that structure.
        Unsupported: another extension, or another hash than SHA-384.
    """
    what = f"certificate extension {oid}"
    (body,) = _exactly(_elements(extension, what), (_SEQUENCE,), what)
    if oid == COMPOSITE_DEVICE_ID:  # version, deviceID SubjectPublicKeyInfo, FWID
        return _digest(_exactly(_elements(body, what), (_INTEGER, _SEQUENCE, _SEQUENCE), what)[2], what)
    if oid == TCB_INFO:
        lists = [value for tag, value in _elements(body, what) if tag == _FWIDS]
        if len(lists) != 1:
            raise Malformed(what, at="fwids", want="one list", got=str(len(lists)))
        layers = _elements(lists[0], what)
        if not layers or any(tag != _SEQUENCE for tag, _ in layers):
            raise Malformed(what, at="fwids", want="at least one FWID", got=f"{len(layers)} elements")
        return _digest(layers[0][1], what)
    raise Unsupported("certificate", at="extension", want="a DICE extension with a FWID", got=oid)


def _digest(body: bytes, what: str) -> bytes:
    """FWID ::= SEQUENCE { hashAlg OBJECT IDENTIFIER, digest OCTET STRING }."""
    algorithm, digest = _exactly(_elements(body, what), (_OBJECT, _OCTET_STRING), what)
    if algorithm != _SHA384[2:]:
        raise Unsupported(what, at="hashAlg", want="SHA-384", got=algorithm.hex())
    if len(digest) != _DIGEST_BYTES:
        raise Malformed(what, at="digest", want=f"{_DIGEST_BYTES} bytes", got=str(len(digest)))
    return digest


def _exactly(elements: list[tuple[int, bytes]], tags: tuple[int, ...], what: str) -> list[bytes]:
    if tuple(tag for tag, _ in elements) != tags:
        want, got = (" ".join(f"{tag:#04x}" for tag in t) for t in (tags, [tag for tag, _ in elements]))
        raise Malformed(what, at="DER tags", want=want, got=got or "none")
    return [value for _, value in elements]


def _elements(data: bytes, what: str) -> list[tuple[int, bytes]]:
    """Return (tag, contents) of each element in ``data``: single-byte tags, definite and shortest lengths."""
    found = []
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise Malformed(what, at=f"DER offset {at}", want="a tag and a length", got="the end")
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count], "big")
            if not 1 <= count <= 2 or size < 0x80 or (count == 2 and size < 0x100):
                raise Malformed(what, at=f"DER offset {at}", want="a shortest length", got=f"{count} bytes")
            at += count
        if at + size > len(data):
            raise Malformed(what, at=f"DER offset {at}", want=f"{size} bytes", got=f"{len(data) - at} left")
        found.append((tag, data[at : at + size]))
        at += size
    return found
