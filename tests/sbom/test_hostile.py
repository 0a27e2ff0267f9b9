"""Images and SBOMs that somebody made to hurt: clear errors, nothing written, and no file where no list has it."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from contextlib import suppress

import pytest
import support_pe
from formats.cpios import archive
from formats.ocis import layout
from hypothesis import given
from hypothesis import strategies as st
from sbom import builds, test_vendored
from sbom.test_coverage import eif

from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.formats import initramfs
from tallystick.sbom import coverage, vendored
from tallystick.sbom.deployable import NOTHING
from tallystick.sbom.scan import scan

MADE = builds.make(test_vendored.FILES)
LISTS = {contents.product: contents for contents in MADE.build.contents}
OCI = layout([("bin", 0o40755, b""), ("bin/sh", 0o100755, b"#!x")])
EIF = eif([(1, b"kernel"), (2, b"console"), (3, MADE.products["initramfs"]), (5, b"{}")])
GOOD = (MADE.products["uki"], MADE.products["initramfs"], OCI, EIF)


@given(
    st.sampled_from(GOOD),
    st.floats(0, 1, exclude_max=True),
    st.binary(min_size=1, max_size=24),
    st.booleans(),
)
def test_damaged_images_are_taken_apart_or_refused(good, where, put, cut):
    at = int(where * len(good))
    damaged = good[:at] if cut else good[:at] + put + good[at + len(put) :]
    with suppress(Malformed, NotGenuine, Unsupported):
        found = scan(damaged, "product")
        vendored.of_release(MADE.build.contents, {"initramfs": found.files}, NOTHING)


@given(
    st.binary(max_size=64),
    st.sampled_from([b"MZ", b".eif", b"070701", b"\xfd7zXZ\x00", b"\x1f\x8b", b"\x7fELF"]),
)
def test_beginnings_alone_are_refused(rest, magic):
    with suppress(Malformed, NotGenuine, Unsupported):
        scan(magic + rest, "product")


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress])
def test_an_initramfs_inside_a_uki_that_unpacks_to_gigabytes_is_refused_early(pack, monkeypatch):
    monkeypatch.setitem(initramfs.read.__kwdefaults__, "max_bytes", 1 << 20)
    bomb = pack(bytes(64 << 20))
    uki = support_pe.pe([(".linux", b"kernel"), (".text", b"stub"), (".initrd", bomb)])
    lists = {"uki": LISTS["uki"], "initramfs": LISTS["initramfs"]}
    with pytest.raises(Malformed, match="no more than the unpacked size allowed"):
        coverage.cover({"uki": uki}, lists)


def test_a_file_behind_a_link_is_found_for_it_lands_elsewhere():
    """Unpacked in order, the second entry overwrites bin/busybox, and no list of paths tells."""
    files = [("a", b"bin", 0o120777), ("bin/busybox", b"good", 0o100755), ("a/busybox", b"evil", 0o100755)]
    odd = scan(archive(files), "initramfs").odd
    assert odd == (("a/busybox", "no file behind a symbolic link", "one that lands where a leads"),)
    layers = layout([("a", 0o120777, b"bin"), ("a/b/c", 0o100755, b"evil")])
    assert [path for path, *_ in scan(layers, "oci").odd] == ["a/b/c"]


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a//b", "./a", ""])
def test_names_that_leave_the_root_are_refused_in_every_archive(name):
    with pytest.raises(Malformed):
        scan(archive([(name, b"x", 0o100644)]), "initramfs")
    with pytest.raises(Malformed):
        scan(layout([(name, 0o100644, b"x")]), "oci")


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_hard_links_devices_and_pipes_in_a_layer_are_refused(kind):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo("evil")
        entry.type, entry.linkname = kind, "../../etc/passwd" if kind == tarfile.LNKTYPE else ""
        tar.addfile(entry)
    with pytest.raises(Unsupported, match="want file, folder or symbolic link"):
        scan(stream.getvalue(), "oci")


def test_nothing_is_written_while_images_are_taken_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    covered = coverage.cover(MADE.products, LISTS)
    vendored.of_release(MADE.build.contents, {one.product: one.scanned.files for one in covered}, NOTHING)
    assert list(tmp_path.iterdir()) == []
