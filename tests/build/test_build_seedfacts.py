"""What packages and wheels say of themselves is read out of their own bytes."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_deb import deb

from tallystick.build import seedfacts
from tallystick.build.seedfacts import Party
from tallystick.core.digests import Algorithm, Digest
from tallystick.core.errors import Malformed

CONTROL = b"""Package: busybox-static
Source: busybox (1:1.35.0-4)
Version: 1:1.35.0-4+b1
Built-Using: glibc (= 2.36-9+deb12u14), linux (= 6.1)
Maintainer: Debian Install System Team <debian-boot@lists.debian.org>
Homepage: http://www.busybox.net
Description: Standalone rescue shell
 With several lines.
"""
METADATA = b"""Metadata-Version: 2.1
Name: tool
Version: 1.0
Author-email: The Tool developers <tool@example.org>
Project-URL: Documentation, https://docs.example.org
Project-URL: Homepage, https://tool.example.org

Text.
"""


def wheel(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


WHEEL = wheel(
    {
        "tool/a.py": b"",
        "tool-1.0.dist-info/METADATA": METADATA,
        "tool-1.0.dist-info/sboms/a.json": b"{}",
        "tool-1.0.dist-info/sboms/deeper/b.json": b"{}",
    }
)
DEB = deb({}, control=CONTROL)


def test_a_debian_package_names_maintainer_homepage_and_every_source_that_is_in_it():
    assert seedfacts.read("a.deb", DEB) == seedfacts.SeedFacts(
        sha512=Digest.of(DEB, Algorithm.SHA512),
        maker=Party(name="Debian Install System Team", email="debian-boot@lists.debian.org", url=""),
        homepage="http://www.busybox.net",
        sources=(("busybox", "1:1.35.0-4"), ("glibc", "2.36-9+deb12u14"), ("linux", "6.1")),
    )


def test_a_source_of_the_package_s_own_name_and_version_need_not_be_written():
    plain = deb({}, control=b"Package: zlib\nVersion: 1:1.2-1\n")
    assert seedfacts.read("a.deb", plain).sources == (("zlib", "1:1.2-1"),)
    named = deb({}, control=b"Package: libc6\nSource: glibc\nVersion: 2.36-9\n")
    assert seedfacts.read("a.deb", named).sources == (("glibc", "2.36-9"),)


def test_a_wheel_names_its_author_homepage_and_the_sboms_that_it_brings_along():
    found = seedfacts.read("tool-1.0.whl", WHEEL)
    assert found.maker == Party(name="The Tool developers", email="tool@example.org", url="")
    assert found.homepage == "https://tool.example.org"
    assert found.sboms == (("tool-1.0.dist-info/sboms/a.json", b"{}"),)


def test_an_author_without_an_address_is_reached_through_the_homepage():
    metadata = b"Name: a\nAuthor: Somebody\nHome-page: https://a.example\n"
    found = seedfacts.read("a.whl", wheel({"a-1.dist-info/METADATA": metadata}))
    assert found.maker == Party(name="Somebody", email="", url="https://a.example")
    nobody = seedfacts.read("a.whl", wheel({"a-1.dist-info/METADATA": b"Name: a\n"}))
    assert (nobody.maker, nobody.homepage) == (None, "")


def test_of_other_files_only_the_hash_is_said():
    found = seedfacts.read("ovmf.fd", b"firmware")
    assert found == seedfacts.SeedFacts(
        sha512=Digest.of(b"firmware", Algorithm.SHA512), maker=None, homepage="", sources=()
    )


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.deb", b"none", "want an ar archive"),
        ("a.deb", deb({}), "control archive: want a tar archive"),
        ("a.deb", deb({}, control=b"Package: a\nPackage: b\n"), "want fields, each once"),
        ("a.deb", deb({}, control=b"no field\n"), "want fields, each once"),
        ("a.deb", deb({}, control=CONTROL).replace(b"YZ", b"YY", 1), "control archive: want"),
        ("a.whl", b"none", "want a zip archive"),
        ("a.whl", wheel({"a.py": b""}), "METADATA: want one, got 0"),
        ("a.whl", wheel({"a.dist-info/METADATA": b"", "b.dist-info/METADATA": b""}), "got 2"),
    ],
)
def test_what_is_no_package_is_refused_by_name(name, data, said):
    with pytest.raises(Malformed) as caught:
        seedfacts.read(name, data)
    assert said in str(caught.value)


def test_a_member_that_unpacks_to_too_much_is_not_unpacked():
    bomb = wheel({"a-1.dist-info/METADATA": bytes(33 << 20)})
    assert len(bomb) < 1 << 16
    with pytest.raises(Malformed, match="want at most 33554432 bytes"):
        seedfacts.read("a.whl", bomb)


def test_a_control_archive_that_unpacks_to_too_much_is_not_unpacked():
    bomb = deb({}, control=bytes(70 << 20))
    assert len(bomb) < 1 << 16
    with pytest.raises(Malformed, match="want at most 67108864 bytes"):
        seedfacts.read("a.deb", bomb)


@given(st.binary(max_size=200), st.integers(0, 400), st.sampled_from([".deb", ".whl"]))
def test_damaged_packages_never_crash_the_reader(put, at, kind):
    good = DEB if kind == ".deb" else WHEEL
    for data in (put, good[:at], good[:at] + put + good[at + len(put) :]):
        with suppress(Malformed):
            seedfacts.read(f"a{kind}", data)
