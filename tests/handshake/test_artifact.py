"""Encrypted artifacts: they stream, open at any place, and a cut, reordered, spliced or changed one is refused."""

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
HEADER_BYTES, CHUNK_BYTES = 120, 256 + 16


def opened(data: bytes, key: bytes = KEY) -> bytes:
    return b"".join(artifact.chunks(io.BytesIO(data), key))


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
    assert (header.file_bytes, header.digest) == (len(SEALED), Digest.of(SEALED[:HEADER_BYTES]))
    assert SEALED.startswith(b"TALLYENC\0\0\0\2\0\0\1\0" + struct.pack(">Q", 1280))


def test_a_raw_stream_that_gives_less_than_asked_is_read_to_the_end():
    class Trickle(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 7) if size > 0 else size)

    sink = io.BytesIO()
    artifact.decrypt(Trickle(SEALED), sink, KEY, Digest.of(PLAINTEXT))
    assert sink.getvalue() == PLAINTEXT


def test_chunks_are_written_as_they_come():
    sink = io.BytesIO()
    with pytest.raises(NotGenuine):
        artifact.decrypt(
            io.BytesIO(SEALED[: HEADER_BYTES + 3 * CHUNK_BYTES + 5]), sink, KEY, Digest.of(PLAINTEXT)
        )
    assert sink.getvalue() == PLAINTEXT[: 3 * 256]


def test_another_key_opens_nothing():
    refused(SEALED, "key", "this is not the data key of this artifact", key=bytes(32))


def test_a_key_of_another_size_is_no_key():
    refused(SEALED, "key", "a data key has 32 bytes, not 16", key=bytes(16))


def test_one_salt_gives_one_file_key_and_another_salt_another():
    other = artifact.encrypt(PLAINTEXT, KEY, salt=bytes(32), chunk_bytes=256)
    assert chunk(0) != chunk(0, other)


@pytest.mark.parametrize("end", [HEADER_BYTES, HEADER_BYTES + 5, HEADER_BYTES + 4 * CHUNK_BYTES, -1])
def test_a_cut_file_is_refused(end):
    refused(SEALED[:end], "truncated", "cut short")


def test_a_file_cut_between_chunks_with_its_size_adjusted_is_refused():
    short = SEALED[:16] + struct.pack(">Q", 4 * 256) + SEALED[24 : HEADER_BYTES + 4 * CHUNK_BYTES]
    refused(short, "key", "the header was changed")


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


def forged(plaintext: bytes, said: bytes) -> bytes:
    """By who has the data key: every chunk authenticates, and the digest is another one's."""
    header = artifact.make_header(
        KEY, plaintext=Digest.of(said), size_bytes=len(plaintext), salt=SALT, chunk_bytes=256
    )
    sink = io.BytesIO()
    artifact.seal(io.BytesIO(plaintext), sink, KEY, header)
    return sink.getvalue()


def test_the_final_chunk_is_no_other_chunk(monkeypatch):
    """The same key, digest and place: only the flag of the last one differs."""
    honest = artifact._associated
    monkeypatch.setattr(artifact, "_associated", lambda header, index: honest(header, index)[:-1] + b"\0")
    unflagged = artifact.encrypt(PLAINTEXT, KEY, salt=SALT, chunk_bytes=256)
    monkeypatch.undo()
    assert unflagged[:-CHUNK_BYTES] == SEALED[:-CHUNK_BYTES]
    refused(unflagged, "chunk", "chunk 4 of 5")


def test_a_plaintext_that_is_not_the_wanted_one_is_refused():
    lied = forged(b"done", b"said")
    for data, wanted in ((SEALED, b"other"), (lied, b"said")):
        with pytest.raises(NotGenuine, match=f"want {Digest.of(wanted)}, got sha256:") as caught:
            artifact.decrypt(io.BytesIO(data), io.BytesIO(), KEY, Digest.of(wanted))
        assert caught.value.code == "artifact.plaintext"


@pytest.mark.parametrize("size", [3, 5, 800])
def test_sealing_more_or_less_than_the_header_says_is_our_own_mistake(size):
    header = artifact.make_header(KEY, plaintext=Digest.of(b"said"), size_bytes=4, salt=SALT, chunk_bytes=256)
    with pytest.raises(ValueError, match="not as long as its header says"):
        artifact.seal(io.BytesIO(bytes(size)), io.BytesIO(), KEY, header)


def test_two_data_keys_do_not_open_one_file():
    """The commitment: GCM alone would let somebody with two keys make one file of both."""
    header = artifact.read_header(io.BytesIO(SEALED))
    assert artifact._derive(KEY, header)[1] == header.commitment
    swapped = SEALED[:88] + bytes(32) + SEALED[HEADER_BYTES:]
    refused(swapped, "key", "the header was changed")


