"""tar archives: what Python's own tarfile writes is read, and what lies or leaves the root is refused."""

import io
import tarfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import tar

FILES = [("bin", 0o40755, b""), ("bin/sh", 0o100755, b"#!x"), ("sh", 0o120777, b"bin/sh")]


def archive(files=FILES, form=tarfile.USTAR_FORMAT, **changes):
    """Return an archive of (path, mode, data or link target), written by code that is not ours."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as out:
        for path, mode, data in files:
            info = tarfile.TarInfo(path)
            info.mode = mode & 0o7777
            kinds = {0o040000: tarfile.DIRTYPE, 0o120000: tarfile.SYMTYPE, 0o010000: tarfile.FIFOTYPE}
            info.type = kinds.get(mode & 0o170000, tarfile.REGTYPE)
            if info.type == tarfile.SYMTYPE:
                info.linkname = data.decode()
            elif info.isreg():
                info.size = len(data)
            for name, value in changes.items():
                setattr(info, name, value)
            out.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return stream.getvalue()


def damaged(data, at, put):
    """Return ``data`` with ``put`` at ``at`` and the first header's checksum made right again."""
    out = bytearray(data)
    out[at : at + len(put)] = put
    out[148:156] = b" " * 8
    out[148:156] = b"%06o\0 " % sum(out[:512])
    return bytes(out)


def test_what_tarfile_writes_is_read():
    found = list(tar.read(archive()))
    assert [(e.path, e.mode, bytes(e.data)) for e in found] == FILES
    assert [e.mode_text for e in found] == ["0040755", "0100755", "0120777"]
    assert [e.is_directory for e in found] == [True, False, False]


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[a-zé]{1,20}(/[a-z]{1,30}){0,4}", fullmatch=True),
            st.just(0o100644),
            st.binary(max_size=1200),
        )
    )
)
def test_every_archive_of_files_reads_back(files):
    assert [(e.path, e.mode, bytes(e.data)) for e in tar.read(archive(files))] == files


def test_long_names_are_split_as_ustar_splits_them():
    path = "a" * 90 + "/" + "b" * 90
    (entry,) = tar.read(archive([(path, 0o100644, b"")]))
    assert entry.path == path


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (archive([("../etc/passwd", 0o100644, b"x")]), "a plain path inside the root"),
        (archive([("/etc/passwd", 0o100644, b"x")]), "a plain path inside the root"),
        (archive([("a/./b", 0o100644, b"x")]), "a plain path inside the root"),
        (archive([("x", 0o010644, b"")]), "got FIFO"),
        (archive(FILES, tarfile.GNU_FORMAT), "want ustar, version 00"),
        (archive([("é" * 99, 0o100644, b"")], tarfile.PAX_FORMAT), "got pax header"),
        (archive([("x", 0o100644, b"")], type=tarfile.LNKTYPE, linkname="y"), "got hard link"),
        (archive()[:700], "512 bytes, got 188 left"),
        (archive() + b"x", "zeros to the end"),
        (archive()[:-9728] + bytes(512), "zeros to the end"),
        (archive().replace(b"bin/", b"bim/", 1), "checksum at offset 0"),
        (damaged(archive(), 124, b"77777777777\0"), "size at offset 0: want 0, as for all but files"),
        (damaged(archive(FILES[1:2]), 124, b"77777777777\0"), "size at offset 0: want at most"),
        (damaged(archive(FILES[1:2]), 124, b"-0000000003\0"), "an octal number"),
        (damaged(archive(FILES[1:2]), 99, b"x"), "zeros behind the text"),
        (damaged(archive(FILES[1:2]), 600, b"x"), "padding of bin/sh"),
    ],
)
def test_what_lies_is_refused_by_name(data, said):
    with pytest.raises((Malformed, Unsupported)) as caught:
        list(tar.read(data))
    assert said in str(caught.value)


@given(st.binary(max_size=2000) | st.binary(max_size=60).map(lambda tail: archive()[:480] + tail))
def test_arbitrary_bytes_never_crash_the_reader(data):
    with suppress(Malformed, Unsupported):
        list(tar.read(data))


@given(st.integers(0, 2047), st.binary(min_size=1, max_size=12))
def test_nearly_right_archives_never_crash_the_reader(at, put):
    with suppress(Malformed, Unsupported):
        list(tar.read(damaged(archive(), at, put)))
