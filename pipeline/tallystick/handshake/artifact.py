"""Encrypted artifacts: AES-256-GCM in chunks of one size, so that a file of any size streams.

Every chunk authenticates the whole header (and in it the digest of the plaintext), its own position and
whether it is the last: a cut, reordered or spliced file is refused, and so is a chunk of another file under
the same key. Each file has its own AES key, made from the released key and a random salt, so that two files
under one released key never use one nonce twice. The format is written down in docs/evidence-tpm.md.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, NotGenuine, Unsupported

MAGIC = b"TALLYENC"
VERSION = 1
KEY_BYTES = 32
SALT_BYTES = 32
CHUNK_BYTES = 64 << 10
MAX_CHUNK_BYTES = 16 << 20
MAX_CHUNKS = 1 << 32  # NIST SP 800-38D, section 8.3: messages under one key

_WHAT = "encrypted artifact"
_TAG_BYTES = 16  # NIST SP 800-38D: the longest tag
# magic, version, chunk size, plaintext size, plaintext sha256, salt; big-endian
_HEADER = struct.Struct(">8sIIQ32s32s")
_CHUNK = struct.Struct(">QB")  # index, 1 for the last


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an encrypted artifact says about itself. All of it is authenticated with every chunk."""

    chunk_bytes: int
    size_bytes: int  # of the plaintext
    plaintext: Digest
    salt: bytes

    def __post_init__(self) -> None:
        if len(self.salt) != SALT_BYTES:
            raise ValueError(f"a salt has {SALT_BYTES} bytes, not {len(self.salt)}")

    @property
    def chunks(self) -> int:
        """How many chunks follow; an empty plaintext has one, which is empty."""
        return max(1, -(-self.size_bytes // self.chunk_bytes))

    def encode(self) -> bytes:
        """Return the header as the bytes at the start of the file."""
        return _HEADER.pack(
            MAGIC, VERSION, self.chunk_bytes, self.size_bytes, self.plaintext.value, self.salt
        )


def read_header(source: BinaryIO) -> Header:
    """Return the header at the start of ``source``, which is left behind it.

    Raises:
        Malformed: not an encrypted artifact, or a size that no artifact has.
        Unsupported: another version.
    """
    data = _read(source, _HEADER.size)
    if len(data) != _HEADER.size or not data.startswith(MAGIC):
        raise Malformed(
            _WHAT, at="header", want=f"{MAGIC.decode()} and {_HEADER.size} bytes", got="other bytes"
        )
    _, version, chunk_bytes, size_bytes, sha256, salt = _HEADER.unpack(data)
    if version != VERSION:
        raise Unsupported(_WHAT, at="version", want=str(VERSION), got=str(version))
    if not 1 <= chunk_bytes <= MAX_CHUNK_BYTES:
        raise Malformed(_WHAT, at="chunk size", want=f"1 to {MAX_CHUNK_BYTES} bytes", got=str(chunk_bytes))
    plaintext = Digest(Algorithm.SHA256, sha256)
    header = Header(chunk_bytes=chunk_bytes, size_bytes=size_bytes, plaintext=plaintext, salt=salt)
    if header.chunks > MAX_CHUNKS:
        raise Malformed(_WHAT, at="size", want=f"at most {MAX_CHUNKS} chunks", got=str(header.chunks))
    return header


def seal(source: BinaryIO, sink: BinaryIO, key: bytes, header: Header) -> None:
    """Write what is left in ``source`` to ``sink`` as the encrypted artifact that ``header`` describes.

    The salt in ``header`` must be random, and never used twice with one key.

    Raises:
        ValueError: ``source`` does not hold what ``header`` says; what is in ``sink`` is then no artifact.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    head, hasher = header.encode(), hashlib.sha256()
    cipher = AESGCM(_file_key(key, header))
    sink.write(head)
    for index in range(header.chunks):
        chunk = _read(source, header.chunk_bytes)
        hasher.update(chunk)
        sink.write(cipher.encrypt(_nonce(index), chunk, head + _place(header, index)))
    if source.read(1) or hasher.digest() != header.plaintext.value:
        raise ValueError("the plaintext is not the one its header describes")


def encrypt(plaintext: bytes, key: bytes, *, salt: bytes, chunk_bytes: int = CHUNK_BYTES) -> bytes:
    """Return ``plaintext`` as an encrypted artifact.

    Args:
        key: 32 bytes, the key that the broker keeps.
        salt: 32 random bytes, never used twice with one key.
        chunk_bytes: of plaintext in each chunk but the last.
    """
    digest, sink = Digest.of(plaintext), io.BytesIO()
    header = Header(chunk_bytes=chunk_bytes, size_bytes=len(plaintext), plaintext=digest, salt=salt)
    seal(io.BytesIO(plaintext), sink, key, header)
    return sink.getvalue()


def decrypt(source: BinaryIO, sink: BinaryIO, key: bytes) -> Header:
    """Write the plaintext of the artifact in ``source`` to ``sink``, chunk by chunk, and return its header.

    What is in ``sink`` is the artifact only once this returned: until then it may be a cut-off front of it.

    Raises:
        Malformed: no artifact.
        Unsupported: another version of the format.
        NotGenuine: another key, or a file that was changed, cut, reordered or spliced.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    header = read_header(source)
    head, left, hasher = header.encode(), header.size_bytes, hashlib.sha256()
    cipher = AESGCM(_file_key(key, header))
    for index in range(header.chunks):
        size = min(left, header.chunk_bytes)
        sealed = _read(source, size + _TAG_BYTES)
        if len(sealed) != size + _TAG_BYTES:
            raise _bad("truncated", f"chunk {index} of {header.chunks} is cut short")
        try:
            chunk = cipher.decrypt(_nonce(index), sealed, head + _place(header, index))
        except InvalidTag:
            raise _bad("chunk", f"chunk {index} of {header.chunks} does not authenticate") from None
        hasher.update(chunk)
        sink.write(chunk)
        left -= size
    if source.read(1):
        raise _bad("trailing", f"bytes follow the last of {header.chunks} chunks")
    if hasher.digest() != header.plaintext.value:
        raise _bad("plaintext", "the plaintext is not the one its header names")
    return header


def _read(source: BinaryIO, size: int) -> bytes:
    """Return ``size`` bytes, or fewer at the end: a raw stream may give less than was asked for."""
    parts: list[bytes] = []
    while size > 0 and (part := source.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _file_key(key: bytes, header: Header) -> bytes:
    """Return this file's AES key: HKDF-SHA256 (RFC 5869) of the released key, one block.

    Raises:
        NotGenuine: what the broker released is no key of this format.
    """
    if len(key) != KEY_BYTES:
        raise _bad("key", f"a key has {KEY_BYTES} bytes, not {len(key)}")
    extracted = hmac.digest(header.salt, key, "sha256")
    return hmac.digest(extracted, b"tallystick encrypted artifact v1\x01", "sha256")


def _place(header: Header, index: int) -> bytes:
    return _CHUNK.pack(index, index == header.chunks - 1)


def _nonce(index: int) -> bytes:
    return struct.pack(">IQ", 0, index)


def _bad(code: str, why: str) -> NotGenuine:
    return NotGenuine(f"{_WHAT}: {why}", code=f"artifact.{code}")
