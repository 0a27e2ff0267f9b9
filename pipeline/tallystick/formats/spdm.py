"""SPDM 1.1: a GET_MEASUREMENTS request with its MEASUREMENTS response, as NVIDIA's attestation reports carry them.

Source: DMTF DSP0274 1.1.1, 10.11 (GET_MEASUREMENTS, MEASUREMENTS, the measurement block and the DMTF measurement
value), 10.11.2 for what the signature covers: here L1/L2 is this one request and its response without the signature.
The order "request, response" and the type-length-value form of the opaque data are NVIDIA's (attestation-sdk,
spdm/spdm_resp.cpp and spdm/spdm_opaque_data_parser.cpp).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats.cursor import Cursor

NONCE_BYTES = 32
SIGNATURE_BYTES = 96  # ECDSA on P-384: r and s, big-endian, 48 bytes each
MAX_BYTES = 1 << 17  # a 16-bit opaque length and 255 blocks of a digest stay far below
_WHAT = "SPDM report"
_RECORD = "SPDM MeasurementRecord"
_OPAQUE = "SPDM OpaqueData"
# Index, MeasurementSpecification, MeasurementSize; DMTFSpecMeasurementValueType, DMTFSpecMeasurementValueSize
_BLOCK = struct.Struct("<BBHBH")
_VALUE_HEADER_BYTES = 3
_FIELD = struct.Struct("<HH")  # NVIDIA's DataType, DataSize
_VERSION_1_1 = 0x11
_GET_MEASUREMENTS = 0xE0
_MEASUREMENTS = 0x60
_SIGNATURE_REQUESTED = 1  # Param1, bit 0 of the request
_DMTF = 1  # MeasurementSpecification, bit 0
_MAX_TRAILING_ZEROS = 16  # some attesters send their buffer's terminator along


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A signed exchange, field by field. Whether it is genuine is not asked here."""

    nonce: bytes  # the requester's, 32 bytes: what makes the report fresh
    operation: int  # Param2 of the request: 0xff asks for every measurement
    slot: int  # SlotIDParam of the request
    response_nonce: bytes
    measurements: Mapping[int, bytes]  # by index, 1 to 254, in the order of the record
    opaque: tuple[tuple[int, bytes], ...]  # type and data, in the order of the report
    signed: bytes
    signature: bytes  # r and s


def parse(data: bytes) -> Report:
    """Return the exchange in ``data``: request, response, signature.

    Raises:
        Malformed: a length, a code or an index that can not be.
        Unsupported: another SPDM version or measurement specification.
    """
    if len(data) > MAX_BYTES:
        raise Malformed(_WHAT, at="size", want=f"at most {MAX_BYTES} bytes", got=str(len(data)))
    cursor = Cursor(data, _WHAT)
    nonce, operation, slot = _request(cursor)
    _header(cursor, "response", _MEASUREMENTS)
    cursor.take("response Param1", 1)
    cursor.take("response Param2", 1)
    blocks = cursor.little("NumberOfBlocks", 1)
    record = cursor.take("MeasurementRecord", cursor.little("MeasurementRecordLength", 3))
    response_nonce = cursor.take("response Nonce", NONCE_BYTES)
    opaque = cursor.take("OpaqueData", cursor.little("OpaqueLength", 2))
    signed = data[: cursor.at]
    signature = cursor.take("Signature", SIGNATURE_BYTES)
    rest = cursor.rest()
    if any(rest) or len(rest) > _MAX_TRAILING_ZEROS:
        raise Malformed(_WHAT, at="end", want="no more bytes", got=f"{len(rest)} bytes")
    return Report(
        nonce=nonce,
        operation=operation,
        slot=slot,
        response_nonce=response_nonce,
        measurements=_record(record, blocks),
        opaque=_opaque(opaque),
        signed=signed,
        signature=signature,
    )


def _request(cursor: Cursor) -> tuple[bytes, int, int]:
    _header(cursor, "request", _GET_MEASUREMENTS)
    if not cursor.little("request Param1", 1) & _SIGNATURE_REQUESTED:
        raise cursor.bad("request Param1", want="a request for a signature", got="none asked for")
    operation = cursor.little("request Param2", 1)
    return cursor.take("Nonce", NONCE_BYTES), operation, cursor.little("SlotIDParam", 1)


def _header(cursor: Cursor, which: str, code: int) -> None:
    version = cursor.little(f"{which} SPDMVersion", 1)
    if version != _VERSION_1_1:
        raise Unsupported(_WHAT, at=f"{which} SPDMVersion", want="0x11 (SPDM 1.1)", got=f"{version:#04x}")
    got = cursor.little(f"{which} RequestResponseCode", 1)
    if got != code:
        raise cursor.bad(f"{which} RequestResponseCode", want=f"{code:#04x}", got=f"{got:#04x}")


def _record(record: bytes, blocks: int) -> dict[int, bytes]:
    """Return the values by index; every byte of the record belongs to a block, and no index comes twice.

    DMTFSpecMeasurementValueType says what was measured and is left to who knows the device.
    """
    found: dict[int, bytes] = {}
    at, end = 0, len(record)
    unpack, header = _BLOCK.unpack_from, _BLOCK.size
    for _ in range(blocks):
        start = at + header
        if start > end:
            raise _bad_block(at, "a measurement block", f"{end - at} bytes left")
        index, specification, size, _value_type, value_size = unpack(record, at)
        if index in found or not 0 < index < 0xFF:
            raise _bad_block(at, "an Index of 1 to 254, each once", str(index))
        if specification != _DMTF:
            raise Unsupported(
                _RECORD, at=f"block {index}", want="DMTF measurements", got=f"{specification:#04x}"
            )
        at = start + value_size
        if size != value_size + _VALUE_HEADER_BYTES or at > end:
            got = f"{size} and {value_size}, {end - start} bytes left"
            want = "MeasurementSize of DMTFSpecMeasurementValueSize and 3"
            raise _bad_block(start - header, want, got)
        found[index] = record[start:at]
    if at != end:
        raise _bad_block(at, "no more bytes", f"{end - at} bytes")
    return found


def _bad_block(at: int, want: str, got: str) -> Malformed:
    return Malformed(_RECORD, at=f"offset {at}", want=want, got=got)


def _opaque(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """Return NVIDIA's fields: a 16-bit type, a 16-bit size and the data, each type once."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        if at + _FIELD.size > len(data):
            raise Malformed(
                _OPAQUE, at=f"offset {at}", want="DataType and DataSize", got=f"{len(data) - at} bytes"
            )
        kind, size = _FIELD.unpack_from(data, at)
        at += _FIELD.size
        if kind in found:
            raise Malformed(_OPAQUE, at=f"offset {at}", want="each DataType once", got=str(kind))
        if at + size > len(data):
            raise Malformed(_OPAQUE, at=f"type {kind}", want=f"{size} bytes", got=f"{len(data) - at} left")
        found[kind] = data[at : at + size]
        at += size
    return tuple(found.items())
