"""Which component needs which is read from the files: loader tables, interpreters, links between them."""

from formats.elfs import elf
from sbom import builds
from sbom.builds import BUSYBOX, CBOR, LIBC, OWN

from tallystick.sbom import check, make, parts
from tallystick.sbom.links import links
from tallystick.sbom.scan import scan

LOADER = "usr/lib/ld-linux.so.2"
FILES = (
    ("bin", b"usr/bin", 0o120777, OWN),
    ("init", b"#! /bin/sh -e\n", 0o100755, OWN),
    ("lib64/ld-linux.so.2", b"../usr/lib/ld-linux.so.2", 0o120777, LIBC),
    ("usr/bin/busybox", elf(), 0o100755, BUSYBOX),
    ("usr/bin/sh", b"busybox", 0o120777, BUSYBOX),
    (LOADER, elf(soname="ld-linux.so.2"), 0o100755, LIBC),
    ("usr/lib/libc.so.6", elf(needed=("ld-linux.so.2",)), 0o100755, LIBC),
    (
        "usr/lib/python/_cbor2.so",
        elf(interpreter="/lib64/ld-linux.so.2", needed=("libc.so.6", "libgone.so.1")),
        0o100644,
        CBOR,
    ),
    ("usr/lib/python/broken.so", b"\x7fELF and no more", 0o100644, CBOR),
    ("usr/lib/python/loop", b"loop", 0o120777, CBOR),
    ("usr/lib/python/round", b"#!/usr/lib/python/chase/x\n", 0o100755, CBOR),
    ("usr/lib/python/chase", b"chase/chase", 0o120777, CBOR),
    ("usr/lib/python/script", b"#!../python/loop\n", 0o100755, CBOR),
)


def found(files=FILES):
    made = builds.make(files)
    contents = next(c for c in made.build.contents if c.product == "initramfs")
    return links(contents, scan(made.products["initramfs"], "initramfs").files)


def test_loader_tables_scripts_and_links_become_edges():
    assert found() == {
        OWN.ref: {BUSYBOX.ref},  # /init -> /bin/sh -> usr/bin/sh -> busybox
        CBOR.ref: {LIBC.ref},  # by the library's name, and by the interpreter behind a link
        LIBC.ref: set(),  # its files need each other only
    }


def test_links_out_of_the_root_and_in_circles_lead_nowhere():
    strange = (
        ("a", b"#!/up/x\n", 0o100755, OWN),
        ("round", b"round/round", 0o120777, OWN),
        ("b", b"#!/round\n", 0o100755, OWN),
        ("c", b"#!/absolute\n", 0o100755, BUSYBOX),
        ("absolute", b"/usr/x", 0o120777, BUSYBOX),
        ("up", b"../../../usr", 0o120777, OWN),
        ("usr/x", b"x", 0o100755, CBOR),
    )
    assert found(strange) == {OWN.ref: {CBOR.ref}, BUSYBOX.ref: {CBOR.ref}}


def test_a_bom_with_the_edges_holds():
    made = builds.make(FILES)
    bom = make.make(made.build, created=make.created_of(made.build), links=found())
    edges = {edge["ref"]: edge["dependsOn"] for edge in bom["dependencies"]}
    assert edges[CBOR.ref] == [LIBC.ref]
    assert edges[LIBC.ref] == []
    assert check.check_document(bom) == ()
    firmware = {item.name: item.digest for item in made.build.firmware}
    assert check.check_contents(bom, parts.digests(made.build), made.build.contents, firmware) == ()
