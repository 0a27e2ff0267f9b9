"""What programs and trees say that they were made from: Go, cargo-auditable, npm."""

from __future__ import annotations

import json
import struct
import zlib
from contextlib import suppress

import pytest
from formats.elfs import with_sections
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import cargo_auditable, elf, gobuildinfo, npm
from tallystick.formats.cargo_auditable import Crate
from tallystick.formats.gobuildinfo import Module

TEXT = (
    "path\texample.org/tool\nmod\texample.org/tool\t(devel)\t\n"
    "dep\tgolang.org/x/text\tv0.38.0\th1:abc=\n"
    "dep\texample.org/old\tv1.0.0\n=>\texample.org/new\tv1.2.0\th1:new=\n"
    "build\tGOOS=linux\n"
)


def varint(size: int) -> bytes:
    out = b""
    while size >= 0x80:
        out += bytes([size & 0x7F | 0x80])
        size >>= 7
    return out + bytes([size])


def buildinfo(
    text: str = TEXT, *, version: str = "go1.26.8", flags: int = 2, size: int | None = None
) -> bytes:
    body = bytes(16) + text.encode() + bytes(16) if text else b""
    head = b"\xff Go buildinf:" + bytes([8, flags]) + bytes(16)
    return head + varint(len(version)) + version.encode() + varint(len(body) if size is None else size) + body


GO = with_sections({".go.buildinfo": buildinfo()})
LIST = {
    "packages": [
        {"name": "tool", "version": "0.1.0", "source": "local", "dependencies": [1], "root": True},
        {"name": "libc", "version": "0.2.1", "source": "crates.io"},
        {"name": "cc", "version": "1.0.0", "source": "crates.io", "kind": "build"},
    ]
}


def auditable(document: object) -> bytes:
    return with_sections({cargo_auditable.SECTION: zlib.compress(json.dumps(document).encode())})


RUST = auditable(LIST)


def test_sections_are_found_by_name_and_their_absence_is_no_error():
    data = with_sections({".a": b"one", ".b": b"two"})
    assert bytes(elf.section(data, ".b") or b"") == b"two"
    assert elf.section(data, ".c") is None
    assert elf.parse(data).needed == ()


@pytest.mark.parametrize(
    ("at", "form", "value", "said"),
    [
        (60, "<H", 65535, "section headers: want 64-byte entries"),
        (58, "<H", 40, "section headers: want 64-byte entries"),
        (62, "<H", 9, "section headers: want 64-byte entries"),
        (40, "<Q", 1 << 40, "sh_name"),
    ],
)
def test_section_tables_that_lie_are_refused(at, form, value, said):
    data = bytearray(GO)
    struct.pack_into(form, data, at, value)
    with pytest.raises(Malformed) as caught:
        elf.section(bytes(data), ".x")
    assert said in str(caught.value)


def test_a_go_program_names_its_modules_after_replacement():
    found = gobuildinfo.find(GO)
    assert found is not None
    assert found.go == "go1.26.8"
    assert found.main == Module(path="example.org/tool", version="(devel)", sum="")
    assert found.modules == (
        Module(path="golang.org/x/text", version="v0.38.0", sum="h1:abc="),
        Module(path="example.org/new", version="v1.2.0", sum="h1:new="),
    )


def test_a_program_without_modules_and_one_that_is_not_go():
    bare = gobuildinfo.find(with_sections({".go.buildinfo": buildinfo("")}))
    assert bare is not None
    assert (bare.main, bare.modules) == (None, ())
    assert gobuildinfo.find(RUST) is None
    assert gobuildinfo.find(with_sections({".go.buildinfo": b"something else"})) is None


@pytest.mark.parametrize(
    ("info", "error", "said"),
    [
        (buildinfo(flags=0), Unsupported, "want the inline format of Go 1.18"),
        (buildinfo()[:20], Malformed, "header: want 32 bytes"),
        (buildinfo(size=1 << 30), Malformed, "modules: want"),
        (buildinfo()[:32] + b"\xff" * 9, Malformed, "version length: want a varint"),
        (buildinfo()[:41] + varint(20) + bytes(20), Malformed, "want a text between two sentinels"),
        (buildinfo("dep\tonly\n"), Malformed, "line dep: want a path"),
        (buildinfo().replace(b"go1.26.8", b"go1.26.\xff"), Malformed, "byte 7: want UTF-8"),
    ],
)
def test_build_information_that_does_not_hold_is_refused(info, error, said):
    data = with_sections({".go.buildinfo": info})
    with pytest.raises(error) as caught:
        gobuildinfo.find(data)
    assert said in str(caught.value)


