"""Encrypted artifacts: they stream, and a cut, reordered, spliced or changed one is refused."""

from __future__ import annotations

import io
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.handshake import artifact

KEY, SALT = bytes(range(32)), bytes(range(32, 64))
PLAINTEXT = bytes(range(256)) * 5  # 1280 bytes: five chunks of 256
SEALED = artifact.encrypt(PLAINTEXT, KEY, salt=SALT, chunk_bytes=256)
HEADER_BYTES, CHUNK_BYTES = 88, 256 + 16


def opened(data: bytes, key: bytes = KEY) -> bytes:
    sink = io.BytesIO()
    artifact.decrypt(io.BytesIO(data), sink, key)
    return sink.getvalue()


def refused(data: bytes, code: str, words: str, key: bytes = KEY) -> None:
    with pytest.raises(NotGenuine, match=words) as caught:
        opened(data, key)
    assert caught.value.code == f"artifact.{code}"


def chunk(number: int, data: bytes = SEALED) -> bytes:
    start = HEADER_BYTES + number * CHUNK_BYTES
    return data[start : start + CHUNK_BYTES]


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 512, 1000])
def test_every_size_comes_back(size):
    sealed = artifact.encrypt(PLAINTEXT[:size], KEY, salt=SALT, chunk_bytes=256)
    assert opened(sealed) == PLAINTEXT[:size]
    assert len(sealed) == HEADER_BYTES + size + 16 * max(1, -(-size // 256))


def test_the_header_says_what_is_inside():
    header = artifact.read_header(io.BytesIO(SEALED))
    assert (header.chunk_bytes, header.size_bytes, header.chunks) == (256, 1280, 5)
    assert (header.plaintext, header.salt) == (Digest.of(PLAINTEXT), SALT)
    assert SEALED.startswith(b"TALLYENC\0\0\0\1\0\0\1\0" + struct.pack(">Q", 1280))


def test_a_raw_stream_that_gives_less_than_asked_is_read_to_the_end():
    class Trickle(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 7) if size > 0 else size)

    sink = io.BytesIO()
    artifact.decrypt(Trickle(SEALED), sink, KEY)
    assert sink.getvalue() == PLAINTEXT


def test_chunks_are_written_as_they_come():
    sink = io.BytesIO()
    with pytest.raises(NotGenuine):
        artifact.decrypt(io.BytesIO(SEALED[: HEADER_BYTES + 3 * CHUNK_BYTES + 5]), sink, KEY)
    assert sink.getvalue() == PLAINTEXT[: 3 * 256]


def test_another_key_opens_nothing():
    refused(SEALED, "chunk", "chunk 0 of 5 does not authenticate", key=bytes(32))


def test_a_key_of_another_size_is_no_key():
    refused(SEALED, "key", "a key has 32 bytes, not 16", key=bytes(16))


def test_one_salt_gives_one_file_key_and_another_salt_another():
    other = artifact.encrypt(PLAINTEXT, KEY, salt=bytes(32), chunk_bytes=256)
    assert chunk(0) != chunk(0, other)


@pytest.mark.parametrize("end", [HEADER_BYTES, HEADER_BYTES + 5, HEADER_BYTES + 4 * CHUNK_BYTES, -1])
def test_a_cut_file_is_refused(end):
    refused(SEALED[:end], "truncated", "cut short")


def test_a_file_cut_between_chunks_with_its_size_adjusted_is_refused():
    short = SEALED[:16] + struct.pack(">Q", 4 * 256) + SEALED[24 : HEADER_BYTES + 4 * CHUNK_BYTES]
    refused(short, "chunk", "chunk 0 of 4 does not authenticate")


def test_bytes_after_the_last_chunk_are_refused():
    refused(SEALED + b"\0", "trailing", "bytes follow the last of 5 chunks")


def test_swapped_chunks_are_refused():
    swapped = SEALED[:HEADER_BYTES] + chunk(1) + chunk(0) + chunk(2) + chunk(3) + chunk(4)
    refused(swapped, "chunk", "chunk 0 of 5")


def test_a_repeated_chunk_is_refused():
    repeated = SEALED[:HEADER_BYTES] + chunk(0) + chunk(0) + chunk(2) + chunk(3) + chunk(4)
    refused(repeated, "chunk", "chunk 1 of 5")


def test_a_chunk_of_another_file_under_the_same_key_is_refused():
    other = artifact.encrypt(PLAINTEXT[::-1], KEY, salt=SALT, chunk_bytes=256)
    spliced = SEALED[:HEADER_BYTES] + chunk(0) + chunk(1, other) + chunk(2) + chunk(3) + chunk(4)
    refused(spliced, "chunk", "chunk 1 of 5")


def test_the_last_chunk_of_a_shorter_file_does_not_end_a_longer_one():
    """The same key, salt and plaintext, so that only the final flag and the header differ."""
    short = artifact.encrypt(PLAINTEXT[:512], KEY, salt=SALT, chunk_bytes=256)
    refused(SEALED[:HEADER_BYTES] + chunk(0) + chunk(1, short), "chunk", "chunk 1 of 5")


def test_a_plaintext_that_is_not_the_headers_is_refused():
    """Made by whoever has the key: every chunk authenticates, and the digest does not."""
    header = artifact.Header(chunk_bytes=256, size_bytes=4, plaintext=Digest.of(b"said"), salt=SALT)
    sink = io.BytesIO()
    with pytest.raises(ValueError, match="not the one its header describes"):
        artifact.seal(io.BytesIO(b"done"), sink, KEY, header)
    refused(sink.getvalue(), "plaintext", "not the one its header names")


def test_sealing_more_than_the_header_says_is_our_own_mistake():
    header = artifact.Header(chunk_bytes=256, size_bytes=4, plaintext=Digest.of(b"said"), salt=SALT)
    with pytest.raises(ValueError, match="not the one its header describes"):
        artifact.seal(io.BytesIO(b"said" * 200), io.BytesIO(), KEY, header)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", Malformed, "header: want TALLYENC and 88 bytes"),
        (SEALED[:87], Malformed, "header: want TALLYENC"),
        (b"X" + SEALED[1:], Malformed, "header: want TALLYENC"),
        (SEALED[:8] + b"\0\0\0\2" + SEALED[12:], Unsupported, "version: want 1, got 2"),
        (SEALED[:12] + bytes(4) + SEALED[16:], Malformed, "chunk size: want 1 to 16777216 bytes, got 0"),
        (SEALED[:12] + b"\xff" * 4 + SEALED[16:], Malformed, "chunk size"),
        (SEALED[:16] + b"\xff" * 8 + SEALED[24:], Malformed, "size: want at most 4294967296 chunks"),
    ],
)
def test_what_is_no_artifact_is_named(data, error, words):
    with pytest.raises(error, match=words):
        opened(data)


