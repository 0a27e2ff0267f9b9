"""The writers that run inside Nix, called here: their bytes read back by the project's own strict readers."""

from __future__ import annotations

import json
import stat
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.build import nar as our_nar
from tallystick.formats import cpio as cpio_format
from tallystick.formats import eif as eif_format
from tallystick.formats import initramfs as initramfs_format
from tallystick.formats import oci as oci_format
from tallystick.formats import pe as pe_format

WRITERS = Path(__file__).resolve().parents[2] / "nix/src"


@pytest.fixture(scope="module", autouse=True)
def _writers_on_path():
    sys.path.insert(0, str(WRITERS))
    yield
    sys.path.remove(str(WRITERS))
    for name in [p.stem for p in WRITERS.glob("*.py")]:
        if getattr(sys.modules.get(name), "__file__", "").startswith(str(WRITERS)):
            del sys.modules[name]


FILE, LINK, FOLDER = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755
NAMES = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}", fullmatch=True)


@given(st.dictionaries(NAMES, st.binary(max_size=50), max_size=8))
def test_cpio_reads_back_and_does_not_depend_on_the_order(files):
    import cpio

    entries = [(name, FILE, data, (0, 0)) for name, data in files.items()]
    made = cpio.archive(entries)
    assert made == cpio.archive(entries[::-1])
    found = cpio_format.read(memoryview(made), "archive").entries
    assert [(e.path, bytes(e.data)) for e in found] == sorted(files.items())
    assert all((e.uid, e.gid) == (0, 0) for e in found)


def test_a_tree_becomes_an_initramfs_with_the_modes_of_its_list(tmp_path):
    import contents
    import initramfs

    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/tool").write_bytes(b"program")
    (tree / "bin/link").symlink_to("tool")
    records = [
        contents.file_record("bin/tool", b"program", stat.S_IFREG | 0o755, "x"),
        contents.file_record("bin/link", b"tool", LINK, "x"),
        contents.file_record("dev/console", b"", stat.S_IFCHR | 0o600, "x"),
    ]
    contents.write(tmp_path / "list", "guest", records, [])
    initramfs.part(tree, tmp_path / "list", tmp_path / "out")
    found = {e.path: e for e in initramfs_format.read((tmp_path / "out").read_bytes()).entries}
    assert (found["bin/tool"].mode_text, bytes(found["bin/tool"].data)) == ("0100755", b"program")
    assert (found["bin/link"].mode_text, bytes(found["bin/link"].data)) == ("0120777", b"tool")
    assert found["dev/console"].device == (5, 1)
    assert {"proc", "sys", "run", "dev", "tmp", "bin"} <= {p for p, e in found.items() if e.is_directory}


def test_xz_is_what_the_kernel_can_decode(tmp_path):
    """CRC32 (the kernel knows no CRC64) and the x86 filter: XZ file format 1.1, sections 2.1.1.2 and 5.3.2."""
    import contents
    import initramfs

    (tmp_path / "tree").mkdir()
    contents.write(tmp_path / "list", "guest", [], [])
    initramfs.part(tmp_path / "tree", tmp_path / "list", tmp_path / "out")
    data = (tmp_path / "out").read_bytes()
    assert data[6:8] == b"\x00\x01"  # stream flags: CRC32
    assert data[14] == 0x04  # block header behind size and flags: first filter is BCJ x86
    assert len(data) % 4 == 0  # so that parts can follow one another


def stub(sections: int = 1, *, symbols: bytes = b"") -> bytes:
    """Return a small PE image as systemd's stubs are laid out, with a dangling symbol table."""
    pe, optional = 0x80, 0xF0
    header = bytearray(0x400)
    header[:2] = b"MZ"
    struct.pack_into("<I", header, 0x3C, pe)
    header[pe : pe + 4] = b"PE\0\0"
    struct.pack_into("<HHIIIHH", header, pe + 4, 0x8664, sections, 0x12345678, 0x9999, 7, optional, 0x206)
    struct.pack_into("<H", header, pe + 24, 0x20B)
    struct.pack_into("<II", header, pe + 24 + 32, 0x200, 0x200)
    struct.pack_into("<II", header, pe + 24 + 56, 0x1000, 0x400)
    struct.pack_into("<I", header, pe + 24 + 64, 0xABCD)  # CheckSum
    struct.pack_into("<I", header, pe + 24 + 108, 16)
    body = b""
    for index in range(sections):
        numbers = (0x10, 0x400 + 0x200 * index, 0x200, 0x400 + 0x200 * index, 0, 0, 0, 0, 0x60000020)
        at = pe + 24 + optional + 40 * index
        struct.pack_into("<8sIIIIIIHHI", header, at, f".s{index}".encode(), *numbers)
        body += bytes([index + 1]) * 0x10 + bytes(0x1F0)
    return bytes(header) + body + symbols


def test_sections_are_appended_and_nothing_of_the_build_stays():
    import pe

    made = pe.append(stub(symbols=b"symbols"), [(".linux", b"kernel" * 100), (".initrd", b"ram")])
    image = pe_format.parse(memoryview(made))
    found = {s.name: bytes(image.content(s)) for s in image.sections}
    assert found[".linux"].startswith(b"kernel" * 100)
    assert found[".initrd"][:3] == b"ram"
    assert b"symbols" not in made
    assert struct.unpack_from("<III", made, 0x80 + 8) == (0, 0, 0)  # time, symbol table, number of symbols
    assert struct.unpack_from("<I", made, 0x80 + 24 + 64) == (0,)  # CheckSum
    assert made == pe.append(stub(symbols=b"other"), [(".linux", b"kernel" * 100), (".initrd", b"ram")])


