"""Evidence on its way to whoever asks for it: a RATS Conceptual Message Wrapper around a KBS attestation message.

Source: RFC 9999 (RATS CMW), "CMW Record" in JSON: [type, base64url value, indicator]; bit 2 says "evidence".
"""

from __future__ import annotations

import re

from tallystick.core import jsondoc
from tallystick.core.errors import Malformed, Unsupported
from tallystick.handshake.fields import b64url, unb64url
from tallystick.handshake.kbs import MAX_MESSAGE_BYTES, encode

MEDIA_TYPE = "application/cmw+json"
PATH = "/.well-known/tallystick/evidence"  # ?nonce=BASE64URL
_EVIDENCE = 1 << 2
_TYPE = re.compile(r'application/vnd\.tallystick\.kbs-attestation\+json; tee="([a-z0-9-]{1,40})"')
_WHAT = "evidence of a peer"


def wrap(tee: str, message: bytes) -> bytes:
    """Return the record of ``message``, an attestation message of ``tee``."""
    kind = f'application/vnd.tallystick.kbs-attestation+json; tee="{tee}"'
    return encode([kind, b64url(message), _EVIDENCE])


def unwrap(data: bytes) -> tuple[str, bytes]:
    """Return the tee and the attestation message in a record.

    Raises:
        Malformed: no record. Unsupported: of another type, or no evidence.
    """
    record = jsondoc.loads(data, _WHAT, max_bytes=2 * MAX_MESSAGE_BYTES)
    if not isinstance(record, list) or len(record) not in (2, 3):
        raise Malformed(
            _WHAT, at="record", want="a CMW record: [type, value, indicator]", got=type(record).__name__
        )
    kind, value, *indicator = record
    match = _TYPE.fullmatch(kind) if isinstance(kind, str) else None
    if match is None:
        want = "application/vnd.tallystick.kbs-attestation+json with its tee"
        raise Unsupported(_WHAT, at="type", want=want, got=repr(kind))
    if indicator not in ([], [_EVIDENCE]):
        raise Unsupported(_WHAT, at="indicator", want=f"{_EVIDENCE}: evidence", got=repr(indicator[0]))
    try:
        return match[1], unb64url(value)
    except (ValueError, TypeError):
        raise Malformed(
            _WHAT, at="value", want="base64url without padding", got=type(value).__name__
        ) from None
