"""What is in a product is looked up in the product: planted, swapped and missing files have a name each."""

import gzip
import lzma
import struct
import zlib
from dataclasses import replace

import pytest
import support_pe
from formats.cpios import archive, entry, trailer
from formats.ocis import layout
from sbom import builds

from tallystick.build.records import Contents
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, Unsupported
from tallystick.sbom import coverage
from tallystick.sbom.scan import scan

MADE = builds.make()
LISTS = {contents.product: contents for contents in MADE.build.contents}
ENTRIES = [(path, data, mode) for path, data, mode, _ in builds.FILES]


def codes(products, lists=LISTS):
    return [
        (finding.code, finding.where) for one in coverage.cover(products, lists) for finding in one.findings
    ]


def initramfs(files):
    return {"initramfs": lzma.compress(archive(files), check=lzma.CHECK_CRC32)}


def test_a_true_list_covers_every_byte():
    initramfs_, uki = coverage.cover(MADE.products, LISTS)
    assert (initramfs_.product, initramfs_.files, initramfs_.unexplained_files) == ("initramfs", 5, 0)
    assert (uki.product, uki.files, uki.unexplained_bytes, uki.findings) == ("uki", 4, 0, ())
    assert initramfs_.size_bytes == sum(len(data) for _, data, _ in ENTRIES)
    coverage.require((initramfs_, uki))


def test_a_planted_file_is_found_and_its_bytes_counted():
    planted = [*ENTRIES, ("usr/bin/backdoor", b"evil bytes", 0o104755)]
    (found,) = coverage.cover(initramfs(planted), LISTS)
    assert [(f.code, f.where) for f in found.findings] == [("coverage.planted", "initramfs:usr/bin/backdoor")]
    assert (found.unexplained_files, found.unexplained_bytes) == (1, 10)
    with pytest.raises(NotGenuine, match="1 difference") as caught:
        coverage.require((found,))
    assert caught.value.findings == found.findings


def test_a_swapped_file_is_found_and_its_component_named():
    swapped = [(path, b"evil" if path == "lib/libc.so.6" else data, mode) for path, data, mode in ENTRIES]
    (found,) = coverage.cover(initramfs(swapped), LISTS)
    (finding,) = found.findings
    assert (finding.code, finding.where) == ("coverage.swapped", "initramfs:lib/libc.so.6")
    assert finding.note == builds.LIBC.ref
    assert str(Digest.of(b"evil")) in finding.got


def test_a_missing_file_and_another_mode_are_found():
    less = [(path, data, mode | 0o4000) for path, data, mode in ENTRIES if path != "init"]
    assert codes(initramfs(less[:1] + ENTRIES[1:2] + ENTRIES[3:])) == [
        ("coverage.mode", "initramfs:bin/busybox"),
        ("coverage.missing", "initramfs:init"),
    ]


def test_a_second_archive_over_the_first_is_found():
    """The kernel unpacks it over the first, so the file that boots is not the one that is listed."""
    data = MADE.products["initramfs"] + gzip.compress(archive([("init", b"evil", 0o100755)]))
    assert codes({"initramfs": data}) == [
        ("coverage.duplicate", "initramfs:init"),
        ("coverage.swapped", "initramfs:init"),
    ]


def test_an_unlisted_product_and_a_file_without_component_are_counted():
    (found,) = coverage.cover({"initramfs": MADE.products["initramfs"]}, {})
    assert found.findings[0].code == "coverage.unlisted"
    assert found.unexplained_files == found.files == 5
    lost = replace(
        LISTS["initramfs"],
        files=(replace(LISTS["initramfs"].files[0], component=""), *LISTS["initramfs"].files[1:]),
    )
    (found,) = coverage.cover({"initramfs": MADE.products["initramfs"]}, {"initramfs": lost})
    assert found.findings == ()
    assert (found.unexplained_files, found.unexplained_bytes) == (1, len(ENTRIES[0][1]))


def test_a_nested_product_is_taken_from_the_image_when_it_is_not_there_by_itself():
    both = coverage.cover({"uki": MADE.products["uki"]}, LISTS)
    assert [one.product for one in both] == ["initramfs", "uki"]
    assert all(not one.findings for one in both)


def test_an_initramfs_in_the_image_that_is_another_one_is_found():
    other = lzma.compress(archive([*ENTRIES, ("evil", b"x", 0o100755)]))
    uki = MADE.products["uki"].replace(MADE.products["initramfs"], b"")
    sections = [(".linux", b"kernel"), (".text", b"stub"), (".initrd", other)]
    assert ("coverage.planted", "initramfs:evil") in codes({"uki": support_pe.pe(sections)})
    found = codes({"uki": support_pe.pe(sections), "initramfs": MADE.products["initramfs"]})
    assert ("coverage.swapped", "uki:.initrd") in found
    assert ("coverage.nested", "uki:.initrd") in found
    assert len(uki) < len(MADE.products["uki"])


