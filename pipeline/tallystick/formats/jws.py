"""JSON Web Signatures in compact form, read strictly: three parts, one reading of each.

Source: RFC 7515, 3.1 and 7.1; RFC 8725, 3.1 to 3.9 for what must not be accepted.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported

_WHAT = "token"
_MAX_BYTES = 1 << 20
_PART = re.compile(rb"[A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Token:
    """A compact JWS, taken apart. Whether its signature holds is not asked here."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes

    @property
    def algorithm(self) -> str:
        """The ``alg`` header."""
        return str(self.header.get("alg"))


def parse(data: bytes) -> Token:
    """Return the token in ``data``; white space around it is ignored.

    Raises:
        Malformed: not three base64url parts of JSON objects, each written the one canonical way.
        Unsupported: a critical header extension.
    """
    data = data.strip()
    if len(data) > _MAX_BYTES:
        raise Malformed(_WHAT, at="size", want=f"at most {_MAX_BYTES} bytes", got=f"{len(data)}")
    parts = data.split(b".")
    if len(parts) != 3:
        raise Malformed(_WHAT, at="parts", want="three, with dots between them", got=f"{len(parts)}")
    header, claims = (
        _object(decode(part, name), name) for part, name in zip(parts, ("header", "claims"), strict=False)
    )
    if "crit" in header:
        raise Unsupported(_WHAT, at="crit", want="no critical header extension", got=str(header["crit"]))
    return Token(header, claims, parts[0] + b"." + parts[1], decode(parts[2], "signature"))


def decode(text: bytes | str, name: str) -> bytes:
    """Return the bytes of canonical, unpadded base64url."""
    raw = text.encode() if isinstance(text, str) else text
    if not _PART.fullmatch(raw):
        raise Malformed(_WHAT, at=name, want="base64url without padding", got="other characters")
    try:
        value = base64.urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
    except binascii.Error as error:
        raise Malformed(_WHAT, at=name, want="base64url", got=str(error)) from None
    if base64.urlsafe_b64encode(value).rstrip(b"=") != raw:
        raise Malformed(_WHAT, at=name, want="canonical base64url", got="unused bits that are set")
    return value


def _object(data: bytes, name: str) -> dict[str, Any]:
    value = jsondoc.loads(data, f"{_WHAT} {name}")
    if not isinstance(value, dict):
        raise Malformed(_WHAT, at=name, want="a JSON object", got=type(value).__name__)
    return value