def test_a_salt_has_one_size():
    with pytest.raises(ValueError, match="a salt has 32 bytes, not 31"):
        artifact.encrypt(b"", KEY, salt=SALT[:-1])


@pytest.mark.parametrize("number", range(5))
def test_the_format_is_the_one_that_is_written_down(number):
    """docs/evidence-tpm.md, "Encrypted artifacts", computed from its words with other code."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = b"tallystick encrypted artifact v1"
    file_key = HKDF(hashes.SHA256(), 32, SALT, info).derive(KEY)
    nonce = bytes(4) + number.to_bytes(8, "big")
    associated = SEALED[:88] + number.to_bytes(8, "big") + (b"\1" if number == 4 else b"\0")
    part = AESGCM(file_key).decrypt(nonce, chunk(number), associated)
    assert part == PLAINTEXT[256 * number : 256 * number + 256]


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(at, flip):
    damaged = bytearray(SEALED)
    damaged[at] ^= flip
    with pytest.raises((NotGenuine, Malformed, Unsupported)):
        opened(bytes(damaged))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_name(data):
    with suppress(NotGenuine, Malformed, Unsupported):
        opened(artifact.MAGIC + data)
        raise AssertionError("random bytes opened")


@given(st.binary(max_size=600), st.integers(1, 200))
def test_what_is_sealed_opens(plaintext, size):
    assert opened(artifact.encrypt(plaintext, KEY, salt=SALT, chunk_bytes=size)) == plaintext