def test_bytes_between_and_behind_sections_are_seen():
    image = bytearray(MADE.products["uki"])
    at = image.rindex(b"stub") + 6  # in the padding of .text
    image[at] = 7
    assert codes({**MADE.products, "uki": bytes(image)}) == [
        ("coverage.planted", f"uki:(bytes {at - 2} to {at + 506})")
    ]
    tail = MADE.products["uki"] + b"tail"
    (finding,) = codes({**MADE.products, "uki": tail})
    assert finding == ("coverage.planted", f"uki:(bytes {len(tail) - 4} to {len(tail)})")


@pytest.mark.parametrize(
    ("data", "want", "got"),
    [
        (archive([("dev/console", b"", 0o020600)]), "character device 5:1", "character device 0:0"),
        (archive([("dev/mem", b"", 0o020600)]), "no device node", "character device 0:0"),
        (archive([("dev/console", b"", 0o060600)]), "character device 5:1", "block device 0:0"),
        (archive([("tmp", b"", 0o040777)]), "a folder that only its owner writes to", "mode 0040777"),
        (
            entry("x", b"").replace(b"00000000" * 2, b"000003E800000000", 1) + trailer(),
            "owner 0:0",
            "1000:0",
        ),
    ],
)
def test_what_a_list_has_no_field_for_is_checked_too(data, want, got):
    ((_, wanted, found),) = scan(data, "initramfs").odd
    assert (wanted, found) == (want, got)


def test_a_block_device_with_the_console_s_numbers_is_not_the_console():
    header = entry("dev/console", b"", 0o060600)
    data = header[:78] + b"0000000500000001" + header[94:] + trailer()
    assert scan(data, "initramfs").odd == (("dev/console", "character device 5:1", "block device 5:1"),)


def test_a_sticky_folder_and_the_console_are_ordinary():
    header = entry("dev/console", b"", 0o020600)
    numbers = b"00000005" + b"00000001"
    console = header[:78] + numbers + header[94:]
    data = console + archive([("tmp", b"", 0o041777), ("bin", b"", 0o040755)])
    assert scan(data, "initramfs").odd == ()


def test_an_oci_layer_and_its_documents_are_compared():
    files = [("bin", 0o40755, b""), ("bin/sh", 0o100755, b"#!x"), ("sh", 0o120777, b"bin/sh")]
    data = layout(files, extra=[("blobs/sha256/planted", 0o100644, b"evil")])
    found = {file.path: bytes(file.data) for file in scan(data, "oci").files}
    assert found["bin/sh"] == b"#!x"
    assert found["sh"] == b"bin/sh"
    assert {"index.json", "oci-layout", "blobs/sha256/planted"} <= set(found)
    listed = tuple(
        builds.contents_file(path, content, 0o120777 if path == "sh" else 0o100755 if path == "bin/sh" else 0o100644,
                             builds.OWN)
        for path, content in sorted(found.items())
        if "planted" not in path
    )  # fmt: skip
    lists = {"oci": Contents(product="oci", files=listed, components=(builds.OWN,))}
    assert codes({"oci": data}, lists) == [("coverage.planted", "oci:blobs/sha256/planted")]


def eif(sections):
    """Return an EIF with ``sections``: (kind, bytes)."""
    offsets, sizes, body = [], [], b""
    for kind, data in sections:
        offsets.append(548 + len(body))
        sizes.append(len(data))
        body += struct.pack(">HHQ", kind, 0, len(data)) + data
    pad = [0] * (32 - len(sections))
    head = b".eif" + struct.pack(
        ">HHQQHH32Q32QI", 4, 0, 1, 1, 0, len(sections), *offsets, *pad, *sizes, *pad, 0
    )
    return head + struct.pack(">I", zlib.crc32(body, zlib.crc32(head))) + body


def test_the_sections_of_an_eif_are_named_by_their_kind():
    data = eif([(1, b"kernel"), (2, b"console=ttyS0"), (3, b"one"), (3, b"two"), (5, b"{}")])
    assert [(file.path, len(file.data)) for file in scan(data, "eif").files] == [
        ("(headers)", 548),
        ("kernel", 6),
        ("cmdline", 13),
        ("ramdisk", 3),
        ("ramdisk-2", 3),
        ("metadata", 2),
    ]


def test_what_is_no_product_is_refused():
    with pytest.raises(Unsupported, match="want PE, EIF, OCI layout, cpio, xz, gzip or firmware"):
        scan(b"#!/bin/sh\n", "product")
    with pytest.raises(Malformed):
        coverage.cover({"initramfs": MADE.products["initramfs"][:-9]}, LISTS)