def test_a_stub_without_room_for_headers_is_refused():
    import pe

    with pytest.raises(SystemExit, match="no room for 20 more sections"):
        pe.append(stub(), [(f".x{n}", b"y") for n in range(20)])


def test_an_eif_reads_back_and_has_no_time_in_it(tmp_path):
    import eif

    spec = {"name": "image", "version": "1"}
    said = json.loads(eif.metadata(spec, "6.12"))
    assert said["BuildMetadata"]["BuildTime"] == "1970-01-01T00:00:01Z"
    made = eif.image([(1, b"kernel"), (2, b"console=ttyS0"), (5, eif.metadata(spec, "6.12")), (3, b"ram")])
    image = eif_format.parse(memoryview(made))
    assert [bytes(s.data) for s in image.sections][:2] == [b"kernel", b"console=ttyS0"]
    assert [s.kind.name.lower() for s in image.sections] == ["kernel", "cmdline", "metadata", "ramdisk"]


def test_an_oci_layout_reads_back(tmp_path):
    import contents
    import oci

    tree = tmp_path / "tree/usr/bin"
    tree.mkdir(parents=True)
    (tree / "tool").write_bytes(b"program")
    records = [contents.file_record("usr/bin/tool", b"program", FILE, "p")]
    project = {
        "ref": "p",
        "kind": "project",
        "name": "p",
        "version": "1",
        "purl": "p",
        "licence": "MIT",
        "seed": "",
    }
    contents.write(tmp_path / "list", "oci", records, [project | {"sha256": "0" * 64}])
    spec = {"name": "image", "version": "1"}
    oci.main(spec, tmp_path / "list", tmp_path / "oci.tar", tmp_path / "contents", [tmp_path / "tree"])
    layout = oci_format.read(memoryview((tmp_path / "oci.tar").read_bytes()), "oci")
    assert [entry.path for entry in oci_format.entries(layout, "oci") if not entry.is_directory] == [
        "usr/bin/tool"
    ]
    listed = {f["path"] for f in json.loads((tmp_path / "contents").read_bytes())["files"]}
    assert {"usr/bin/tool", "index.json", "oci-layout"} <= listed


def test_byte_code_does_not_depend_on_what_else_is_in_the_process():
    """Marshal's newer versions write which strings are shared, and keeping one alive changes that."""
    import guest

    source = b"def some_function(argument_name):\n    return {'key_of_a_dict': argument_name}\n"

    def made() -> bytes:
        root = guest.Root()
        root.module("m.py", source, "x")
        return root.files["m.pyc"][1]

    before = made()
    kept = [sys.intern(word) for word in ("some_function", "argument_name", "key_of_a_dict")]
    kept.append(compile(source, "/m.py", "exec", optimize=2))
    assert made() == before


def test_two_components_can_not_claim_one_path():
    import guest

    root = guest.Root()
    root.file("usr/bin/x", b"one", "a")
    root.file("usr/bin/x", b"one", "a")
    with pytest.raises(SystemExit, match="usr/bin/x: both a and b bring it"):
        root.file("usr/bin/x", b"two", "b")


def test_a_path_in_two_trees_is_refused(tmp_path):
    import contents
    import merge

    for name in ("a", "b"):
        contents.write(tmp_path / name, name, [contents.file_record("init", name.encode(), FILE, "")], [])
    with pytest.raises(SystemExit, match="in two trees: init"):
        merge.main("initramfs", tmp_path / "out", [tmp_path / "a", tmp_path / "b"])


def test_a_package_can_not_write_outside_its_tree(tmp_path):
    import zipfile

    import unpack

    with zipfile.ZipFile(tmp_path / "evil.whl", "w") as wheel:
        wheel.writestr("../../escaped", "x")
    (tmp_path / "a/b").mkdir(parents=True)
    with pytest.raises(SystemExit, match="leaves the tree"):
        unpack.main(tmp_path / "evil.whl", tmp_path / "a/b/out", ["*"])
    assert not (tmp_path / "a/escaped").exists()


def test_a_package_whose_layout_changed_is_noticed(tmp_path):
    import zipfile

    import unpack

    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr("x.py", "")
    with pytest.raises(SystemExit, match="no file matches lib/"):
        unpack.main(tmp_path / "x.whl", tmp_path / "out", ["lib/*"])


def test_both_nar_hashes_agree(tmp_path):
    import nar

    (tmp_path / "t/sub").mkdir(parents=True)
    (tmp_path / "t/run").write_bytes(b"#!")
    (tmp_path / "t/run").chmod(0o755)
    (tmp_path / "t/sub/link").symlink_to("../run")
    (tmp_path / "t/Z").write_bytes(b"")
    assert our_nar.digest(tmp_path / "t").hex == nar.sha256(tmp_path / "t")
    # The NAR of an empty file, written out by hand from the definition.
    words = [b"nix-archive-1", b"(", b"type", b"regular", b"contents", b"", b")"]
    text = b"".join(len(w).to_bytes(8, "little") + w + bytes(-len(w) % 8) for w in words)
    import hashlib

    assert our_nar.digest(tmp_path / "t/Z").hex == hashlib.sha256(text).hexdigest()


def test_imports_inside_functions_are_found():
    import imports

    source = "import a.b\ndef f():\n    from .c import d\n    class X:\n        from .. import e\n"
    code = compile(source, "m.py", "exec")
    assert sorted(imports.names_imported(code, "pack.age")) == ["a.b", "pack", "pack.age.c"]
