"""Debian's version order, index stanzas and packages."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_deb import deb

from tallystick.build import debian, package
from tallystick.core.errors import Malformed, Unsupported

STANZA = """Package: zlib1g
Source: zlib
Version: 1:1.2.13.dfsg-1
Architecture: amd64
Depends: libc6 (>= 2.14), a | b, c:any
Filename: pool/main/z/zlib/zlib1g_1.2.13.dfsg-1_amd64.deb
Size: 86684
SHA256: d7dd1d1411fedf27f5e27650a6eff20ef294077b568f4c8c5e51466dc7c08ce4
"""


def test_a_stanza_becomes_a_seed():
    (found,) = debian.packages(f"{STANZA}\nPackage: other\nVersion: 1\n", frozenset(["zlib1g"]), "index")
    assert found.depends == ("libc6", "a", "c")
    seed = debian.seed(found, suite="bookworm", licence="Zlib")
    assert seed.purl == "pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1?arch=amd64&distro=bookworm"
    assert seed.file == "zlib1g_1.2.13.dfsg-1_amd64.deb"


def test_a_file_name_that_nix_does_not_take_is_changed():
    text = STANZA.replace("zlib1g_1.2.13.dfsg-1_amd64", "zlib1g_1.2~rc%3a_amd64")
    (found,) = debian.packages(text, frozenset(["zlib1g"]), "index")
    assert debian.seed(found, suite="s", licence="Zlib").file == "zlib1g_1.2-rc-3a_amd64.deb"


@pytest.mark.parametrize("field", ["Version", "Architecture", "Filename", "Size", "SHA256"])
def test_a_stanza_without_a_field_is_refused(field):
    text = "\n".join(line for line in STANZA.split("\n") if not line.startswith(field))
    with pytest.raises(Malformed, match=f"want {field}, got no such field"):
        list(debian.packages(text, frozenset(["zlib1g"]), "index"))


def test_the_newest_of_several_is_chosen():
    texts = [STANZA.replace("1:1.2.13.dfsg-1\n", f"{v}\n") for v in ("1.9-1", "1.10-1", "1.10~rc1-1")]
    found = list(debian.packages("\n".join(texts), frozenset(["zlib1g"]), "index"))
    assert debian.newest(found).version == "1.10-1"


def test_a_file_comes_out_of_a_package():
    assert package.member(deb({"bin/a": b"first", "bin/b": b"second"}), "bin/b") == b"second"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\x03\x04", "first bytes: want an ar archive"),
        (deb({"bin/a": b"x"}), "want the file bin/b, got no such file"),
        (deb({"bin/b": b"x"}, data_name="data.bin"), "members: want data.tar"),
        (deb({"bin/b": b"x" * 9000})[:230], "want a tar archive"),
    ],
)
def test_broken_packages_are_refused(data, words):
    with pytest.raises(Malformed, match=words):
        package.member(data, "bin/b")


GOOD = deb({"bin/b": bytes(range(200))})


@given(st.data())
def test_damaged_packages_give_the_file_or_an_error_of_ours(data):
    at = data.draw(st.integers(0, len(GOOD) - 1))
    damaged = GOOD[:at] + data.draw(st.binary(max_size=6)) + GOOD[at + data.draw(st.integers(0, 6)) :]
    with suppress(Malformed, Unsupported):
        package.member(damaged, "bin/b")
