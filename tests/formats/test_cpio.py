"""cpio and initramfs: what the kernel would unpack, all of it, and nothing that lies."""

import gzip
import lzma
import shutil
import subprocess
from contextlib import suppress

import pytest
from formats.cpios import archive, entry, trailer
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import cpio, initramfs

FILES = [("bin", b"", 0o40755), ("bin/sh", b"#!", 0o100755), ("sh", b"bin/sh", 0o120777)]


def paths(data):
    return [found.path for found in initramfs.read(data).entries]


def test_an_archive_reads_as_it_was_written():
    data = archive(FILES)
    found = cpio.read(data)
    assert [(e.path, bytes(e.data), e.mode) for e in found.entries] == FILES
    assert [e.mode_text for e in found.entries] == ["0040755", "0100755", "0120777"]
    assert [e.is_directory for e in found.entries] == [True, False, False]
    assert found.end == len(data)


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[a-zé]{1,9}(/[a-z]{1,5}){0,3}", fullmatch=True),
            st.binary(max_size=9),
            st.just(0o100644),
        )
    )
)
def test_every_archive_reads_back(files):
    found = cpio.read(archive(files))
    assert [(e.path, bytes(e.data), e.mode) for e in found.entries] == files


@given(st.binary() | st.binary().map(lambda tail: archive(FILES)[:-7] + tail))
def test_arbitrary_bytes_never_crash_the_readers(data):
    with suppress(Malformed, Unsupported):
        cpio.read(data)
    with suppress(Malformed, Unsupported):
        initramfs.read(data)


@given(st.integers(0, len(archive(FILES)) - 1), st.binary(min_size=1, max_size=4))
def test_nearly_right_archives_never_crash_the_readers(at, put):
    data = bytearray(archive(FILES))
    data[at : at + len(put)] = put
    for packed in (bytes(data), gzip.compress(bytes(data)), lzma.compress(bytes(data))):
        with suppress(Malformed, Unsupported):
            initramfs.read(packed)


@pytest.mark.parametrize("length", range(len(archive(FILES))))
def test_every_truncation_is_refused(length):
    with pytest.raises((Malformed, Unsupported)):
        cpio.read(archive(FILES)[:length])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (entry("a", b"x", size=0xFFFFFFFF) + trailer(), "size of b'a': want at most"),
        (entry("../etc/passwd", b"x") + trailer(), "a plain path inside the root"),
        (entry("/etc/passwd", b"x") + trailer(), "a plain path inside the root"),
        (entry("./a", b"x") + trailer(), "a plain path inside the root"),
        (entry("a//b", b"x") + trailer(), "a plain path inside the root"),
        (entry("a/", b"x") + trailer(), "a plain path inside the root"),
        (entry(b"a\0b", b"x") + trailer(), "one final zero byte"),
        (entry("a" * 5000) + trailer(), "namesize at offset 0: want 2 to 4096"),
        (entry("d", b"data", 0o40755) + trailer(), "data only in files and symbolic links"),
        (entry("TRAILER!!!", b"hidden", 0), "trailer: want no data"),
        (entry("a", b"x")[:-1] + b"y" + trailer(), "padding at offset"),
        (entry("a").replace(b"070701", b"070702"), "magic at offset 0: want 070701"),
        (entry("a").replace(b"0000", b"+0_0", 1), "hexadecimal fields"),
        (entry("a", b"x", nlink=2) + trailer(), "a hard link"),
    ],
)
def test_what_lies_is_refused_by_name(data, said):
    with pytest.raises((Malformed, Unsupported)) as caught:
        cpio.read(data)
    assert said in str(caught.value)


def test_a_second_archive_behind_the_first_is_seen():
    """The kernel unpacks all of them, so a reader that stops at the trailer misses what boots."""
    second = archive([("planted", b"x", 0o100755)])
    first = archive(FILES)
    for data in (
        first + second,
        first + bytes(512) + second,
        lzma.compress(first) + bytes(4) + lzma.compress(second),
        gzip.compress(first) + gzip.compress(second),
        lzma.compress(first) + second,
        lzma.compress(first + bytes(8) + second),
    ):
        found = initramfs.read(data)
        assert [e.path for e in found.entries] == ["bin", "bin/sh", "sh", "planted"]
        assert found.archives == 2
    assert initramfs.read(first + bytes(512) + second).padding_bytes == 512


def test_bytes_behind_the_archives_are_refused():
    with pytest.raises(Unsupported, match="want cpio, xz or gzip, got 7061796c6f61"):
        initramfs.read(archive(FILES) + b"payload")


def test_an_unknown_compression_is_named():
    with pytest.raises(Unsupported, match="got zstd"):
        initramfs.read(b"\x28\xb5\x2f\xfd" + bytes(16))


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_bomb_is_refused_at_its_bound(pack):
    bomb = pack(bytes(8 << 20))
    with pytest.raises(Malformed, match="no more than the unpacked size allowed"):
        initramfs.read(bomb, max_bytes=1 << 20)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_compressed_part_inside_a_compressed_part_is_refused(pack):
    with pytest.raises(Malformed, match="no more than the unpacked size allowed"):
        initramfs.read(pack(pack(archive(FILES))))


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_truncated_stream_is_refused(pack):
    data = pack(archive([("a", bytes(range(256)) * 999, 0o100644)]))
    for length in (7, len(data) // 2, len(data) - 1):
        with pytest.raises((Malformed, Unsupported)):
            initramfs.read(data[:length])
    with pytest.raises(Malformed, match=r"a compressed stream|a whole compressed stream"):
        initramfs.read(data[: len(data) // 2] + b"\xff" * 40)


def test_another_writer_s_archive_reads_the_same(tmp_path):
    """GNU cpio where it is installed: code we did not write."""
    program = shutil.which("cpio")
    if program is None:
        pytest.skip("cpio is not installed")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("dir/file")
    done = subprocess.run(
        [program, "-o", "-H", "newc", "--quiet"],
        input=b"dir\ndir/file\nlink\n",
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    found = initramfs.read(done.stdout)
    assert [(e.path, bytes(e.data)) for e in found.entries] == [
        ("dir", b""),
        ("dir/file", b"text"),
        ("link", b"dir/file"),
    ]
