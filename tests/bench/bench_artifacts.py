"""Pairs for ``make bench``: encrypting and opening weights beside the cipher itself, which is OpenSSL's."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tallystick.core.digests import Digest
from tallystick.handshake import artifact

Pair = tuple[str, Callable[[], object], str, Callable[[], object], str, int]
_BYTES = 512 << 20
_KEY, _SALT = bytes(32), bytes(range(32))
_RATE = "1.67"  # 60 % of OpenSSL's rate
_HASHING = "1.18"  # 85 % of hashlib's rate
_ROUNDS = 7


class _Nowhere(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        return len(data)  # type: ignore[arg-type]


def pairs() -> list[Pair]:
    """Give encryption, decryption, and opening with the plaintext's digest, of half a GiB in memory."""
    plaintext = hashlib.shake_128(b"weights").digest(1 << 20) * (_BYTES >> 20)
    size, step = len(plaintext), artifact.CHUNK_BYTES
    digest = Digest.of(plaintext)
    header = artifact.make_header(_KEY, plaintext=digest, size_bytes=size, salt=_SALT)
    sealed = artifact.encrypt(plaintext, _KEY, salt=_SALT)
    cipher, view = AESGCM(_KEY), memoryview(plaintext)
    boxes = [
        cipher.encrypt(i.to_bytes(12, "big"), view[at : at + step], None) for i, at in _steps(size, step)
    ]

    def encrypt() -> None:
        for i, at in _steps(size, step):
            cipher.encrypt(i.to_bytes(12, "big"), view[at : at + step], None)

    def decrypt() -> None:
        for i, box in enumerate(boxes):
            cipher.decrypt(i.to_bytes(12, "big"), box, None)

    def opened() -> None:
        artifact.decrypt(io.BytesIO(sealed), _Nowhere(), _KEY, digest)

    def chunked() -> None:
        for _ in artifact.chunks(io.BytesIO(sealed), _KEY):
            pass

    return [
        (
            "512 MiB of weights encrypted",
            lambda: artifact.seal(io.BytesIO(plaintext), _Nowhere(), _KEY, header),
            "AES-256-GCM of the same bytes",
            encrypt,
            _RATE,
            _ROUNDS,
        ),
        ("512 MiB of weights decrypted", chunked, "AES-256-GCM of the same bytes", decrypt, _RATE, _ROUNDS),
        (
            "the same, and the plaintext's SHA-256 compared",
            opened,
            "hashlib over the plaintext",
            lambda: hashlib.sha256(plaintext).digest(),
            _HASHING,
            _ROUNDS,
        ),
    ]


def _steps(size: int, step: int) -> list[tuple[int, int]]:
    return list(enumerate(range(0, size, step)))
