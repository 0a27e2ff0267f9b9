"""The forms that quotes of a TPM travel in, read into one record. Nothing here is verified.

- JSON: Trustee's ``tpm`` evidence (deps/verifier/src/tpm/mod.rs), and our documented extension of it:
  ``event_log``, ``ak_certificate``, ``ak_certificate_chain`` and ``ak_public_area``, all base64.
- Protocol buffers: go-tpm-tools' ``attest.Attestation`` (proto/attest.proto), as ``gotpm attest`` writes it.
- Text: Keylime's quote (``r`` and three base64 parts with colons: message, signature, and tpm2-tools' PCR file).
- Files: what ``tpm2_quote`` writes. The message is the evidence, signature and PCR file are beside it (:func:`joined`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import canonical_base64
from tallystick.formats.cursor import Cursor

_WHAT = "TPM evidence"
MAX_BYTES = 32 << 20
_MAX_LINKS = 3  # intermediate certificates that evidence may bring; bounds the search for a chain
_SHA256 = 0x000B
_PCRS, _DIGEST_BYTES = 24, 32
MESSAGE_START = b"\xffTCG"  # TPMS_ATTEST's magic
_SIGNATURE_STARTS = (b"\x00\x14", b"\x00\x16", b"\x00\x18")  # TPMT_SIGNATURE: RSASSA, RSAPSS, ECDSA
_PCR_FILE_BYTES = tuple(136 + lists * 532 for lists in range(1, 5))  # tpm2-tools' C structures


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmEvidence:
    """A quote and what came with it."""

    message: bytes  # TPMS_ATTEST
    signature: bytes  # TPMT_SIGNATURE
    pcrs: tuple[tuple[int, bytes], ...]  # SHA-256 bank: (register, value), in the order they were given
    event_log: bytes | None = None
    key_spki: bytes | None = None  # DER
    key_area: bytes | None = None  # TPMT_PUBLIC
    certificate: bytes | None = None  # DER, of the attestation key
    links: tuple[bytes, ...] = ()  # DER, intermediate certificates


def parse(data: bytes) -> TpmEvidence:
    """Return the evidence in ``data``, whichever of the three forms it has.

    Raises:
        Malformed: none of them, or a field that breaks its form.
        Unsupported: no quote over the SHA-256 bank.
    """
    if len(data) > MAX_BYTES:
        raise Malformed(_WHAT, at="size", want=f"at most {MAX_BYTES} bytes", got=f"{len(data)}")
    start = data.lstrip()[:1]
    if start == b"{":
        found = _from_json(jsondoc.loads(data, _WHAT))
    elif start == b"r":
        found = _from_keylime(data)
    else:
        found = _from_protobuf(data)
    for register, value in found.pcrs:
        if register >= _PCRS or len(value) != _DIGEST_BYTES:
            want = f"a register below {_PCRS} and {_DIGEST_BYTES} bytes"
            raise Malformed(_WHAT, at=f"PCR {register}", want=want, got=f"{len(value)} bytes")
    return found


def _from_json(value: Any) -> TpmEvidence:
    fields = _object(value, "evidence")
    quote = _object(fields.get("tpm_quote"), "tpm_quote")
    listed = quote.get("pcrs")
    if not isinstance(listed, list) or not 1 <= len(listed) <= _PCRS:
        raise Malformed(_WHAT, at="tpm_quote.pcrs", want=f"1 to {_PCRS} values", got=type(listed).__name__)
    links = fields.get("ak_certificate_chain", [])
    if not isinstance(links, list) or len(links) > _MAX_LINKS:
        raise Malformed(
            _WHAT, at="ak_certificate_chain", want=f"at most {_MAX_LINKS} certificates", got=repr(links)
        )
    return TpmEvidence(
        message=canonical_base64.decode(quote.get("message"), _WHAT, "tpm_quote.message"),
        signature=canonical_base64.decode(quote.get("signature"), _WHAT, "tpm_quote.signature"),
        pcrs=tuple((number, _hex(text, f"tpm_quote.pcrs[{number}]")) for number, text in enumerate(listed)),
        event_log=_optional(fields, "event_log"),
        key_spki=_optional(fields, "ak_public"),
        key_area=_optional(fields, "ak_public_area"),
        certificate=_optional(fields, "ak_certificate"),
        links=tuple(
            canonical_base64.decode(link, _WHAT, f"ak_certificate_chain[{index}]")
            for index, link in enumerate(links)
        ),
    )


def _object(value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(_WHAT, at=at, want="an object", got=type(value).__name__)
    return value


def _optional(fields: dict[str, Any], name: str) -> bytes | None:
    return None if fields.get(name) is None else canonical_base64.decode(fields[name], _WHAT, name)


def _hex(text: Any, at: str) -> bytes:
    if not isinstance(text, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise Malformed(_WHAT, at=at, want="64 hex digits", got=repr(text))
    return bytes.fromhex(text)


# attest.Attestation and tpm.Quote, PCRs and its map entries: field number -> name
_AK_PUB, _QUOTES, _EVENT_LOG, _AK_CERT, _LINKS = 1, 2, 3, 6, 7


def _from_protobuf(data: bytes) -> TpmEvidence:
    fields: dict[int, list[bytes]] = {}
    for number, value in _wire(data):
        if isinstance(value, bytes):
            fields.setdefault(number, []).append(value)
    if len(fields.get(_LINKS, [])) > _MAX_LINKS:
        raise Malformed(_WHAT, at="intermediate_certs", want=f"at most {_MAX_LINKS}", got="more")
    for quote in fields.get(_QUOTES, []):
        parts = _bytes_fields(quote, "quotes")
        bank, pcrs = _pcrs_message(parts.get(3, b""))
        if bank == _SHA256:
            return TpmEvidence(
                message=parts.get(1, b""),
                signature=parts.get(2, b""),
                pcrs=pcrs,
                event_log=_last(fields, _EVENT_LOG),
                key_area=_last(fields, _AK_PUB),
                certificate=_last(fields, _AK_CERT),
                links=tuple(fields.get(_LINKS, ())),
            )
    raise Unsupported(
        _WHAT, at="quotes", want="one over the SHA-256 bank", got=f"{len(fields.get(_QUOTES, []))} others"
    )


def _last(fields: Mapping[int, list[bytes]], number: int) -> bytes | None:
    """Return the value of a field that is not repeated: protocol buffers let the last one win."""
    return (fields.get(number) or [b""])[-1] or None


def _bytes_fields(data: bytes, at: str) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for number, value in _wire(data):
        if number in found:
            raise Malformed(_WHAT, at=f"{at}.{number}", want="one value", got="another")
        if isinstance(value, bytes):
            found[number] = value
    return found


def _pcrs_message(data: bytes) -> tuple[int, tuple[tuple[int, bytes], ...]]:
    """Return the bank and the registers of a tpm.PCRs message, in rising order (a map has none)."""
    bank, pcrs = 0, {}
    for number, value in _wire(data):
        if number == 1 and isinstance(value, int):
            bank = value
        elif number == 2 and isinstance(value, bytes):
            entry = dict(_wire(value))
            register, digest = entry.get(1, 0), entry.get(2)
            if not isinstance(register, int) or not isinstance(digest, bytes) or register in pcrs:
                raise Malformed(_WHAT, at="quotes.pcrs", want="each register once", got=repr(register))
            pcrs[register] = digest
    return bank, tuple(sorted(pcrs.items()))


def _wire(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Give the fields of one protocol buffers message: (number, value). Groups are not read."""
    reader = Cursor(data, _WHAT)
    while reader.left:
        key = _varint(reader)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise reader.bad("field number", want="at least 1", got="0")
        if kind == 0:
            yield number, _varint(reader)
        elif kind == 2:
            yield number, reader.take(f"field {number}", _varint(reader))
        elif kind in (1, 5):
            yield number, reader.take(f"field {number}", 8 if kind == 1 else 4)
        else:
            raise reader.bad("wire type", want="0, 1, 2 or 5", got=f"{kind}")


