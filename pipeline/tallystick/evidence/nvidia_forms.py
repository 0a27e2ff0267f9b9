"""The forms that NVIDIA's evidence travels in, read into one record per device. Nothing here is verified.

- NVIDIA's attestation SDK: a list of {"arch", "nonce", "evidence", "certificate"}, the last two in base64.
- The same objects in Trustee's {"device_evidence_list": […]} (there "evidence" may be hex, and "uuid" is told), in the
  remote attestation service's {"nonce", "arch", "evidence_list": […]}, or one object alone.
- The report alone: bytes, hex or base64. Its certificate chain is then among the endorsements.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed
from tallystick.formats import canonical_base64, spdm

_WHAT = "NVIDIA evidence"
_LISTS = ("device_evidence_list", "evidence_list")
_HEX_DIGITS = "0123456789abcdefABCDEF"
_NONCE = re.compile(r"[0-9a-fA-F]{64}")
_REPORT_START = b"\x11\xe0"  # SPDM 1.1, GET_MEASUREMENTS
MAX_DEVICES = 64
MAX_CHAIN_BYTES = 64 << 10
_MAX_JSON_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device's evidence, as it was sent."""

    report: bytes
    chain: bytes | None  # PEM, leaf first; None when it comes as an endorsement
    arch: str | None = None  # what the sender calls it: "HOPPER"
    nonce: bytes | None = None  # what the sender says it asked with
    uuid: str | None = None


def parse(data: bytes) -> tuple[Device, ...]:
    """Return the devices in ``data``, in the order they came.

    Raises:
        Malformed: none of the forms.
    """
    if data.startswith(_REPORT_START):
        return (Device(report=data, chain=None),)
    text = data.strip()
    if text[:1] in (b"{", b"["):
        return from_document(jsondoc.loads(data, _WHAT, max_bytes=_MAX_JSON_BYTES))
    if len(text) > 2 * spdm.MAX_BYTES:
        raise Malformed(_WHAT, at="size", want=f"at most {2 * spdm.MAX_BYTES} characters", got=str(len(text)))
    try:
        return (Device(report=_report("".join(text.decode("ascii").split()), "report"), chain=None),)
    except UnicodeDecodeError:
        raise Malformed(
            _WHAT, at="start", want="JSON, hex or an SPDM 1.1 report", got=data[:8].hex()
        ) from None


def from_document(document: Any) -> tuple[Device, ...]:
    """Return the devices in a JSON value of one of the forms.

    Raises:
        Malformed: none of them, no device, or more than ``MAX_DEVICES``.
    """
    entries: Any = document
    common: dict[str, Any] = {}
    if isinstance(document, Mapping):
        name = next((name for name in _LISTS if name in document), None)
        entries = [document] if name is None else document[name]
        common = {} if name is None else {key: document[key] for key in ("arch", "nonce") if key in document}
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_DEVICES:
        got = len(entries) if isinstance(entries, list) else type(entries).__name__
        raise Malformed(_WHAT, at="devices", want=f"1 to {MAX_DEVICES}", got=str(got))
    return tuple(_device(entry, common, number) for number, entry in enumerate(entries))


def _device(entry: Any, common: Mapping[str, Any], number: int) -> Device:
    where = f"device {number}"
    if not isinstance(entry, Mapping):
        raise Malformed(_WHAT, at=where, want="an object", got=type(entry).__name__)
    fields = {**common, **entry}
    for name in ("evidence", "certificate", "arch", "nonce", "uuid"):
        if not isinstance(fields.get(name, ""), str):
            raise Malformed(_WHAT, at=f"{where} {name}", want="a text", got=type(fields[name]).__name__)
    chain = _chain(fields.get("certificate"), f"{where} certificate")
    if len(chain) > MAX_CHAIN_BYTES:
        raise Malformed(
            _WHAT, at=f"{where} certificate", want=f"at most {MAX_CHAIN_BYTES} bytes", got=str(len(chain))
        )
    nonce = fields.get("nonce")
    if nonce is not None and not _NONCE.fullmatch(nonce):
        raise Malformed(_WHAT, at=f"{where} nonce", want="32 bytes in hex", got=nonce)
    return Device(
        report=_report(fields.get("evidence"), f"{where} evidence"),
        chain=chain,
        arch=fields.get("arch"),
        nonce=None if nonce is None else bytes.fromhex(nonce),
        uuid=fields.get("uuid"),
    )


@lru_cache(maxsize=256)
def _chain(text: str | None, where: str) -> bytes:
    """Return the bytes of a chain that comes with every report of its device."""
    return canonical_base64.decode(text, _WHAT, where)


def _report(text: object, where: str) -> bytes:
    """Return the report that ``text`` spells: in hex when it can be hex, as Trustee reads it; else in base64."""
    if isinstance(text, str) and text and len(text) % 2 == 0 and not text.strip(_HEX_DIGITS):
        return bytes.fromhex(text)
    return canonical_base64.decode(text, _WHAT, where)