class Huge(io.RawIOBase):
    """An encrypted file of any size whose chunks are made when they are read: each is full of its own number."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.header = artifact.make_header(KEY, plaintext=Digest.of(b"huge"), size_bytes=size, salt=SALT)
        self.at = 0

    @staticmethod
    def plaintext(at: int, size: int) -> bytes:
        return bytes([(at // artifact.CHUNK_BYTES) % 251]) * size

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + (self.header.file_bytes if whence == io.SEEK_END else 0)
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, size: int = -1) -> bytes:
        at, self.at = self.at, self.at + size
        if at == 0:
            return self.header.encode()[:size]
        index, inside = divmod(at - HEADER_BYTES, artifact.CHUNK_BYTES + 16)
        data = self.plaintext(index * artifact.CHUNK_BYTES, artifact.CHUNK_BYTES)
        associated = artifact._associated(self.header, index)
        sealed = artifact._cipher(KEY, self.header).encrypt(artifact._nonce(index), data, associated)
        return sealed[inside : inside + size]


class TestAtAnyPlace:
    def file(self, data: bytes = SEALED, before: bytes = b"") -> artifact.Opened:
        stream = io.BytesIO(before + data)
        stream.seek(len(before))
        return artifact.Opened(stream, KEY)

    @given(st.lists(st.tuples(st.integers(0, 1400), st.integers(0, 700)), max_size=8))
    def test_it_reads_as_the_plaintext_does(self, reads):
        ours, plain = self.file(before=b"a tar's header"), io.BytesIO(PLAINTEXT)
        for at, size in reads:
            assert ours.seek(at) == plain.seek(at) == ours.tell()
            assert ours.read(size) == plain.read(size)

    def test_it_is_a_file_to_others(self):
        with io.BufferedReader(self.file()) as stream:
            assert stream.read() == PLAINTEXT
            assert stream.seek(-3, io.SEEK_END) == 1277
            assert stream.read() == PLAINTEXT[-3:]
            assert (stream.readable(), stream.seekable()) == (True, True)
            with pytest.raises(ValueError, match="before the beginning"):
                self.file().seek(-1)

    def test_what_is_touched_is_authenticated(self):
        damaged = bytearray(SEALED)
        damaged[HEADER_BYTES + 2 * CHUNK_BYTES] ^= 1
        ours = self.file(bytes(damaged))
        assert ours.read(512) == PLAINTEXT[:512]
        with pytest.raises(NotGenuine, match="chunk 2 of 5") as caught:
            ours.read(1)
        assert caught.value.code == "artifact.chunk"
        ours.seek(768)
        assert ours.read() == PLAINTEXT[768:]

    def test_a_file_of_another_length_is_refused_before_anything_is_read(self):
        for data, code in ((SEALED[:-1], "truncated"), (SEALED + b"\0", "trailing")):
            with pytest.raises(NotGenuine) as caught:
                self.file(data)
            assert caught.value.code == f"artifact.{code}"

    def test_one_that_is_cut_later_is_refused_then(self):
        stream = io.BytesIO(SEALED)
        ours = artifact.Opened(stream, KEY)
        stream.truncate(HEADER_BYTES + CHUNK_BYTES)
        assert ours.read(256) == PLAINTEXT[:256]
        with pytest.raises(NotGenuine, match="chunk 1 of 5 is cut short"):
            ours.read(1)

    def test_sixty_four_gib_are_opened_at_their_ends(self):
        """Only the chunks that are read exist; the file is as long as the real one."""
        ours = artifact.Opened(Huge(64 << 30), KEY)
        for at in (0, (64 << 30) - 5, 37 << 30):
            ours.seek(at)
            assert ours.read(5) == Huge.plaintext(at, 5)
        assert ours.header.chunks == 65_536
        assert ours.seek(0, io.SEEK_END) == 64 << 30

    def test_an_empty_one_is_empty(self):
        assert self.file(artifact.encrypt(b"", KEY, salt=SALT)).read() == b""


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", Malformed, "header: want TALLYENC and 120 bytes"),
        (SEALED[:119], Malformed, "header: want TALLYENC"),
        (b"X" + SEALED[1:], Malformed, "header: want TALLYENC"),
        (SEALED[:8] + b"\0\0\0\1" + SEALED[12:], Unsupported, "version: want 2, got 1"),
        (SEALED[:12] + bytes(4) + SEALED[16:], Malformed, "chunk size: want 1 to 16777216 bytes, got 0"),
        (SEALED[:12] + b"\xff" * 4 + SEALED[16:], Malformed, "chunk size"),
        (SEALED[:16] + b"\xff" * 8 + SEALED[24:], Malformed, "size: want at most 4294967296 chunks"),
    ],
)
def test_what_is_no_artifact_is_named(data, error, words):
    with pytest.raises(error, match=words):
        opened(data)


def test_a_salt_and_a_data_key_have_one_size():
    for key, salt in ((KEY, SALT[:-1]), (KEY[:-1], SALT)):
        with pytest.raises(ValueError, match="a salt has 32 bytes and a data key 32"):
            artifact.encrypt(b"", key, salt=salt)


@pytest.mark.parametrize("number", range(5))
def test_the_format_is_the_one_that_is_written_down(number):
    """docs/models.md, "Encrypted artifacts", computed from its words with other code."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = b"tallystick encrypted artifact v2" + SEALED[:88]
    made = HKDF(hashes.SHA256(), 64, SALT, info).derive(KEY)
    assert made[32:] == SEALED[88:120]
    nonce = bytes(4) + number.to_bytes(8, "big")
    associated = Digest.of(PLAINTEXT).value + number.to_bytes(8, "big") + (b"\1" if number == 4 else b"\0")
    part = AESGCM(made[:32]).decrypt(nonce, chunk(number), associated)
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
