"""Private keys in files: PEM, for their owner alone, encrypted when there is a passphrase; or where a token has them.

A file of one line that begins with ``pkcs11:`` says where a hardware key is (:mod:`tallystick.signing.hardware`);
whoever reads a key gets either kind.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
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
_HARDWARE = b"pkcs11:"

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Passphrase = (
    bytes | Callable[[str], bytes | None] | None
)  # asked for, with the key's name, only when it is needed


def write(path: Path, key: Key, passphrase: bytes | None = None) -> None:
    """Write ``key`` to ``path`` with mode 0600, encrypted when ``passphrase`` is given."""
    protection = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
    write_file(path, pem, mode=0o600)


def read(path: Path, passphrase: Passphrase = None) -> ec.EllipticCurvePrivateKey:
    """Return the elliptic-curve key in ``path``.

    Raises:
        Misuse, Malformed, Unreachable, Unsupported: as :func:`read_any`, and when it is another kind of key.
    """
    key = read_any(path, passphrase)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Malformed("private key", at=str(path), want="an elliptic-curve key", got=type(key).__name__)
    return key


def read_any(path: Path, passphrase: Passphrase = None) -> Key:
    """Return the key in ``path``, or the one in a token that it names.

    Raises:
        Misuse: there is no such file, others may read it (``key.readable``), or the passphrase or PIN is missing or
            wrong (``key.passphrase``).
        Malformed: it holds no such key.
        Unreachable, Unsupported: as :func:`tallystick.signing.hardware.load`.
    """
    data = read_file(path, "private key", max_bytes=_MAX_BYTES)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise Misuse(f"private key: {path} can be read by others; set its mode to 600", code="key.readable")
    if data.startswith(_HARDWARE):
        from tallystick.signing import hardware

        return hardware.load(data.decode("utf-8", "replace").strip(), _secret(passphrase, str(path)))
    encrypted = b"ENCRYPTED" in data
    try:
        key = load_pem_private_key(data, _secret(passphrase, str(path)) if encrypted else None)
    except (ValueError, TypeError) as error:
        if encrypted:
            message = f"private key: {path} is encrypted, and the passphrase is missing or wrong"
            raise Misuse(message, code="key.passphrase") from None
        raise Malformed("private key", at=str(path), want="a PEM private key", got=str(error)) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise Malformed(
            "private key", at=str(path), want="an elliptic-curve or Ed25519 key", got=type(key).__name__
        )
    return key


def kind(path: Path) -> str:
    """Return how the key in ``path`` is kept: "hardware", "encrypted" or "plain"."""
    data = read_file(path, "private key", max_bytes=_MAX_BYTES)
    if data.startswith(_HARDWARE):
        return "hardware"
    return "encrypted" if b"ENCRYPTED" in data else "plain"


def protect(path: Path, passphrase: bytes, old: Passphrase = None) -> None:
    """Encrypt the key in ``path`` under ``passphrase``, whole or not at all.

    Raises:
        Misuse: it is in a token (``key.hardware``), or as :func:`read_any`.
    """
    if kind(path) == "hardware":
        raise Misuse(f"{path} names a key in a token, which has a PIN of its own", code="key.hardware")
    write(path, read_any(path, old), passphrase)


def public_pem(key: Key) -> str:
    """Return the public half of ``key`` as PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _secret(passphrase: Passphrase, what: str) -> bytes | None:
    return passphrase(what) if callable(passphrase) else passphrase
