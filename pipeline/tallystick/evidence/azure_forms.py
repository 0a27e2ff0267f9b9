"""The forms that evidence of Azure's confidential VMs travels in, read into one record. Nothing here is verified.

- JSON: Trustee's ``az-snp-vtpm`` and ``az-tdx-vtpm`` evidence, versions 0 (bytes as lists of numbers), 1 and 2
  (base64url and hex; version 2 also promises that the runtime data's user-data is the nonce).
- The HCL report alone, as the vTPM's NV index holds it. The rest (TPM quote, TD quote, certificates) is then among the
  endorsements.

Source: confidential-containers/trustee, deps/verifier/src/az_snp_vtpm/compat.rs and az_tdx_vtpm/compat.rs;
kinvolk/azure-cvm-tooling, az-cvm-vtpm/src/vtpm/mod.rs for the quote (bincode and serde forms).
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import hcl
from tallystick.formats.cursor import Cursor

_WHAT = "Azure vTPM evidence"
_MAX_BYTES = 4 << 20
_PCRS, _DIGEST_BYTES = 24, 32
_VERSIONS = (1, 2)
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*={0,2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VtpmQuote:
    """A quote of the vTPM. ``pcrs`` lists the SHA-256 bank from PCR 0 on."""

    message: bytes  # TPMS_ATTEST
    signature: bytes  # RSASSA over SHA-256, the bare number
    pcrs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureEvidence:
    """What a guest sends."""

    version: int  # of Trustee's form; 0 for the first one and for a bare HCL report
    hcl_report: bytes
    quote: VtpmQuote | None
    vcek: bytes | None  # PEM or DER
    td_quote: bytes | None


def parse(data: bytes) -> AzureEvidence:
    """Return the evidence in ``data``: one of Trustee's three versions, or a bare HCL report.

    Raises:
        Malformed: none of them, or a field that breaks its form.
        Unsupported: another version.
    """
    if len(data) > _MAX_BYTES:
        raise Malformed(_WHAT, at="size", want=f"at most {_MAX_BYTES} bytes", got=f"{len(data)}")
    if hcl.is_hcl(data):
        return AzureEvidence(version=0, hcl_report=data, quote=None, vcek=None, td_quote=None)
    fields = jsondoc.loads(data, _WHAT)
    if not isinstance(fields, dict):
        raise Malformed(
            _WHAT, at="evidence", want="an HCL report or a JSON object", got=type(fields).__name__
        )
    if "version" not in fields:
        return _first(fields)
    version = fields["version"]
    if type(version) is not int or version not in _VERSIONS:
        raise Unsupported(_WHAT, at="version", want="1 or 2", got=repr(version))
    return AzureEvidence(
        version=version,
        hcl_report=_base64url(fields.get("hcl_report"), "hcl_report"),
        quote=_quote(fields.get("tpm_quote"), "tpm_quote"),
        vcek=_base64url(fields["vcek"], "vcek") if "vcek" in fields else None,
        td_quote=_base64url(fields["td_quote"], "td_quote") if "td_quote" in fields else None,
    )


def _first(fields: dict[str, Any]) -> AzureEvidence:
    """Read version 0, whose names differ between the two TEEs."""
    report = "report" if "report" in fields else "hcl_report"
    quote = "quote" if "quote" in fields else "tpm_quote"
    vcek = fields.get("vcek")
    if vcek is not None and not isinstance(vcek, str):
        raise Malformed(_WHAT, at="vcek", want="PEM text", got=type(vcek).__name__)
    return AzureEvidence(
        version=0,
        hcl_report=_numbers(fields.get(report), report),
        quote=_quote(fields.get(quote), quote),
        vcek=vcek.encode() if vcek is not None else None,
        td_quote=_numbers(fields["td_quote"], "td_quote") if "td_quote" in fields else None,
    )


def quote_file(data: bytes) -> VtpmQuote | None:
    """Return the vTPM quote in a file beside an HCL report, or None when the file is something else.

    Either JSON ({"message", "signature", "pcrs"}) or bincode, as azure-cvm-tooling stores it.

    Raises:
        Malformed: it begins as one and breaks off.
    """
    if data.lstrip()[:1] == b"{":
        value = jsondoc.loads(data, _WHAT)
        if isinstance(value, dict) and {"message", "signature", "pcrs"} <= set(value):
            return _quote(value, "quote")
        return None
    if not 8 <= len(data) <= 1 << 16 or not 256 <= int.from_bytes(data[:8], "little") <= 512:
        return None
    cursor = Cursor(data, "vTPM quote")
    signature = cursor.take("signature", cursor.little("signature length", 8))
    message = cursor.take("message", cursor.little("message length", 8))
    count = cursor.little("number of PCRs", 8)
    if count > _PCRS:
        raise cursor.bad("number of PCRs", want=f"at most {_PCRS}", got=f"{count}")
    pcrs = tuple(cursor.take(f"PCR {number}", _DIGEST_BYTES) for number in range(count))
    cursor.end()
    return VtpmQuote(message=message, signature=signature, pcrs=pcrs)


def _quote(value: Any, at: str) -> VtpmQuote:
    if not isinstance(value, dict):
        raise Malformed(_WHAT, at=at, want="an object", got=type(value).__name__)
    pcrs = value.get("pcrs")
    if not isinstance(pcrs, list) or not 1 <= len(pcrs) <= _PCRS:
        raise Malformed(_WHAT, at=f"{at}.pcrs", want=f"1 to {_PCRS} values", got=type(pcrs).__name__)
    values = tuple(_bytes(one, f"{at}.pcrs[{index}]") for index, one in enumerate(pcrs))
    for index, one in enumerate(values):
        if len(one) != _DIGEST_BYTES:
            raise Malformed(_WHAT, at=f"{at}.pcrs[{index}]", want=f"{_DIGEST_BYTES} bytes", got=f"{len(one)}")
    return VtpmQuote(
        message=_bytes(value.get("message"), f"{at}.message"),
        signature=_bytes(value.get("signature"), f"{at}.signature"),
        pcrs=values,
    )


def _bytes(value: Any, at: str) -> bytes:
    """Return bytes as hex (versions 1 and 2) or as a list of numbers (version 0) says them."""
    if isinstance(value, str) and _HEX.fullmatch(value):
        return bytes.fromhex(value)
    return _numbers(value, at)


def _numbers(value: Any, at: str) -> bytes:
    if not isinstance(value, list) or not all(type(one) is int and 0 <= one < 256 for one in value):
        raise Malformed(_WHAT, at=at, want="bytes", got=type(value).__name__)
    return bytes(value)


def _base64url(value: Any, at: str) -> bytes:
    """Return the bytes of base64url with or without its padding; no second spelling of the same bytes."""
    if not isinstance(value, str) or not _BASE64URL.fullmatch(value):
        raise Malformed(_WHAT, at=at, want="base64url text", got=type(value).__name__)
    bare = value.rstrip("=")
    try:
        raw = base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    except binascii.Error as error:
        raise Malformed(_WHAT, at=at, want="base64url", got=str(error)) from None
    if base64.urlsafe_b64encode(raw).decode("ascii") not in (value, value + "=" * (-len(value) % 4)):
        raise Malformed(_WHAT, at=at, want="canonical base64url", got=value[-8:])
    return raw
