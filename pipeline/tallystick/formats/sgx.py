"""Intel SGX: the SGXS stream that an enclave is measured by, and the SIGSTRUCT that its author signs.

Source: Intel SDM Vol. 3D, 38.13 (SIGSTRUCT) and the descriptions of ECREATE, EADD and EEXTEND; fortanix/rust-sgx
doc/SGXS-FORMAT.md for the stream, which is the measured bytes themselves and, beside them, unmeasured chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats.cursor import Cursor

_BLOCK_BYTES = 64
_CHUNK_BYTES = 256
_PAGE_BYTES = 4096
SIGSTRUCT_BYTES = 1808
_HEADER = bytes.fromhex("06000000E10000000000010000000000")
_HEADER2 = bytes.fromhex("01010000600000006000000001000000")


def measured_parts(data: bytes | memoryview) -> Iterator[memoryview]:
    """Return the parts of an SGXS stream that MRENCLAVE covers, in order.

    Raises:
        Malformed: a stream that no processor would build an enclave from: no ECREATE first, a page added twice or
            outside the enclave, a chunk extended before its page, or bytes left over.
        Unsupported: an unsized stream, whose enclave size only its loader decides.
    """
    view, at, pages, size = memoryview(data), 0, set[int](), 0
    while at < len(view):
        block = view[at : at + _BLOCK_BYTES]
        if len(block) < _BLOCK_BYTES:
            raise _bad(at, f"a block of {_BLOCK_BYTES} bytes", f"{len(block)} left")
        tag, offset = bytes(block[:8]), int.from_bytes(block[8:16], "little")
        if (at == 0) != (tag == b"ECREATE\0"):
            if tag == b"UNSIZED\0":
                raise Unsupported("SGXS", at="offset 0", want="ECREATE with a size", got="UNSIZED")
            raise _bad(at, "ECREATE at the start and nowhere else", repr(tag))
        chunk = b"" if tag in (b"ECREATE\0", b"EADD\0\0\0\0") else view[at + 64 : at + 64 + _CHUNK_BYTES]
        if tag == b"ECREATE\0":
            size = int.from_bytes(block[12:20], "little")
            if size < 2 * _PAGE_BYTES or size & (size - 1) or any(block[20:]):
                raise _bad(at, "a size that is a power of two, and zeros after it", hex(size))
        elif tag == b"EADD\0\0\0\0":
            if offset % _PAGE_BYTES or offset >= size or offset in pages:
                raise _bad(at, f"a new page inside {size:#x} bytes", hex(offset))
            pages.add(offset)
        elif tag in (b"EEXTEND\0", b"UNMEASRD"):
            if offset % _CHUNK_BYTES or offset - offset % _PAGE_BYTES not in pages or any(block[16:]):
                raise _bad(at, "a chunk of a page that was added", hex(offset))
            if len(chunk) < _CHUNK_BYTES:
                raise _bad(at + 64, f"{_CHUNK_BYTES} bytes", f"{len(chunk)} left")
        else:
            raise _bad(at, "ECREATE, EADD, EEXTEND or UNMEASRD", repr(tag))
        length = _BLOCK_BYTES + len(chunk)
        if tag != b"UNMEASRD":
            yield view[at : at + length]
        at += length
    if at == 0:
        raise _bad(0, "ECREATE", "an empty stream")


def _bad(at: int, want: str, got: str) -> Malformed:
    return Malformed("SGXS", at=f"offset {at}", want=want, got=got)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigstruct:
    """A SIGSTRUCT's fields; integers are little-endian in the file and plain here."""

    vendor: int
    date: str  # "2015-06-08", as the author wrote it
    modulus: bytes  # 384 bytes, little-endian as in the file: MRSIGNER is their hash
    exponent: int
    signature: bytes  # 384 bytes, little-endian
    attributes: bytes
    attribute_mask: bytes
    enclave_hash: bytes  # ENCLAVEHASH, the author's MRENCLAVE
    isv_prod_id: int
    isv_svn: int
    signed: bytes  # the bytes that the signature covers


def parse_sigstruct(data: bytes) -> Sigstruct:
    """Return the SIGSTRUCT in ``data``; whether its signature holds is not asked here.

    Raises:
        Malformed: not 1,808 bytes, or a fixed field with another value.
    """
    cursor = Cursor(data, "SIGSTRUCT")
    _fixed(cursor, "HEADER", _HEADER)
    vendor, date = cursor.little("VENDOR", 4), cursor.take("DATE", 4)[::-1].hex()
    _fixed(cursor, "HEADER2", _HEADER2)
    cursor.take("SWDEFINED", 4)
    cursor.reserved("reserved", 84)
    modulus, exponent = cursor.take("MODULUS", 384), cursor.little("EXPONENT", 4)
    signature = cursor.take("SIGNATURE", 384)
    cursor.take("MISCSELECT, MISCMASK, CET", 28)
    attributes, mask = cursor.take("ATTRIBUTES", 16), cursor.take("ATTRIBUTEMASK", 16)
    enclave_hash = cursor.take("ENCLAVEHASH", 32)
    cursor.take("reserved, ISVEXTPRODID", 32)
    product, version = cursor.little("ISVPRODID", 2), cursor.little("ISVSVN", 2)
    cursor.reserved("reserved", 12)
    cursor.take("Q1, Q2", 768)
    cursor.end()
    return Sigstruct(
        vendor=vendor,
        date=f"{date[:4]}-{date[4:6]}-{date[6:]}",
        modulus=modulus,
        exponent=exponent,
        signature=signature,
        attributes=attributes,
        attribute_mask=mask,
        enclave_hash=enclave_hash,
        isv_prod_id=product,
        isv_svn=version,
        signed=data[:128] + data[900:1028],
    )


def _fixed(cursor: Cursor, field: str, want: bytes) -> None:
    got = cursor.take(field, len(want))
    if got != want:
        raise cursor.bad(field, want=want.hex(), got=got.hex())