def test_a_rust_program_names_its_crates_without_those_that_only_built_it():
    assert cargo_auditable.find(RUST) == (
        Crate(name="tool", version="0.1.0", source="local", root=True),
        Crate(name="libc", version="0.2.1", source="crates.io", root=False),
    )
    assert cargo_auditable.find(GO) == ()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (with_sections({".dep-v0": b"plain"}), "want zlib data"),
        (with_sections({".dep-v0": zlib.compress(b'{"packages": []}')[:-3]}), "data that breaks off"),
        (with_sections({".dep-v0": zlib.compress(bytes(9 << 20))}), "want at most 8388608 bytes, got more"),
        (auditable([]), "packages: want a list"),
        (auditable({"packages": [{"name": "a"}]}), "packages[0]: want name, version and source"),
    ],
)
def test_lists_of_crates_that_do_not_hold_are_refused(data, said):
    with pytest.raises(Malformed) as caught:
        cargo_auditable.find(data)
    assert said in str(caught.value)


def test_an_installed_package_names_itself_and_inner_files_need_not():
    data = json.dumps({"name": "@scope/a", "version": "1.2.3", "license": "MIT"}).encode()
    assert npm.installed(data) == npm.Package(name="@scope/a", version="1.2.3", licence="MIT", integrity="")
    assert npm.installed(b'{"type": "module"}') is None
    with pytest.raises(Malformed, match="want an object"):
        npm.installed(b"[]")


@pytest.mark.parametrize("version", [2, 3])
def test_a_lock_file_lists_what_is_installed_and_not_what_only_developers_use(version):
    document = {
        "lockfileVersion": version,
        "packages": {
            "": {"name": "project", "version": "1.0.0"},
            "node_modules/a": {"version": "1.0.0", "integrity": "sha512-x", "license": "MIT"},
            "node_modules/a/node_modules/@s/b": {"version": "2.0.0"},
            "node_modules/alias": {"name": "real", "version": "3.0.0"},
            "node_modules/dev": {"version": "1.0.0", "dev": True},
            "node_modules/linked": {"link": True, "resolved": "folder"},
        },
    }
    assert [(one.name, one.version) for one in npm.locked(json.dumps(document).encode())] == [
        ("a", "1.0.0"),
        ("@s/b", "2.0.0"),
        ("real", "3.0.0"),
    ]


def test_the_first_lock_format_nests():
    document = {
        "lockfileVersion": 1,
        "dependencies": {"a": {"version": "1.0.0", "dependencies": {"b": {"version": "2.0.0"}}}},
    }
    assert [one.name for one in npm.locked(json.dumps(document).encode())] == ["a", "b"]


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"lockfileVersion": 9}, Unsupported),
        ([], Unsupported),
        ({"lockfileVersion": 3, "packages": []}, Malformed),
        ({"lockfileVersion": 3, "packages": {"node_modules/a": {}}}, Malformed),
        ({"lockfileVersion": 1, "dependencies": {"a": []}}, Malformed),
    ],
)
def test_lock_files_that_do_not_hold_are_refused(document, error):
    with pytest.raises(error, match=r"package-lock\.json"):
        npm.locked(json.dumps(document).encode())


@given(st.sampled_from([GO, RUST]), st.integers(0, len(GO) - 1), st.binary(min_size=1, max_size=16))
def test_damaged_programs_never_crash_the_readers(good, at, put):
    nearly = bytearray(good)
    nearly[at : at + len(put)] = put
    for case in (bytes(nearly), good[:at], b"\x7fELF" + put):
        for find in (gobuildinfo.find, cargo_auditable.find):
            with suppress(Malformed, Unsupported):
                find(case)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["packages", "dependencies", "lockfileVersion", "version", "name", "link", "a"]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_any_json_is_a_lock_file_or_refused(document):
    data = json.dumps(document).encode()
    for read in (npm.locked, npm.installed):
        with suppress(Malformed, Unsupported):
            read(data)
