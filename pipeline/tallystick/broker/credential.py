"""MakeCredential in software: a secret that only the TPM with this EK and this AK can open.

Source: TPM 2.0 Library, Part 1, §24 (Credential Protection), §11.4.10 (KDFa) and Annex B.10.4 (RSA secret
sharing, label "IDENTITY"); TCG EK Credential Profile 2.x, template L-1 (RSA-2048, AES-128-CFB, SHA-256).
"""

from __future__ import annotations

import hmac
import os

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

SEED_BYTES = 32  # the size of the EK's name algorithm's digest
_AES_BITS = 128  # template L-1
_HMAC_BITS = 256


def make_credential(
    endorsement_key: rsa.RSAPublicKey, name: bytes, secret: bytes, *, seed: bytes | None = None
) -> tuple[bytes, bytes]:
    """Return the two structures that ActivateCredential takes: TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET.

    Args:
        endorsement_key: the TPM's EK (RSA, template L-1).
        name: the Name of the object that must live in the same TPM.
        secret: what the TPM gives back; at most 32 bytes.
        seed: only for tests; random otherwise.
    """
    seed = os.urandom(SEED_BYTES) if seed is None else seed
    oaep = padding.OAEP(
        mgf=padding.MGF1(algorithm=hashes.SHA256()), algorithm=hashes.SHA256(), label=b"IDENTITY\0"
    )
    encrypted_seed = endorsement_key.encrypt(seed, oaep)
    symmetric = kdf_a(seed, b"STORAGE", name, b"", _AES_BITS)
    encryptor = Cipher(algorithms.AES(symmetric), CFB(bytes(16))).encryptor()
    identity = encryptor.update(_sized(secret)) + encryptor.finalize()
    integrity = kdf_a(seed, b"INTEGRITY", b"", b"", _HMAC_BITS)
    outer = hmac.digest(integrity, identity + name, "sha256")
    return _sized(_sized(outer) + identity), _sized(encrypted_seed)


def kdf_a(key: bytes, label: bytes, context_u: bytes, context_v: bytes, size_bits: int) -> bytes:
    """Return ``size_bits`` bits of key material (KDFa over HMAC-SHA256, counter mode of SP 800-108)."""
    made = b""
    counter = 0
    while len(made) * 8 < size_bits:
        counter += 1
        block = counter.to_bytes(4, "big") + label + b"\0" + context_u + context_v
        made += hmac.digest(key, block + size_bits.to_bytes(4, "big"), "sha256")
    return made[: size_bits // 8]


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
