"""A person's Ed25519 key for links and channels: made, kept in a folder of mode 0700, used to sign.

Signing goes through securesystemslib's ``Signer``, so that a hardware key can take the file's place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tallystick.core.errors import Malformed, Misuse
from tallystick.core.files import write_file

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from tallystick.signing.keyfile import Passphrase

KEY_FILE = "release.key"  # PKCS #8 PEM, mode 0600
PUBLIC_KEY_BYTES = 32  # RFC 8032, Ed25519


@dataclass(frozen=True, slots=True, kw_only=True)
class Signatory:
    """Somebody's key, ready to sign. The private half is never shown."""

    name: str
    keyid: str
    public_key: bytes  # raw Ed25519
    signer: Signer


def keyid_of(public_key: bytes) -> str:
    """Return the key id of a raw Ed25519 public key, as securesystemslib computes it.

    Source: securesystemslib.signer._utils.compute_default_keyid: sha256 over the canonical JSON of key type,
    scheme and value.
    """
    text = f'{{"keytype":"ed25519","keyval":{{"public":"{public_key.hex()}"}},"scheme":"ed25519"}}'
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def make(folder: Path, name: str, *, file: str = KEY_FILE) -> Signatory:
    """Make a key for ``name`` in ``folder`` and return it.

    Raises:
        Misuse: there is a key already (``key.exists``): keys are not written over.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if (folder / file).exists():
        raise Misuse(f"{folder / file}: there is a key already", code="key.exists")
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    write_file(folder / file, pem, mode=0o600)
    return load(folder, name, file=file)


def load(folder: Path, name: str, *, file: str = KEY_FILE, passphrase: Passphrase = None) -> Signatory:
    """Return the key of ``name`` that lies in ``folder``, or in a token that the file there names.

    Raises:
        Misuse: no key there (``key.missing``), others may read it, or its passphrase is missing or wrong.
        Malformed: not an Ed25519 key in PKCS #8 PEM.
        Unreachable: its token is not there.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner

    from tallystick.signing import keyfile

    path = folder / file
    if not path.exists():
        raise Misuse(f"{name} has no key: there is no {path}", code="key.missing")
    private = keyfile.read_any(path, passphrase)
    if not isinstance(private, Ed25519PrivateKey):
        raise Malformed("key", at=str(path), want="an Ed25519 key", got=type(private).__name__)
    raw = private.public_key().public_bytes_raw()
    return Signatory(name=name, keyid=keyid_of(raw), public_key=raw, signer=CryptoSigner(private))


def spki(public_key: bytes) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a raw Ed25519 public key (RFC 8410, section 4)."""
    return bytes.fromhex("302a300506032b6570032100") + public_key


def public_pem(public_key: bytes) -> str:
    """Return a raw Ed25519 public key as SubjectPublicKeyInfo PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(public_key)
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode("ascii")


def from_pem(pem: str, what: str) -> bytes:
    """Return the raw Ed25519 public key that ``pem`` holds.

    Raises:
        Malformed: not one.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem.encode("utf-8"))
    except ValueError:
        raise Malformed(what, at="public key", want="PEM", got=pem) from None
    if not isinstance(key, Ed25519PublicKey):
        raise Malformed(what, at="public key", want="an Ed25519 key", got=type(key).__name__)
    return key.public_bytes_raw()


def holds(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """Say whether ``signature`` over ``data`` is by the raw Ed25519 ``public_key``."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True
