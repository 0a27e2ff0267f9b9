"""AMD SEV-SNP: the ID block that a launch can be bound to, and the key digests that its report then carries.

Source: AMD 56860 (SEV-SNP Firmware ABI), Table 75 (ID_BLOCK) and Table 76 (ID_AUTH_INFO); AMD 55766 (SEV API),
Appendix C.3, for the public key's structure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, Unsupported

ID_BLOCK_BYTES = 96
_KEY_BYTES = 1028  # of the structure that is hashed, whatever the curve
_COORDINATE_BYTES = 72  # little-endian, zeros behind
_P384 = 2  # curve identifier
_VERSION = 1
_WHAT = "ID block"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdBlock:
    """What the guest's owner signs: a launch with another digest or policy does not start."""

    measurement: Digest
    policy: int  # GUEST_POLICY; bit 17 is always set
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    guest_svn: int = 0

    def __post_init__(self) -> None:
        if self.measurement.algorithm is not Algorithm.SHA384:
            raise Malformed(_WHAT, at="LD", want="a SHA-384", got=self.measurement.algorithm.label)
        if not 0 <= self.policy < 1 << 64 or not self.policy >> 17 & 1:
            raise Malformed(_WHAT, at="POLICY", want="64 bits with bit 17 set", got=hex(self.policy))
        if not 0 <= self.guest_svn < 1 << 32:
            raise Malformed(_WHAT, at="GUEST_SVN", want="32 bits", got=str(self.guest_svn))
        for name, value in (("FAMILY_ID", self.family_id), ("IMAGE_ID", self.image_id)):
            if len(value) != 16:
                raise Malformed(_WHAT, at=name, want="16 bytes", got=f"{len(value)}")

    def data(self) -> bytes:
        """Return the structure that is signed and given to the launch."""
        return (
            self.measurement.value
            + self.family_id
            + self.image_id
            + struct.pack("<IIQ", _VERSION, self.guest_svn, self.policy)
        )


def key_digest(key: bytes, what: str = "key") -> Digest:
    """Return ID_KEY_DIGEST or AUTHOR_KEY_DIGEST of ``key``: the SHA-384 of its structure.

    Args:
        key: a public key as PEM or DER (SubjectPublicKeyInfo), or a private key as PEM; of that, nothing is kept.

    Raises:
        Malformed: no key. Unsupported: another curve than P-384.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    public = _public(key, what)
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP384R1):
        got = public.curve.name if isinstance(public, ec.EllipticCurvePublicKey) else type(public).__name__
        raise Unsupported(what, at="algorithm", want="ECDSA over P-384", got=got)
    numbers = public.public_numbers()
    data = struct.pack("<I", _P384) + b"".join(
        number.to_bytes(_COORDINATE_BYTES, "little") for number in (numbers.x, numbers.y)
    )
    return Digest.of(data.ljust(_KEY_BYTES, b"\0"), Algorithm.SHA384)


def _public(key: bytes, what: str) -> object:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import (
        load_der_public_key,
        load_pem_private_key,
        load_pem_public_key,
    )

    try:
        if b"PRIVATE KEY-----" in key:
            return load_pem_private_key(key, password=None).public_key()
        if key.lstrip().startswith(b"-----BEGIN"):
            return load_pem_public_key(key)
        return load_der_public_key(key)
    except UnsupportedAlgorithm as error:
        raise Unsupported(what, at="algorithm", want="ECDSA over P-384", got=str(error)) from None
    except (ValueError, TypeError) as error:  # TypeError: a private key that is encrypted
        raise Malformed(what, at="bytes", want="a key as PEM or DER", got=str(error)) from None
