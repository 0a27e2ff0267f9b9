"""Whether a COSE_Sign1 signature holds under a key."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tallystick.formats.cose import Sign1

# COSE algorithm -> (the only curve it is used with here, hash): RFC 9053 allows others, and no maker uses them
_ECDSA: dict[int, tuple[str, ec.ECDSA]] = {
    -7: ("secp256r1", ec.ECDSA(hashes.SHA256())),
    -35: ("secp384r1", ec.ECDSA(hashes.SHA384())),
    -36: ("secp521r1", ec.ECDSA(hashes.SHA512())),
}


def holds(message: Sign1, key: object) -> bool:
    """Return whether ``message`` is signed by ``key`` with the algorithm it names, on that algorithm's curve."""
    curve, scheme = _ECDSA[message.algorithm]
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != curve:
        return False
    half = len(message.signature) // 2
    r, s = (int.from_bytes(part, "big") for part in (message.signature[:half], message.signature[half:]))
    try:
        key.verify(encode_dss_signature(r, s), message.to_be_signed(), scheme)
    except (InvalidSignature, ValueError):
        return False
    return True
