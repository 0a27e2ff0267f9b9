"""ELF: what a file asks its loader for, from program headers alone."""

import shutil
import subprocess
import sys
from contextlib import suppress

import pytest
from formats.elfs import elf
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import elf as reader
from tallystick.formats.elf import Elf

GOOD = elf(interpreter="/lib64/ld.so", needed=("libc.so.6", "libz.so.1"), soname="libx.so")


def test_interpreter_libraries_and_soname_are_read():
    assert reader.parse(GOOD) == Elf(
        interpreter="/lib64/ld.so", needed=("libc.so.6", "libz.so.1"), soname="libx.so"
    )
    assert reader.parse(elf()) == Elf(interpreter="", needed=(), soname="")
    assert reader.parse(elf(interpreter="/l")) == Elf(interpreter="/l", needed=(), soname="")


def test_tags_behind_the_end_of_the_table_do_not_count():
    assert 0xFFFF.to_bytes(8, "little") in GOOD  # a DT_NEEDED after DT_NULL, which no loader reads
    assert len(reader.parse(GOOD).needed) == 2


def test_a_table_without_an_end_ends_with_its_segment():
    end = bytes(16) + (1).to_bytes(8, "little") + (0xFFFF).to_bytes(8, "little")
    tags = (5).to_bytes(8, "little") + (0x400000).to_bytes(
        8, "little"
    )  # DT_STRTAB again, at the file's start
    assert reader.parse(GOOD.replace(end, tags + tags)).needed != ()


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (b"MZ" + GOOD[2:], Malformed, "magic at offset 0"),
        (GOOD[:40], Malformed, "ELF file: "),
        (GOOD[:4] + b"\x01" + GOOD[5:], Unsupported, "want 64-bit little-endian, got 0101"),
        (GOOD[:54] + b"\x20\0" + GOOD[56:], Malformed, "program headers: want 56-byte entries"),
        (GOOD[:56] + b"\xff\xff" + GOOD[58:], Malformed, "program headers: want"),
        (GOOD[:-40], Malformed, "want bytes within the file's"),
        (elf(needed=("a",), string_address=0x10), Malformed, "DT_STRTAB: want an address"),
        (elf(interpreter="/l").replace(b"/l\0", b"/ll"), Malformed, "PT_INTERP: want a text that ends"),
    ],
)
def test_tables_that_leave_the_file_are_refused_by_name(data, error, said):
    with pytest.raises(error) as caught:
        reader.parse(data)
    assert said in str(caught.value)


@given(st.binary(max_size=300), st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=8))
def test_arbitrary_bytes_never_crash_the_reader(data, at, put):
    nearly = bytearray(GOOD)
    nearly[at : at + len(put)] = put
    for case in (data, b"\x7fELF" + data, bytes(nearly)):
        with suppress(Malformed, Unsupported):
            reader.parse(case)


def test_readelf_says_the_same_of_a_real_program():
    """binutils where it is installed: code we did not write."""
    program = shutil.which("readelf")
    if program is None or sys.platform != "linux":
        pytest.skip("readelf is not installed")
    done = subprocess.run([program, "-dW", "/bin/sh"], capture_output=True, text=True, check=True)
    wanted = [line.split("[")[1].rstrip("]") for line in done.stdout.splitlines() if "(NEEDED)" in line]
    with open("/bin/sh", "rb") as stream:
        assert list(reader.parse(stream.read()).needed) == wanted
