"""GUIDs as firmware lays them out: three little-endian numbers, then eight bytes as they are.

The standard library's ``uuid`` asks the system about itself as it loads, a tenth of a short command's time.

Source: UEFI 2.10, appendix A.
"""

from __future__ import annotations

import struct

BYTES = 16
_PARTS = struct.Struct("<IHH8s")


def text(data: bytes) -> str:
    """Return the GUID in ``data``, 16 bytes, as lower-case text."""
    first, second, third, rest = _PARTS.unpack(data)
    return f"{first:08x}-{second:04x}-{third:04x}-{rest[:2].hex()}-{rest[2:].hex()}"


def data(text: str) -> bytes:
    """Return the bytes of the GUID that ``text`` names.

    Raises:
        ValueError: no GUID. A caller's bug: it is for constants.
    """
    first, second, third, *rest = text.split("-")
    return _PARTS.pack(int(first, 16), int(second, 16), int(third, 16), bytes.fromhex("".join(rest)))
