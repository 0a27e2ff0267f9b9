"""Encrypted artifacts: AES-256-GCM in chunks of one size, to be read from front to back or at any place.

A chunk authenticates the artifact's digest, its own position and whether it is the last; the file's AES key is made
from the data key, a random salt and the whole header, and the header commits to that key. So a cut, reordered or
spliced file is refused, so is a chunk of another file, and no second data key opens a file to something else. The
data key is random and lies beside the file, wrapped (:mod:`tallystick.handshake.wrapping`). The format is written
down in docs/models.md.

Source: RFC 5869 (HKDF); NIST SP 800-38D; Hoang and others, "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance" (STREAM), whose position and final flag are in the associated data here, and not in the nonce.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import struct
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed, NotGenuine, Unsupported

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"TALLYENC"
VERSION = 2
KEY_BYTES = 32
SALT_BYTES = 32
CHUNK_BYTES = 1 << 20
MAX_CHUNK_BYTES = 16 << 20
MAX_CHUNKS = 1 << 32  # NIST SP 800-38D, section 8.3: messages under one key

_WHAT = "encrypted artifact"
_LABEL = b"tallystick encrypted artifact v2"
_TAG_BYTES = 16  # NIST SP 800-38D: the longest tag
_SHA256_BYTES = 32
# magic, version, chunk size, plaintext size, plaintext sha256, salt; then the commitment; big-endian
_DESCRIBED = struct.Struct(">8sIIQ32s32s")
HEADER_BYTES = _DESCRIBED.size + _SHA256_BYTES
_PLACE = struct.Struct(">QB")  # index, 1 for the last


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an encrypted artifact says about itself; its data key proves all of it."""

    chunk_bytes: int
    size_bytes: int  # of the plaintext
    plaintext: Digest  # sha256 of the whole plaintext: the artifact's digest
    salt: bytes
    commitment: bytes  # to the data key and everything above

    @property
    def chunks(self) -> int:
        """How many chunks follow; an empty plaintext has one, which is empty."""
        return max(1, -(-self.size_bytes // self.chunk_bytes))

    @property
    def file_bytes(self) -> int:
        """How long the whole file is."""
        return HEADER_BYTES + self.size_bytes + self.chunks * _TAG_BYTES

    @property
    def digest(self) -> Digest:
        """SHA-256 of the header: through its commitment it names this encryption, and no other."""
        return Digest.of(self.encode())

    def encode(self) -> bytes:
        """Return the header as the bytes at the start of the file."""
        return self.described() + self.commitment

    def described(self) -> bytes:
        """Return what the commitment is over."""
        return _DESCRIBED.pack(
            MAGIC, VERSION, self.chunk_bytes, self.size_bytes, self.plaintext.value, self.salt
        )


def make_header(
    data_key: bytes, *, plaintext: Digest, size_bytes: int, salt: bytes, chunk_bytes: int = CHUNK_BYTES
) -> Header:
    """Return the header of a new encrypted artifact.

    Args:
        data_key: 32 random bytes, made for this artifact.
        plaintext: SHA-256 of all of it, which has to be known first.
        salt: 32 random bytes, never used twice with one data key.
        chunk_bytes: of plaintext in each chunk but the last.
    """
    if len(salt) != SALT_BYTES or len(data_key) != KEY_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes and a data key {KEY_BYTES}")
    header = Header(
        chunk_bytes=chunk_bytes, size_bytes=size_bytes, plaintext=plaintext, salt=salt, commitment=b""
    )
    _, commitment = _derive(data_key, header)
    return Header(
        chunk_bytes=chunk_bytes, size_bytes=size_bytes, plaintext=plaintext, salt=salt, commitment=commitment
    )


def read_header(source: BinaryIO) -> Header:
    """Return the header at the start of ``source``, which is left behind it.

    Raises:
        Malformed: not an encrypted artifact, or a size that no artifact has.
        Unsupported: another version.
    """
    data = _read(source, HEADER_BYTES)
    if len(data) != HEADER_BYTES or not data.startswith(MAGIC):
        raise Malformed(
            _WHAT, at="header", want=f"{MAGIC.decode()} and {HEADER_BYTES} bytes", got="other bytes"
        )
    _, version, chunk_bytes, size_bytes, sha256, salt = _DESCRIBED.unpack(data[: _DESCRIBED.size])
    if version != VERSION:
        raise Unsupported(_WHAT, at="version", want=str(VERSION), got=str(version))
    if not 1 <= chunk_bytes <= MAX_CHUNK_BYTES:
        raise Malformed(_WHAT, at="chunk size", want=f"1 to {MAX_CHUNK_BYTES} bytes", got=str(chunk_bytes))
    header = Header(
        chunk_bytes=chunk_bytes,
        size_bytes=size_bytes,
        plaintext=Digest(Algorithm.SHA256, sha256),
        salt=salt,
        commitment=data[_DESCRIBED.size :],
    )
    if header.chunks > MAX_CHUNKS:
        raise Malformed(_WHAT, at="size", want=f"at most {MAX_CHUNKS} chunks", got=str(header.chunks))
    return header


def seal(source: BinaryIO, sink: BinaryIO, data_key: bytes, header: Header) -> None:
    """Write what is left in ``source`` to ``sink`` as the encrypted artifact that ``header`` describes.

    The digest in ``header`` is believed: it was computed when the artifact was listed, and whoever opens the artifact
    computes it again.

    Raises:
        ValueError: ``source`` is not as long as ``header`` says; what is in ``sink`` is then no artifact.
    """
    cipher = _cipher(data_key, header)
    sink.write(header.encode())
    left = header.size_bytes
    chunk = memoryview(bytearray(min(left, header.chunk_bytes)))
    sealed = memoryview(
        bytearray(len(chunk) + _TAG_BYTES)
    )  # one of each for all: fresh memory costs more than AES
    for index in range(header.chunks):
        size = min(left, header.chunk_bytes)
        if _read_into(source, chunk[:size]) != size:
            break
        whole = sealed[: size + _TAG_BYTES]
        cipher.encrypt_into(_nonce(index), chunk[:size], _associated(header, index), whole)
        sink.write(whole)
        left -= size
    if left or source.read(1):
        raise ValueError("the plaintext is not as long as its header says")


def encrypt(plaintext: bytes, data_key: bytes, *, salt: bytes, chunk_bytes: int = CHUNK_BYTES) -> bytes:
    """Return ``plaintext`` as an encrypted artifact; the arguments as for :func:`make_header`."""
    size, sink = len(plaintext), io.BytesIO()
    header = make_header(
        data_key, plaintext=Digest.of(plaintext), size_bytes=size, salt=salt, chunk_bytes=chunk_bytes
    )
    seal(io.BytesIO(plaintext), sink, data_key, header)
    return sink.getvalue()


def chunks(source: BinaryIO, data_key: bytes) -> Iterator[bytes]:
    """Give the plaintext of the artifact in ``source``, each chunk as soon as it authenticated.

    What came is the artifact only once the last one came: until then it may be a cut-off front of it. The plaintext's
    digest is not computed.

    Raises:
        Malformed: no artifact.
        Unsupported: another version of the format.
        NotGenuine: another data key (``artifact.key``), or a file that was changed, cut, reordered or spliced.
    """
    header = read_header(source)
    cipher, left = _cipher(data_key, header), header.size_bytes
    for index in range(header.chunks):
        size = min(left, header.chunk_bytes)
        yield _open(cipher, header, index, _read(source, size + _TAG_BYTES))
        left -= size
    if source.read(1):
        raise _bad("trailing", f"bytes follow the last of {header.chunks} chunks")


def decrypt(source: BinaryIO, sink: BinaryIO, data_key: bytes, wanted: Digest) -> None:
    """Write the plaintext of the artifact in ``source`` to ``sink``, chunk by chunk, and check its digest.

    What is in ``sink`` is the artifact only once this returned.

    Args:
        wanted: SHA-256 of the plaintext, from a manifest that is trusted; the header is not asked.

    Raises:
        Malformed, Unsupported, NotGenuine: as :func:`chunks`; ``artifact.plaintext`` when it is another one.
    """
    hasher = hashlib.sha256()
    with ThreadPoolExecutor(max_workers=1) as beside:  # SHA-256 is the slower half
        pending: Future[None] | None = None
        for chunk in chunks(source, data_key):
            if pending is not None:
                pending.result()
            pending = beside.submit(hasher.update, chunk)
            sink.write(chunk)
    if hasher.digest() != wanted.value:
        raise _bad("plaintext", f"want {wanted}, got sha256:{hasher.hexdigest()}")


class Opened(io.RawIOBase):
    """An encrypted artifact as a file that can be read at any place: one chunk in memory, the last one asked for.

    For loaders that map a file and touch parts of it. Every chunk that is touched is authenticated; what was not
    touched was not, and the digest of the whole is not computed.
    """

    def __init__(self, source: BinaryIO, data_key: bytes) -> None:
        """Read the header of ``source``, a seekable file, and take ``data_key``.

        Raises:
            Malformed, Unsupported, NotGenuine: as :func:`chunks`; ``artifact.truncated`` or ``artifact.trailing``
                when the file has another length than its header says.
        """
        super().__init__()
        self._source, self._start = source, source.tell()
        self.header = read_header(source)
        self._cipher = _cipher(data_key, self.header)
        self._at = 0
        self._held: tuple[int, bytes] = (-1, b"")
        length = source.seek(0, io.SEEK_END) - self._start
        if length != self.header.file_bytes:
            code = "truncated" if length < self.header.file_bytes else "trailing"
            raise _bad(code, f"want {self.header.file_bytes} bytes, got {length}")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.header.size_bytes}[whence]
        if base + offset < 0:
            raise ValueError("a place before the beginning")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill ``buffer`` from where the last read ended, and return how many bytes there were.

        Raises:
            NotGenuine: a chunk does not authenticate (``artifact.chunk``) or is not there (``artifact.truncated``).
        """
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and self._at < self.header.size_bytes:
            index, inside = divmod(self._at, self.header.chunk_bytes)
            part = self._chunk(index)[inside : inside + len(view) - done]
            view[done : done + len(part)] = part
            done += len(part)
            self._at += len(part)
        return done

    def _chunk(self, index: int) -> bytes:
        if self._held[0] != index:
            header, sealed_bytes = self.header, self.header.chunk_bytes + _TAG_BYTES
            size = min(header.size_bytes - index * header.chunk_bytes, header.chunk_bytes)
            self._source.seek(self._start + HEADER_BYTES + index * sealed_bytes)
            sealed = _read(self._source, size + _TAG_BYTES)
            self._held = (index, _open(self._cipher, header, index, sealed))
        return self._held[1]


def _open(cipher: AESGCM, header: Header, index: int, sealed: bytes) -> bytes:
    """Return one chunk's plaintext."""
    from cryptography.exceptions import InvalidTag

    size = min(header.size_bytes - index * header.chunk_bytes, header.chunk_bytes)
    if len(sealed) != size + _TAG_BYTES:
        raise _bad("truncated", f"chunk {index} of {header.chunks} is cut short")
    try:
        return cipher.decrypt(_nonce(index), sealed, _associated(header, index))
    except InvalidTag:
        raise _bad("chunk", f"chunk {index} of {header.chunks} does not authenticate") from None


def _cipher(data_key: bytes, header: Header) -> AESGCM:
    """Return the cipher of this file.

    Raises:
        NotGenuine: ``artifact.key``: the header commits to another data key, or was changed.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(data_key) != KEY_BYTES:
        raise _bad("key", f"a data key has {KEY_BYTES} bytes, not {len(data_key)}")
    key, commitment = _derive(data_key, header)
    if not hmac.compare_digest(commitment, header.commitment):
        raise _bad("key", "the header was changed, or this is not the data key of this artifact")
    return AESGCM(key)


def _derive(data_key: bytes, header: Header) -> tuple[bytes, bytes]:
    """Return this file's AES key and commitment: HKDF-SHA256 of the data key, two blocks."""
    extracted = hmac.digest(header.salt, data_key, "sha256")
    info = _LABEL + header.described()
    key = hmac.digest(extracted, info + b"\x01", "sha256")
    return key, hmac.digest(extracted, key + info + b"\x02", "sha256")


def _associated(header: Header, index: int) -> bytes:
    return header.plaintext.value + _PLACE.pack(index, index == header.chunks - 1)


def _nonce(index: int) -> bytes:
    return struct.pack(">IQ", 0, index)


def _read(source: BinaryIO, size: int) -> bytes:
    """Return ``size`` bytes, or fewer at the end: a raw stream may give less than was asked for."""
    data = source.read(size)
    while len(data) < size and (part := source.read(size - len(data))):
        data += part
    return data


def _read_into(source: BinaryIO, view: memoryview) -> int:
    """Fill ``view`` and return how many bytes there were: fewer at the end alone."""
    done = 0
    while done < len(view) and (size := source.readinto(view[done:])):  # type: ignore[attr-defined]
        done += size
    return done


def _bad(code: str, why: str) -> NotGenuine:
    return NotGenuine(f"{_WHAT}: {why}", code=f"artifact.{code}")
