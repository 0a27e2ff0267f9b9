"""DSSE: the bytes a signature covers, and the JSON envelope.

Source: secure-systems-lab/dsse, protocol.md v1.0 and envelope.md.
"""

from __future__ import annotations


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the exact bytes a DSSE signature covers.

    Both lengths count *bytes of UTF-8*, not characters: the two differ as soon
    as a payload type leaves ASCII, and a character count would sign bytes that
    no conforming verifier rebuilds.
    """
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
