"""Which version is older, as dpkg, PEP 440 and Semantic Versioning say it."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.formats import versions


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.0~rc1-1", "1.0-1"),
        ("1.0-1", "1.0-1+b1"),
        ("1.0-9", "1.0-10"),
        ("9.9-1", "1:0.1-1"),
        ("1.0~~", "1.0~"),
        ("1.0a", "1.0+"),
        ("2.36-9+deb12u9", "2.36-9+deb12u14"),
        ("252.39-1~deb12u2", "252.39-1"),
        ("1.2.13.dfsg-1", "1.2.13.dfsg2-1"),
    ],
)
def test_version_order(older, newer):
    assert versions.debian(older, newer) < 0 < versions.debian(newer, older)
    assert versions.debian(older, older) == 0


VERSIONS = st.from_regex(r"([0-9]:)?[0-9][0-9a-z.+~]{0,6}(-[0-9a-z+~]{1,4})?", fullmatch=True)


@pytest.mark.skipif(not shutil.which("dpkg"), reason="the second opinion is dpkg's")
@given(VERSIONS, VERSIONS)
@settings(max_examples=60, deadline=None)
def test_versions_compare_as_dpkg_compares_them(first, second):
    difference = versions.debian(first, second)
    relation = "lt" if difference < 0 else "gt" if difference > 0 else "eq"
    assert (
        subprocess.run(["dpkg", "--compare-versions", first, relation, second], check=False).returncode == 0
    )


@pytest.mark.parametrize(
    ("ecosystem", "ordered"),
    [
        ("PyPI", ["1.0.dev1", "1.0a1", "1.0rc1", "1.0", "1.0.post1", "1.1", "1.10", "2!0.1"]),
        ("Go", ["v0.0.0-20230101000000-abcdef123456", "v0.1.0", "1.21rc2", "1.21.0", "1.21.1", "v1.22.0"]),
        (
            "npm",
            ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0"],
        ),
        ("crates.io", ["0.9.9", "0.10.0", "1.0.0-rc.1", "1.0.0"]),
        ("Debian:12", ["1.0~rc1-1", "1.0-1", "1.0-1+b1", "1:0.1-1"]),
    ],
)
def test_each_ecosystem_has_its_own_order(ecosystem, ordered):
    backwards = ordered[::-1]
    assert sorted(backwards, key=lambda one: versions.key(ecosystem, one)) == ordered


def test_what_differs_only_in_build_metadata_or_zeros_is_as_old():
    assert versions.key("npm", "1.0.0+a") == versions.key("npm", "v1.0.0+b")
    assert versions.key("PyPI", "1.0") == versions.key("PyPI", "1.0.0")
    assert versions.key("Go", "1.21") == versions.key("Go", "1.21.0")


@pytest.mark.parametrize(
    ("ecosystem", "version"),
    [
        ("PyPI", "x"),
        ("npm", "1.2.3.4"),
        ("Go", "(devel)"),
        ("Debian", "1 2"),
        ("Hex", "1.0"),
        ("npm", "1" * 5000),
    ],
)
def test_what_breaks_its_rule_has_no_place(ecosystem, version):
    assert versions.key(ecosystem, version) is None


@given(
    st.sampled_from(["PyPI", "Go", "Debian:12"]),
    st.lists(st.text(alphabet="0123456789.~+-abrcdev:", max_size=12), min_size=3, max_size=3),
)
def test_an_order_is_total_and_transitive(ecosystem, texts):
    keys = [found for text in texts if (found := versions.key(ecosystem, text)) is not None]
    for one in keys:
        for other in keys:
            assert (one < other) + (other < one) + (one == other) == 1
            for third in keys:
                assert not (one < other and other < third) or one < third
