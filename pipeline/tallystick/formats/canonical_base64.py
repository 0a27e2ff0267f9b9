"""Base64 with one spelling for each value: what does not encode back to itself is refused.

The lenient decoders (Python's included) skip characters that they do not know and ignore the unused bits
of the last character, so that two different texts give one value and a changed byte goes unseen.
"""

from __future__ import annotations

import base64
import binascii

from tallystick.core.errors import Malformed


def decode(text: object, what: str, at: str) -> bytes:
    """Return the bytes that ``text`` spells in standard, padded base64.

    Source: RFC 4648, section 4, with section 3.5 (canonical encoding) enforced.

    Raises:
        Malformed: not a text, not that alphabet, or not the one spelling of its value.
    """
    if not isinstance(text, str):
        raise Malformed(what, at=at, want="base64 text", got=type(text).__name__)
    try:
        value = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        raise Malformed(what, at=at, want="base64 (RFC 4648, section 4)", got=text) from None
    if encode(value) != text:
        raise Malformed(what, at=at, want="canonical base64 (RFC 4648, section 3.5)", got=text)
    return value


def encode(value: bytes) -> str:
    """Return ``value`` in standard, padded base64."""
    return base64.b64encode(value).decode("ascii")