def _varint(reader: Cursor) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = reader.little("varint", 1)
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            if value >= 1 << 64:
                break
            return value
    raise reader.bad("varint", want="at most 64 bits", got="more")


def joined(message: bytes, files: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """Return a quote in one piece, in Keylime's form, and the files that were no part of it.

    Args:
        message: TPMS_ATTEST, as ``tpm2_quote --message`` writes it.
        files: its ``--signature`` and ``--pcr`` files among endorsements.

    Raises:
        Malformed: one of the two is missing, or there twice.
    """
    found: dict[str, bytes] = {}
    others: list[bytes] = []
    for data in files:
        name = (
            "signature" if data[:2] in _SIGNATURE_STARTS else "PCRs" if len(data) in _PCR_FILE_BYTES else ""
        )
        if not name:
            others.append(data)
        elif name in found:
            raise Malformed(_WHAT, at=name, want="one file", got="two")
        else:
            found[name] = data
    if len(found) != 2:
        got = ", ".join(found) or "neither"
        raise Malformed(_WHAT, at="files beside the message", want="its signature and its PCR file", got=got)
    parts = (message, found["signature"], found["PCRs"])
    return b"r" + b":".join(canonical_base64.encode(part).encode() for part in parts), others


def _from_keylime(data: bytes) -> TpmEvidence:
    try:
        parts = data.decode("ascii").strip()[1:].split(":")
    except UnicodeDecodeError:
        raise Malformed(_WHAT, at="text", want="ASCII", got="other bytes") from None
    if len(parts) != 3:
        raise Malformed(_WHAT, at="text", want="r and three parts with colons", got=f"{len(parts)} parts")
    message, signature, pcrs = (
        canonical_base64.decode(part, _WHAT, name)
        for part, name in zip(parts, ("message", "signature", "PCRs"), strict=True)
    )
    return TpmEvidence(message=message, signature=signature, pcrs=_tools_pcrs(pcrs))


def _tools_pcrs(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """Return the registers of a PCR file as tpm2-tools writes it: C structures of a little-endian machine.

    TPML_PCR_SELECTION (a count, 16 selections of 8 bytes with padding), then a count of TPML_DIGEST, each a
    count and 8 times two bytes of size and 64 of value.
    """
    reader = Cursor(data, _WHAT)
    count = reader.little("PCRs selections", 4)
    selections = [
        (reader.little("PCRs hash", 2), reader.take("PCRs sizeofSelect, pcrSelect", 6)) for _ in range(16)
    ]
    if count != 1 or selections[0][0] != _SHA256:
        raise Unsupported(_WHAT, at="PCRs", want="one selection, of the SHA-256 bank", got=f"{count}")
    size = min(selections[0][1][0], 4)
    bits = int.from_bytes(selections[0][1][1 : 1 + size], "little")
    registers = [number for number in range(32) if bits >> number & 1]
    values: list[bytes] = []
    for _ in range(_bounded(reader, "PCRs digest lists", 4)):
        used = _bounded(reader, "PCRs digests", 8)
        slots = [(reader.little("PCRs size", 2), reader.take("PCRs buffer", 64)) for _ in range(8)]
        values += [buffer[:length] for length, buffer in slots[:used]]
    reader.end()
    if len(values) != len(registers):
        raise Malformed(_WHAT, at="PCRs", want=f"{len(registers)} values", got=f"{len(values)}")
    return tuple(zip(registers, values, strict=True))


def _bounded(reader: Cursor, field: str, most: int) -> int:
    value = reader.little(field, 4)
    if value > most:
        raise reader.bad(field, want=f"at most {most}", got=f"{value}")
    return value
