"""EFI signature lists: what the variables PK, KEK, db and dbx hold.

Source: UEFI 2.10, 32.4.1 (EFI_SIGNATURE_LIST, EFI_SIGNATURE_DATA).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from tallystick.core.errors import Malformed
from tallystick.formats.cursor import Cursor

X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")  # EFI_CERT_X509_GUID
_HEADER_BYTES, _OWNER_BYTES = 28, 16
MAX_BYTES = 1 << 20
_WHAT = "EFI signature list"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One entry of a list: who put it there, and a certificate or a hash."""

    kind: uuid.UUID  # SignatureType of its list
    owner: uuid.UUID
    data: bytes

    @property
    def measured(self) -> bytes:
        """EFI_SIGNATURE_DATA, as an EV_EFI_VARIABLE_AUTHORITY event carries it."""
        return self.owner.bytes_le + self.data


def parse(data: bytes, what: str = _WHAT) -> tuple[Signature, ...]:
    """Return every entry of the lists in ``data``, in order.

    Raises:
        Malformed: a list's sizes do not add up, or bytes are left over.
    """
    if len(data) > MAX_BYTES:
        raise Malformed(what, at="size", want=f"at most {MAX_BYTES} bytes", got=f"{len(data)}")
    reader, found = Cursor(data, what), list[Signature]()
    while reader.left:
        kind = uuid.UUID(bytes_le=reader.take("SignatureType", 16))
        sizes = [
            reader.little(name, 4) for name in ("SignatureListSize", "SignatureHeaderSize", "SignatureSize")
        ]
        whole, header, each = sizes
        entries = whole - _HEADER_BYTES - header
        if each <= _OWNER_BYTES or entries < 0 or entries % each:
            want = f"{_HEADER_BYTES} bytes, a header, and entries of more than {_OWNER_BYTES}"
            raise reader.bad("SignatureListSize", want=want, got=", ".join(map(str, sizes)))
        reader.take("SignatureHeader", header)
        for _ in range(entries // each):
            owner = uuid.UUID(bytes_le=reader.take("SignatureOwner", _OWNER_BYTES))
            found.append(
                Signature(kind=kind, owner=owner, data=reader.take("SignatureData", each - _OWNER_BYTES))
            )
    return tuple(found)
