"""OSV records and OpenVEX statements, and which versions they are about."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, Unsupported
from tallystick.formats import advisories


def osv(*, ecosystem="Debian:12", versions=(), events=None, **more):
    affected = {"package": {"ecosystem": ecosystem, "name": "libc6"}, "versions": list(versions)}
    if events:
        affected["ranges"] = [{"type": "ECOSYSTEM", "events": events}]
    return {"id": "DSA-1", "aliases": ["CVE-1"], "affected": [affected]} | more


def parsed(document):
    return advisories.parse(json.dumps(document).encode())


FIXED = [{"introduced": "0"}, {"fixed": "2.36-9+deb12u10"}]
TWICE = [{"introduced": "1.0"}, {"fixed": "1.2"}, {"introduced": "2.0"}, {"last_affected": "2.1"}]


@pytest.mark.parametrize(
    ("record", "version", "affected"),
    [
        (osv(events=FIXED), "2.36-9+deb12u9", True),
        (osv(events=FIXED), "2.36-9+deb12u10", False),
        (osv(events=FIXED), "1:0.1", False),
        (osv(events=FIXED), "2.36-9~bpo", True),
        (osv(versions=["2.36"]), "2.36", True),
        (osv(versions=["2.36"]), "2.37", False),
        (osv(), "anything", True),
        (osv(ecosystem="PyPI", events=TWICE), "0.9", False),
        (osv(ecosystem="PyPI", events=TWICE), "1.0", True),
        (osv(ecosystem="PyPI", events=TWICE), "1.2rc1", True),
        (osv(ecosystem="PyPI", events=TWICE), "not a version", True),
        (osv(ecosystem="PyPI", events=list(reversed(TWICE))), "1.5", False),
        (osv(ecosystem="PyPI", events=list(reversed(TWICE))), "2.0.1", True),
        (osv(ecosystem="Go", events=[{"introduced": "0"}, {"fixed": "1.24.3"}]), "1.24.2", True),
        (osv(ecosystem="Go", events=[{"introduced": "0"}, {"fixed": "1.24.3"}]), "1.24.3", False),
        (osv(ecosystem="Go", events=[{"introduced": "0"}, {"fixed": "0.38.0"}]), "v0.38.0", False),
        (osv(ecosystem="npm", events=[{"introduced": "1.0.0-beta.2"}]), "1.0.0-beta.11", True),
        (osv(ecosystem="npm", events=[{"introduced": "1.0.0-beta.2"}]), "1.0.0-alpha", False),
        (osv(ecosystem="crates.io", events=[{"introduced": "0"}, {"last_affected": "1.2.3"}]), "1.2.3", True),
        (
            osv(ecosystem="crates.io", events=[{"introduced": "0"}, {"last_affected": "1.2.3"}]),
            "1.2.4",
            False,
        ),
        (osv(ecosystem="Hex", events=FIXED), "9", True),
        (osv(events=[{"introduced": "0"}, {"fixed": "???"}]), "9", True),
        (osv(events=[{"introduced": "0"}, {"limit": "2"}]), "2", False),
        (osv(events=[{"introduced": "0"}, {"limit": "*"}]), "2", True),
        (osv(ecosystem="PyPI", events=TWICE), "1.2", False),
        (osv(ecosystem="PyPI", events=TWICE), "1.10", False),
        (osv(ecosystem="PyPI", events=TWICE), "2.1", True),
        (osv(ecosystem="PyPI", events=TWICE), "2.1.1", False),
        (osv(events=[{"introduced": "3"}]), "2", False),
        (osv(events=[{"introduced": "3"}]), "3", True),
    ],
)
def test_which_versions_a_record_is_about(record, version, affected):
    (advisory,) = parsed(record).advisories
    assert (advisory.called("CVE-1"), advisory.called("CVE-2")) == (True, False)
    assert advisories.holds(advisory.affected[0], version) is affected


def test_lists_answers_and_withdrawn_records():
    assert len(parsed([osv(), osv()]).advisories) == 2
    assert len(parsed({"vulns": [osv(), osv(withdrawn="2026-01-01T00:00:00Z")]}).advisories) == 1


def vex(**changed):
    statement = {
        "vulnerability": {"name": "CVE-1"},
        "products": [{"@id": "pkg:deb/debian/libc6"}],
        "status": "fixed",
    }
    return {"@context": "https://openvex.dev/ns/v0.2.0", "statements": [statement | changed]}


def test_openvex_statements():
    (verdict,) = parsed(vex()).verdicts
    assert (verdict.names, verdict.products, verdict.status) == (
        ("CVE-1",),
        ("pkg:deb/debian/libc6",),
        "fixed",
    )


@pytest.mark.parametrize(
    "changed", [{"status": "fine"}, {"products": []}, {"vulnerability": "CVE-1"}, {"products": [1]}]
)
def test_statements_of_another_form_are_malformed(changed):
    with pytest.raises(Malformed):
        parsed(vex(**changed))


@pytest.mark.parametrize("document", ["x", {}, [{"x": 1}], {"bomFormat": "CycloneDX"}, 1])
def test_other_documents_are_unsupported(document):
    with pytest.raises(Unsupported):
        parsed(document)


@pytest.mark.parametrize(
    "affected",
    [
        1,
        [1],
        [{}],
        [{"package": {"ecosystem": 1, "name": "x"}}],
        [{"package": {"ecosystem": "x", "name": "x"}, "ranges": [{}]}],
    ],
)
def test_records_of_another_form_are_malformed(affected):
    with pytest.raises(Malformed):
        parsed({"id": "X-1", "affected": affected})


def test_purls_without_versions():
    assert advisories.plain_purl("pkg:deb/debian/a@1:2?arch=x#y") == "pkg:deb/debian/a"
    assert advisories.plain_purl("pkg:npm/@scope/a@1") == "pkg:npm/@scope/a"


NAMES = ["id", "affected", "package", "ranges", "events", "type", "versions", "statements", "status"]
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(NAMES), v, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_whatever_is_read_is_read_or_refused(document):
    for one in (
        document,
        {"id": "X", "affected": document},
        vex(products=document),
        vex(vulnerability=document),
    ):
        with suppress(Malformed, Unsupported):
            parsed(one)
