"""Private keys in files: PEM, for their owner alone, encrypted when there is a passphrase."""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from tallystick.core.errors import Malformed, Misuse
from tallystick.core.files import read_file, write_file

_MAX_BYTES = 1 << 16


def write(path: Path, key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> None:
    """Write ``key`` to ``path`` with mode 0600, encrypted when ``passphrase`` is given."""
    protection = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
    write_file(path, pem, mode=0o600)


def read(path: Path, passphrase: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """Return the elliptic-curve key in ``path``.

    Raises:
        Misuse: there is no such file, others may read it (``key.readable``), or the passphrase is missing or
            wrong (``key.passphrase``).
        Malformed: it holds no such key.
    """
    pem = read_file(path, "private key", max_bytes=_MAX_BYTES)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise Misuse(f"private key: {path} can be read by others; set its mode to 600", code="key.readable")
    encrypted = b"ENCRYPTED" in pem
    try:
        key = load_pem_private_key(pem, passphrase if encrypted else None)
    except (ValueError, TypeError) as error:
        if encrypted:
            message = f"private key: {path} is encrypted, and the passphrase is missing or wrong"
            raise Misuse(message, code="key.passphrase") from None
        raise Malformed("private key", at=str(path), want="a PEM private key", got=str(error)) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Malformed("private key", at=str(path), want="an elliptic-curve key", got=type(key).__name__)
    return key


def public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """Return the public half of ``key`` as PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
